"""What captions, notes and labels of figures say."""

import numpy as np
import pandas as pd
import pytest
from helpers.figures import NO_EPOCHS, caption, draw, draw_grid, grid, note_of, planned, spec, with_f1

from smallbatch.analysis.words import experiment_labels, rate_words
from smallbatch.figures import ALL_KINDS


def test_captions_say_where_rates_were_chosen() -> None:
    runs, held_out = grid(), grid().assign(experiment="held-out", selection="validation")
    paper = "The rate is chosen on the test set, as in the paper"
    assert f"{paper}. " in caption("fig15", spec("best"), runs)
    both = caption("fig15", spec("best", "alex", "held-out"), pd.concat([runs, held_out]))
    assert f"{paper}, but where its label says otherwise. " in both
    own = caption("fig15", spec("best", "held-out"), held_out)
    assert paper not in own and "rate chosen on validation images, on digits" in own
    assert "chosen" not in caption("fig01", spec("accuracy"), runs)


def test_captions_name_lines_only_where_they_are_drawn() -> None:
    assert "Dotted" not in caption("fig01", spec("accuracy"), grid().assign(bar=np.nan))
    assert "Lighter" in caption("fig16", spec("range"), grid())
    assert "Lighter" not in caption("fig16", spec("range"), planned({(2, 2, 0.5): [0.5]}))
    text = caption("sqrt", spec("accuracy"), grid().assign(lr_scaling="sqrt"))
    assert "over the base learning rate η/√m," in text


def test_seeds_and_epochs_that_differ_are_all_named() -> None:
    long = planned({(2, 2, 0.5): [0.6]}, experiment="long", data="cifar100", epochs=8)
    runs = pd.concat([planned({(2, 2, 0.5): [0.5, 0.7]}), long])
    assert "digits (4 epochs), cifar100 (8 epochs), 1 or 2 seeds" in note_of(
        draw(spec("best", "alex", "long"), runs, NO_EPOCHS)
    )
    text = caption("fig15", spec("best", "alex", "long"), runs)
    assert "On digits (1,437 training images), 4 epochs; cifar100 (1,437 training images), 8 epochs. " in text
    assert "Line: mean of 1 or 2 seeds, less what the best of several rates owes to luck; band" in text


def test_rates_that_scale_with_the_root_are_named_so() -> None:
    root = grid().assign(lr_scaling="sqrt")
    assert draw(spec("accuracy"), root, NO_EPOCHS).axes[0].get_xlabel() == "base learning rate  η / √m"


def test_rates_are_written_as_powers_of_two_and_others_plainly() -> None:
    ticks = [text.get_text() for text in draw_grid().axes[0].get_xticklabels()]
    assert ticks == ["2⁻⁸", "2⁻⁷", "2⁻⁶"]
    odd = draw(spec("accuracy"), planned({(2, 2, 0.01): [0.5], (2, 2, 0.1): [0.6]}), NO_EPOCHS)
    odd.draw_without_rendering()
    assert "10^{-2}" in " ".join(text.get_text() for text in odd.axes[0].get_xticklabels())
    assert [rate_words(rate) for rate in (2**-12, 1, 0.003)] == ["2⁻¹²", "2⁰", "0.003"]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_says_what_it_shows_and_what_is_missing(kind: str) -> None:
    figure = draw_grid(kind)
    there, planned_runs = (3, 4) if kind == "convergence" else (9, 12)
    assert "digits, reduced AlexNet, no BN, 4 epochs, 2 seeds" in note_of(figure)
    assert f"{there} of {planned_runs} runs so far" in note_of(figure)
    assert figure.get_suptitle() == "A title"


def test_a_run_that_experiments_share_counts_once() -> None:
    shared = planned({(2, 2, 2**-8): ["missing"], (4, 4, 2**-8): [0.5]})
    figure = draw(spec("best", "alex", "twin"), pd.concat([shared, shared.assign(experiment="twin")]), NO_EPOCHS)
    assert "1 of 2 runs so far" in note_of(figure)


def test_caption_stands_alone() -> None:
    text = caption("figure_01", spec("accuracy"), grid())
    for part in (
        "over the base learning rate η/m", "Reduced AlexNet, no BN, on digits (1,437 training images), 4 epochs.",
        "mean of 2 seeds; band or vertical line: its 95 % interval, over seeds and test images.",
        "from here on a run has converged", "Hollow: below the axis.",
        "3 of 9 runs diverged and count at chance level", "Drawn from 9 of 12 runs so far.",
        "Corresponds to Figure 1 of the paper.",
    ):  # fmt: skip
        assert part in text
    one_seed = caption("digits_best", spec("best"), planned({(2, 2, 2**-8): [0.5]}))
    assert "1 seed a cell, so no intervals: it does not tell how much another would differ." in one_seed
    assert "band" not in one_seed
    assert "0 of 1 run diverged. Drawn in the manner of Figure 15 of the paper." in one_seed
    assert "at base learning rate η/m = 2⁻⁸" in caption("fig04", spec("convergence", base_lr=2**-8), grid())
    assert "Figure 13a of" in caption("figure13a", spec("bn-batch"), grid())


def test_labels_tell_experiments_apart_by_data_epochs_or_name() -> None:
    one = planned({(2, 2, 0.5): [0.5]})
    longer = one.assign(experiment="longer", epochs=8)
    other = one.assign(experiment="other", data="cifar10")
    twin = one.assign(experiment="twin")
    plain = "reduced AlexNet, no BN"
    assert list(experiment_labels(pd.concat([one, longer])).values()) == [f"{plain}, 4 epochs", f"{plain}, 8 epochs"]
    assert list(experiment_labels(pd.concat([one, other])).values()) == [f"digits: {plain}", f"cifar10: {plain}"]
    assert list(experiment_labels(pd.concat([one, twin])).values()) == [f"{plain} (alex)", f"{plain} (twin)"]


def test_a_caption_says_what_a_metric_is() -> None:
    words = caption("mine", spec("accuracy", metric="f1"), with_f1())
    assert words.startswith("Test F1 over the base learning rate η/m, a line for each batch size m. ")
    assert "F1 is the median over all epochs. It is the mean over classes, or over outputs." in words
    assert "Dotted" not in words and "Dashed" not in words
