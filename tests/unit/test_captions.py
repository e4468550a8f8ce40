"""Captions and notes: each number that they state, worked out by hand."""

import re

import numpy as np
import pandas as pd
import pytest
from helpers import PAPERS_RECIPE

from smallbatch.analysis.words import (
    counted,
    experiment_labels,
    format_duration,
    listed,
    model_words,
    progress,
    rate_symbol,
    rate_words,
    seed_words,
    setting_words,
    sources,
)
from smallbatch.figures.captions import caption, note

NOTHING = pd.DataFrame(columns=["run", "epoch", "batch_size", "trace", "draws"])
PLAIN = {
    "experiment": "plain", "data": "digits", "classes": 10, "train_images": 1437, "model": "resnet8", "norm": "batch",
    "norm_layers": "all", "epochs": 20, **PAPERS_RECIPE, "augment": "none", "momentum": 0.0, "momentum_scaled": False,
    "lr_scaling": "linear", "precision": "float32", "selection": "test", "status": "finished", "bar": 0.8,
    "accuracy": 0.9, "selection_accuracy": 0.9, "batch_size": 8, "bn_batch_size": 8, "base_lr": 2**-8, "seed": 1,
    "converged": False, "device": "Some CPU",
}  # fmt: skip


def table(*changed: dict) -> pd.DataFrame:
    """Runs that differ from a plain one; each has a name of its own unless it says whose it has."""
    rows = [PLAIN | {"run": f"run{place}"} | one for place, one in enumerate(changed)]
    return pd.DataFrame(rows)


def said(kind: str, runs: pd.DataFrame, name: str = "mine", variance: pd.DataFrame = NOTHING) -> str:
    return caption(name, {"kind": kind}, runs, variance)


SEEDS = table({"seed": 1}, {"seed": 2, "status": "diverged", "accuracy": 0.1}, {"seed": 3, "status": "missing"})


TWO = table({"seed": 1}, {"seed": 2, "status": "diverged", "accuracy": 0.1, "selection_accuracy": 0.1})
DRAWS = pd.DataFrame({"run": "run0", "epoch": 0, "batch_size": [2, 8], "trace": 1.0, "draws": [256, 32]})
SETTING = " ResNet-8, BN, on digits (1,437 training images), 20 epochs."
MEDIAN = " Accuracy is the median over the last 5 epochs."
CHOSEN = " The rate is chosen on the test set, as in the paper."
BAND, LINE = (f"; {what}: its 95 % interval, over seeds and test images." for what in ("band", "band or vertical line"))
CHANCE = " 1 of 2 runs diverged and count at chance level."
DOTTED = " Dotted: from here on a run has converged."
LUCK = ", less what the best of several rates owes to luck"


CAPTIONS = {
    "accuracy": (
        f"Test accuracy over the base learning rate η/m, a line for each batch size m. Dashed: chance.{DOTTED}{SETTING}"
        f"{MEDIAN} Line: mean of 2 seeds{LINE}{CHANCE} Drawn in the manner of Figure 1 of the paper."
    ),
    "convergence": (
        "Test accuracy after each epoch at base learning rate η/m = 2⁻⁸, a line for each batch size m. Dashed: "
        f"chance.{DOTTED}{SETTING} Line: mean of 2 seeds{BAND}{CHANCE} Drawn in the manner of Figure 4 of the paper."
    ),
    "bn-batch": (
        "Test accuracy over the batch size b of batch normalisation, a line for each SGD batch size m, at base "
        f"learning rate η/m = 2⁻⁸.{SETTING}{MEDIAN} Line: mean of 2 seeds{LINE}{CHANCE} Drawn in the manner of "
        "Figure 13 of the paper."
    ),
    "cost": (
        "Best test accuracy over all base learning rates η/m, training images/s and peak memory of the device against "
        "the batch size m, a line for each experiment; speed and memory are of all runs trained together, medians "
        f"over the runs of that m.{SETTING}{MEDIAN}{CHOSEN} Line: mean of 2 seeds{LUCK}{LINE}{CHANCE} The paper has no "
        "such figure."
    ),
    "best": (
        "Best test accuracy over all base learning rates η/m against the batch size m, a line for each experiment."
        f"{SETTING}{MEDIAN}{CHOSEN} Line: mean of 2 seeds{LUCK}{LINE}{CHANCE} Drawn in the manner of Figure 15 of the "
        "paper."
    ),
    "range": (
        "Base learning rates η/m at which training converged with every seed, for each batch size m and experiment; an "
        "empty place: no rate did. A missing run counts as not converged. Lighter: at which it converged with a part "
        f"of the seeds.{SETTING} 2 seeds a cell. 1 of 2 runs diverged. Drawn in the manner of Figure 16 of the paper."
    ),
}
VARIANCES = {
    "variance": (
        "Trace of the covariance of one weight update at fixed weights and base learning rate η/m = 2⁻⁸ against its "
        f"batch size, a line for each point of training; dashed: slope 1.{SETTING} Line: geometric mean of 2 seeds; in "
        "brackets the 95 % interval of the slope, over seeds (Student's t). 1 of 2 runs diverged. The paper has no "
        "such figure."
    ),
    "example-variance": (
        "Variance of the gradient of one example, summed over its components, over training at base learning rate η/m "
        "= 2⁻⁸, a line for each batch size m that is trained with; with batch normalisation it is m times that of the "
        f"mean gradient of m.{SETTING} Line: geometric mean of 2 seeds; band: its 95 % interval, over seeds (Student's "
        "t). 1 of 2 runs diverged. The paper has no such figure."
    ),
}


@pytest.mark.parametrize("kind", VARIANCES)
def test_a_caption_of_variances_word_for_word(kind):
    assert said(kind, TWO) == VARIANCES[kind]


@pytest.mark.parametrize("kind", CAPTIONS)
def test_a_caption_word_for_word(kind):
    assert said(kind, TWO) == said(kind, TWO, variance=DRAWS) == CAPTIONS[kind]


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        ([5, 6], MEDIAN),
        ([4, 5], " Accuracy is the median over the last 5 epochs, or over all where there are fewer."),
        ([1, 9], " Accuracy is the median over the last 5 epochs, or over all where there are fewer."),
        ([4, 4], " Accuracy is the median over all epochs."),
        ([1, 2], " Accuracy is the median over all epochs."),
        ([1, 1], " Accuracy is that at the end of training."),
    ],
)
def test_a_caption_says_which_tests_an_accuracy_is_of(epochs, words):
    """Trainings of as many updates begin fewer epochs the smaller their m."""
    short = table(*({"epochs": count, "steps": 100} for count in epochs))
    assert f", 100 updates.{words} " in said("accuracy", short)
    assert "Accuracy is" not in said("convergence", short) + said("range", short) + said("variance", short)


def test_a_caption_begins_with_a_capital_letter_but_not_a_model_s_name():
    for model, begins in (("alexnet", "Reduced AlexNet"), ("torchvision:vgg11", "torchvision:vgg11"), ("tiny", "tiny")):
        assert f" {begins}, BN" in said("variance", table({"model": model}))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("accuracy", "; bands, vertical lines: 95 % intervals; dashed: chance; dotted: converged above it"),
        ("convergence", "; η/m = 2⁻⁸; bands: 95 % intervals; dashed: chance; dotted: converged above it"),
        ("cost", "; bands, vertical lines: 95 % intervals; Some CPU"),
        ("range", "; empty: no rate; lighter: with a part of the seeds"),
        ("variance", "; η/m = 2⁻⁸; in brackets: 95 % intervals of means over seeds"),
        ("example-variance", "; η/m = 2⁻⁸; bands: 95 % intervals"),
    ],
)
def test_a_note_word_for_word(kind, words):
    setting = "digits, ResNet-8, BN, 20 epochs"
    assert note(kind, TWO) == f"{setting}, 2 seeds{words}"
    # One seed has no interval, and all that there is has trained, so that the axis begins above chance.
    one = "; ".join(part for part in words.split("; ") if not re.search("intervals|seeds|chance", part))
    assert note(kind, TWO[:1]) == f"{setting}, 1 seed{one}"
    gone = {"seed": 3, "status": "missing", "device": None}
    assert note(kind, pd.concat([TWO, table({}, {}, gone)[2:]])) == f"{setting}, 3 seeds{words}; 2 of 3 runs so far"


@pytest.mark.parametrize("kind", ["variance", "example-variance"])
def test_a_caption_of_variances_names_the_mini_batches_and_the_setting(kind):
    assert f". Each value is estimated from 32 or more mini-batches.{SETTING} " in said(kind, TWO, variance=DRAWS)
    assert f".{SETTING} " in said(kind, TWO) and "mini-batches." not in said(kind, TWO)
    assert said(kind, TWO).endswith(" The paper has no such figure.")


def test_one_seed_has_no_interval_and_two_experiments_no_setting_in_common():
    told = (
        f"{SETTING}{MEDIAN} 1 seed a cell, so no intervals: it does not tell how much another would differ. 0 of 1 run "
    )
    assert f"{told}diverged. Drawn" in said("accuracy", TWO[:1])
    assert f"{SETTING} 1 seed a cell. 0 of 1 run diverged." in said("variance", TWO[:1])
    assert f"value. On{SETTING.partition('on')[2]}" in said("best", table({}, {"experiment": "b"}))


def test_diverged_and_missing_runs_are_counted_once_where_experiments_share_them():
    twice = pd.concat([SEEDS, SEEDS.assign(experiment="twin")])
    for runs in (SEEDS, twice):
        assert "1 of 2 runs diverged and count at chance level. Drawn from 2 of 3 runs so far." in said("best", runs)
        assert "1 of 2 runs diverged. Drawn from 2 of 3 runs so far." in said("range", runs)
        assert "2 of 3 runs so far" in note("best", runs)
    whole = said("best", table({"seed": 1}))
    assert "0 of 1 run diverged. " in whole and "so far" not in whole + note("best", table({}))


def test_images_epochs_and_seeds_are_those_of_the_runs():
    one = said("accuracy", SEEDS)
    assert "ResNet-8, BN, on digits (1,437 training images), 20 epochs." in one
    assert "Line: mean of 3 seeds" in one and "3 seeds a cell." in said("range", SEEDS)
    assert "1 seed a cell, so no intervals: it does not tell how much another would differ." in said(
        "accuracy", table({})
    )
    assert "1 seed a cell." in said("range", table({}))
    several = table(
        {},
        {"experiment": "long", "epochs": 164},
        {"experiment": "short", "epochs": 41},
        {"experiment": "other", "data": "cifar10", "train_images": 50000, "epochs": 82, "seed": 2},
        {"experiment": "other", "data": "cifar10", "train_images": 50000, "epochs": 82, "seed": 3},
    )
    assert (
        "On digits (1,437 training images), 20, 41, 164 epochs; cifar10 (50,000 training images), 82 epochs."
        in said("best", several)
    )
    assert "Line: mean of 1 or 2 seeds" in said("best", several)
    assert note("best", several).startswith("digits (20, 41, 164 epochs), cifar10 (82 epochs), 1 or 2 seeds")
    assert note("best", SEEDS).startswith("digits, ResNet-8, BN, 20 epochs, 3 seeds")


def test_one_epoch_is_no_epochs():
    one, two = {"experiment": "one", "epochs": 1}, {"experiment": "two", "epochs": 2}
    assert note("best", table(one)).startswith("digits, ResNet-8, BN, 1 epoch, 1 seed")
    assert note("best", table(one, two)).startswith("digits (1, 2 epochs), 1 seed")
    assert "on digits (1,437 training images), 1 epoch." in caption("fig15", {"kind": "best"}, table(one), NOTHING)
    assert list(experiment_labels(table(one, two)).values()) == ["ResNet-8, BN, 1 epoch", "ResNet-8, BN, 2 epochs"]


def test_what_is_reported_is_the_median_of_the_last_five_epochs():
    words = "Accuracy is the median over the last 5 epochs."
    kinds = ("accuracy", "convergence", "bn-batch", "best", "range", "variance", "example-variance", "cost")
    assert [kind for kind in kinds if words in said(kind, SEEDS)] == ["accuracy", "bn-batch", "best", "cost"]


def test_rates_are_those_of_the_figure_and_where_each_m_has_its_own_the_best():
    assert "at base learning rate η/m = 2⁻⁸, a line for each batch size" in said("convergence", SEEDS)
    assert "learning rate η/m = 2⁻⁸, 2⁻⁶ against" in said("variance", table({}, {"base_lr": 2**-6}))
    later = table({"base_lr": 0.0, "status": "missing"})
    assert "learning rate η/m = one still to be chosen." in said("bn-batch", later)
    chosen = table(
        {"batch_size": 32, "base_lr": 2**-8},
        {"batch_size": 8, "base_lr": 2**-8},
        {"batch_size": 128, "base_lr": 2**-10},
        # A rate that is not the best for its m is not drawn.
        {"batch_size": 128, "base_lr": 2**-4, "accuracy": 0.5, "selection_accuracy": 0.5},
    )
    assert "learning rate η/m = 2⁻⁸ (m = 8, 32), 2⁻¹⁰ (m = 128)." in said("bn-batch", chosen)
    both = pd.concat([chosen, table({"experiment": "warm", "warmup": True, "batch_size": 8, "base_lr": 0.003})])
    assert "= ResNet-8, BN: 2⁻⁸ (m = 8, 32), 2⁻¹⁰ (m = 128); ResNet-8, BN, warm-up: 0.003 (m = 8)." in said(
        "bn-batch", both
    )
    same = table({"batch_size": 8}, {"batch_size": 32})
    assert "learning rate η/m = 2⁻⁸." in said("bn-batch", same)


def test_the_least_number_of_mini_batches_that_a_variance_comes_from():
    variance = pd.DataFrame({"run": "run0", "epoch": 0, "batch_size": [2, 8], "trace": 1.0, "draws": [256, 32]})
    assert "Each value is estimated from 32 or more mini-batches." in said("variance", SEEDS, variance=variance)
    assert "mini-batches" not in said("variance", SEEDS)


def test_lines_are_named_where_they_are_drawn():
    dotted, lighter = "Dotted: from here on a run has converged.", "Lighter: at which it converged with a part of the"
    assert dotted in said("accuracy", SEEDS) and dotted in said("convergence", SEEDS)
    assert dotted not in said("accuracy", SEEDS.assign(bar=np.inf)) + said("best", SEEDS)
    assert lighter in said("range", SEEDS) and lighter not in said("range", table({}))
    assert "; lighter: with a part of the seeds" in note("range", SEEDS) and "lighter" not in note("best", SEEDS)
    assert "empty" not in note("range", SEEDS.assign(converged=[True, False, False]))
    assert "dotted" not in note("accuracy", SEEDS.assign(bar=np.inf)) + note("best", SEEDS)
    assert "medians over the runs of that m." in said("cost", SEEDS)
    assert note("cost", SEEDS).split("; ")[-2:] == ["Some CPU", "2 of 3 runs so far"]


def test_on_which_images_rates_were_chosen():
    held_out = table({}, {"experiment": "held-out", "selection": "validation"})
    rule = "The rate is chosen on the test set, as in the paper"
    assert f"{rule}." in said("best", SEEDS) and f"{rule}." in said("cost", SEEDS)
    assert f"{rule}, but where its label says otherwise." in said("best", held_out)
    assert rule not in said("accuracy", SEEDS) + said("best", held_out[1:])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fig01", "Corresponds to Figure 1 of the paper."),
        ("fig13a", "Corresponds to Figure 13a of the paper."),
        ("figure-7", "Corresponds to Figure 7 of the paper."),
        ("fig10-d", "Corresponds to Figure 10d of the paper."),
        ("figures", "Drawn in the manner of Figure 15 of the paper."),
        ("fig18", "Corresponds to Figure 18 of the paper."),
        ("fig19", "Drawn in the manner of Figure 15 of the paper."),
        ("fig00", "Drawn in the manner of Figure 15 of the paper."),
        ("fig2x", "Drawn in the manner of Figure 15 of the paper."),
    ],
)
def test_a_figure_is_numbered_as_in_the_paper(name, words):
    assert said("best", SEEDS, name).endswith(words)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("accuracy", "Drawn in the manner of Figure 1 of"), ("convergence", "Drawn in the manner of Figure 4 of"),
        ("bn-batch", "Drawn in the manner of Figure 13 of"), ("range", "Drawn in the manner of Figure 16 of"),
        ("variance", "The paper has no such figure."), ("cost", "The paper has no such figure."),
    ],
)  # fmt: skip
def test_other_figures_say_after_which_they_are_drawn(kind, words):
    assert words in said(kind, SEEDS)


def test_words():
    assert [counted(1, "seed"), counted(0, "seed"), counted(2, "run")] == ["1 seed", "0 seeds", "2 runs"]
    assert [format_duration(seconds) for seconds in (0.4, 89, 90, 5399, 5400, 5760000)] == [
        "0 s", "89 s", "2 min", "90 min", "1.5 h", "1600.0 h"
    ]  # fmt: skip
    assert [rate_words(rate) for rate in (2**-8, 0.5, 1, 4, 0.003)] == ["2⁻⁸", "2⁻¹", "2⁰", "2²", "0.003"]
    assert listed([82, 164, 82]) == "82, 164"
    assert [model_words(name) for name in ("alexnet", "resnet32", "resnetx", "mine")] == [
        "reduced AlexNet", "ResNet-32", "resnetx", "mine"
    ]  # fmt: skip
    assert progress(SEEDS) == "2 of 3 runs so far" and progress(SEEDS[:2]) == ""
    assert progress(SEEDS[2:]) == "0 of 1 run so far"
    assert seed_words(SEEDS) == "3 seeds" and seed_words(SEEDS[:1]) == "1 seed"
    assert sources(SEEDS) == "digits, 20 epochs"
    assert sources(table({}, {"data": "cifar10"})) == "digits, cifar10, 20 epochs"
    assert sources(table({"steps": 2000}, {"steps": 2000, "epochs": 7})) == "digits, 2,000 updates"
    assert sources(table({}, {"images": 9, "data": "cifar10"})) == "digits (20 epochs), cifar10 (9 images)"
    lengths = table({"experiment": "a"}, {"experiment": "b", "steps": 1}, {"experiment": "c", "images": 5000})
    words = [label.partition("BN, ")[2] for label in experiment_labels(lengths).values()]
    assert words == ["20 epochs", "1 update", "5,000 images"]
    assert "On digits (1,437 training images), 20 epochs, 5,000 images." in said("accuracy", lengths.iloc[[0, 2]])
    assert rate_symbol(table({}, {"lr_scaling": "sqrt"})) == "η / m or η / √m"
    assert rate_symbol(table({"lr_scaling": "sqrt"})) == "η / √m"
    assert rate_symbol(table({"lr_scaling": "none"}, {})) == "η / m or η"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "resnet32", "norm": "batch", "augment": "pad 4 + flip", "warmup": True},
         "ResNet-32, BN, augmented, warm-up"),
        ({"augment": "pad 4 + flip + contrast 0.4 + cutout 8"},
         "reduced AlexNet, no BN, augmented with contrast 0.4 and cutout 8"),
        ({"norm": "batch"}, "reduced AlexNet, BN on conv + FC"),
        ({"norm": "batch", "norm_layers": "conv"}, "reduced AlexNet, BN on conv only"),
        ({"model": "resnet8", "norm": "group"}, "ResNet-8, GN"),
        ({"model": "mlp"}, "mlp, no BN"),
        ({"model": "mlp", "norm": "own"}, "mlp, own norm"),
        ({"lr_drops": ""}, "reduced AlexNet, no BN, constant rate"),
        ({"lr_schedule": "cosine", "lr_drops": ""}, "reduced AlexNet, no BN, cosine schedule"),
        ({"lr_drop_factor": 0.2}, "reduced AlexNet, no BN, drops to 0.2 of the rate"),
        ({"warmup": True, "warmup_fraction": 0.1}, "reduced AlexNet, no BN, warm-up from 0.03125 η over 10 %"),
        ({"warmup": True, "warmup_start": 0.0}, "reduced AlexNet, no BN, warm-up from 0 η over 5 %"),
        ({"momentum": 0.9}, "reduced AlexNet, no BN, momentum 0.9"),
        ({"momentum": 0.9, "momentum_scaled": True}, "reduced AlexNet, no BN, momentum 0.9 with scaled rate"),
        ({"momentum": 0.9, "optimizer": "nesterov"}, "reduced AlexNet, no BN, Nesterov, momentum 0.9"),
        ({"optimizer": "adam", "betas": "0.9 0.999"}, "reduced AlexNet, no BN, Adam"),
        ({"optimizer": "adamw", "betas": "0 0.95", "eps": 1e-6}, "reduced AlexNet, no BN, AdamW, β 0 0.95, ε 1e-06"),
        ({"optimizer": "lion", "betas": "0.9 0.99"}, "reduced AlexNet, no BN, Lion"),
        ({"weight_decay_excludes": "biases norms"}, "reduced AlexNet, no BN, no weight decay of biases and norms"),
        ({"clip_norm": 2.0}, "reduced AlexNet, no BN, gradients clipped to 2"),
        ({"label_smoothing": 0.1}, "reduced AlexNet, no BN, label smoothing 0.1"),
        ({"loss": "mse"}, "reduced AlexNet, no BN, loss mse"),
        ({"loss": "mse", "loss_function": "config/losses/mine.py:huber"}, "reduced AlexNet, no BN, loss huber"),
        ({"lr_scaling": "none"}, "reduced AlexNet, no BN, η not scaled"),
        ({"lr_scaling": "sqrt", "precision": "bf16"}, "reduced AlexNet, no BN, η ∝ √m, bf16"),
        ({"precision": "tf32"}, "reduced AlexNet, no BN, tf32"),
        ({"norm": "layer"}, "reduced AlexNet, layer on conv + FC"),
        ({"selection": "validation"}, "reduced AlexNet, no BN, rate chosen on validation images"),
    ],
)  # fmt: skip
def test_settings_in_plain_words(settings, words):
    assert setting_words(PLAIN | {"model": "alexnet", "norm": "none"} | settings) == words


def test_labels_name_data_before_and_epochs_after_the_setting_where_they_differ():
    runs = table({}, {}, {"experiment": "long", "epochs": 40}, {"experiment": "other", "data": "cifar10", "epochs": 82})
    assert experiment_labels(runs) == {
        "plain": "digits: ResNet-8, BN, 20 epochs", "long": "digits: ResNet-8, BN, 40 epochs",
        "other": "cifar10: ResNet-8, BN, 82 epochs",
    }  # fmt: skip
    twins = table({}, {"experiment": "twin"}, {"experiment": "warm", "warmup": True})
    assert list(experiment_labels(twins).values()) == [
        "ResNet-8, BN (plain)", "ResNet-8, BN (twin)", "ResNet-8, BN, warm-up"
    ]  # fmt: skip


def test_words_that_all_experiments_of_a_figure_share_stand_in_its_note_and_not_in_each_label():
    adamw = {"optimizer": "adamw", "betas": "0.9 0.999", "lr_schedule": "cosine", "lr_drops": ""}
    others = {"experiment": "warm", "warmup": True}, {"experiment": "half", "precision": "bf16"}
    runs = table(adamw, *(adamw | other for other in others))
    assert list(experiment_labels(runs).values()) == ["ResNet-8, BN", "ResNet-8, BN, warm-up", "ResNet-8, BN, bf16"]
    assert note("best", runs).startswith("digits, 20 epochs, cosine schedule, AdamW, 1 seed")
    assert "All with cosine schedule, AdamW, on digits (1,437 training images), 20 epochs." in said("best", runs)
    alone = runs[runs["experiment"] == "plain"]
    assert list(experiment_labels(alone).values()) == ["ResNet-8, BN, cosine schedule, AdamW"]
    assert note("best", alone).startswith("digits, ResNet-8, BN, cosine schedule, AdamW, 20 epochs, 1 seed")


def test_labels_name_the_bn_batch_where_nothing_else_tells_experiments_apart():
    own, eight = {"batch_size": 32, "bn_batch_size": 32}, {"experiment": "eight", "batch_size": 32, "bn_batch_size": 8}
    many = [{"experiment": "many", "batch_size": 32, "bn_batch_size": b} for b in (2, 32)]
    labels = experiment_labels(table(own, eight, *many, {"experiment": "none", "norm": "none"}))
    assert list(labels.values()) == [
        "ResNet-8, BN, b = m", "ResNet-8, BN, b = 8", "ResNet-8, BN, b = 2 to 32", "ResNet-8, no BN"
    ]  # fmt: skip
