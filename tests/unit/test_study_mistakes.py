"""Every mistake in a study is told in one line before any work."""

import math
from pathlib import Path

import pytest
from helpers.studies import CONFIG, base_and_dependent, load, small

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.study_file import check_config, load_study
from smallbatch.study_file.data_compatibility import check_against_data

pytestmark = pytest.mark.usefixtures("folder_of_studies")


def test_a_grid_that_nobody_trains_is_refused_before_it_is_made():
    line = "experiments: 3,000,000 runs, 3,000,000 of them of small; allowed: up to 200,000"
    with pytest.raises(UserError, match=line):
        load(dict(seeds=list(range(1, 3001)), batch_sizes=list(range(2, 1002)), base_lrs=["2^-8"]))


MISTAKES = {
    "unknown key": (dict(epoch=3), "experiments.small.epoch: unknown key (did you mean 'epochs'?)"),
    "unknown top key": (lambda v: v.update(seed=[1]), "seed: unknown key (did you mean 'seeds'?)"),
    "missing key": (lambda v: small(v).pop("model"), "experiments.small: key 'model' is missing"),
    "batch size 0": (dict(batch_sizes=[0]), "batch_sizes.0: 0 is not allowed; allowed: a whole number"),
    "batch size 3.5": (dict(batch_sizes=[3.5]), "batch_sizes.0: 3.5 is not allowed; allowed: a whole"),
    "batch size 3.0": (dict(batch_sizes=[3.0]), "batch_sizes.0: 3.0 is not allowed; allowed: a whole"),
    "batch size text": (dict(batch_sizes=["4"]), "batch_sizes.0: '4' is not allowed"),
    "too large": (dict(batch_sizes=[2048]), "batch_sizes: 2048 is not allowed; allowed: whole numbers up to 1437"),
    "larger than the part": (
        dict(train_images=100, batch_sizes=[128]),
        "batch_sizes: 128 is not allowed; allowed: whole numbers up to 100",
    ),
    "part too large": (dict(train_images=9999), "train_images: 9999 is not allowed; allowed: whole numbers up to 1437"),
    "b does not divide m": (dict(bn_batch_sizes=[3]), "bn_batch_sizes: 3 is not allowed; allowed: numbers that divide"),
    "b above every m": (dict(bn_batch_sizes=[16]), "bn_batch_sizes: 16 is not allowed"),
    "BN over one example": (dict(bn_batch_sizes=[1, 2]), "experiments.small.batch_sizes: 1 is not allowed"),
    "b without BN": (
        dict(norm="none", bn_batch_sizes=[2]),
        "experiments.small.bn_batch_sizes: [2] is not allowed; allowed: only with norm: batch",
    ),
    "negative rate": (dict(base_lrs=[-0.1]), "base_lrs.0: -0.1 is not allowed; allowed: a power of two"),
    "rate of another form": (dict(base_lrs=["3^-8"]), "base_lrs.0: '3^-8' is not allowed"),
    "the same rate twice": (dict(base_lrs=["2^-1", 0.5]), "base_lrs: ['2^-1', 0.5] is not allowed"),
    "a rate that is no number": (dict(base_lrs=[math.nan]), "base_lrs.0: nan is not allowed; allowed: finite numbers"),
    "a rate without end": (dict(base_lrs=[math.inf]), "base_lrs.0: inf is not allowed; allowed: finite numbers"),
    "a rate that single precision rounds to nothing": (
        dict(base_lrs=["2^-101"]), "base_lrs: '2^-101' is not allowed; allowed: rates from 2^-100 to 2^100"
    ),
    "a rate below all": (dict(base_lrs=[1e-40]), "base_lrs: 1e-40 is not allowed; allowed: rates from 2^-100 to"),
    "a rate above all": (dict(base_lrs=["2^101"]), "base_lrs: '2^101' is not allowed; allowed: rates from 2^-100 to"),
    "a rate of four digits": (dict(base_lrs=["2^-2000"]), "base_lrs.0: '2^-2000' is not allowed; allowed: a power of"),
    "a truth value as a number": (dict(epochs=True), "small.epochs: True is not allowed; allowed: a whole number"),
    "a number as a truth value": (dict(warmup=1), "small.warmup: 1 is not allowed; allowed: true or false"),
    "weight decay without end": (dict(weight_decay=math.inf), "weight_decay: inf is not allowed; allowed: finite"),
    "weight decay beyond single precision": (
        dict(weight_decay=1e39), "small.weight_decay: 1e+39 is not allowed; allowed: 0, or a number from 1e-30 to 1e3"
    ),
    "weight decay just too large": (dict(weight_decay=1.1e30), "weight_decay: 1.1e+30 is not allowed; allowed: 0, or"),
    "weight decay that single precision rounds to nothing": (
        dict(weight_decay=1e-46), "weight_decay: 1e-46 is not allowed; allowed: 0, or a number from 1e-30"
    ),
    "negative weight decay": (dict(weight_decay=-1), "small.weight_decay: -1 is not allowed; allowed: 0, or a number"),
    "no weight decay as a truth value": (dict(weight_decay=False), "weight_decay: False is not allowed; allowed: 0"),
    "weight decay as text": (dict(weight_decay="0"), "weight_decay: '0' is not allowed; allowed: 0, or a number"),
    "drops that are no numbers": (dict(lr_drops=[math.nan]), "lr_drops.0: nan is not allowed; allowed: finite numbers"),
    "a size beyond all counting": (
        dict(batch_sizes=[10**30]), f"batch_sizes.0: {10**30} is not allowed; allowed: whole numbers up to 2147483647"
    ),
    "a crop that may miss its image": (
        dict(augment={"flip": False, "pad": 8}), "experiments.small.augment.pad: 8 is not allowed; allowed: whole"
    ),
    "more cut out than there is": (
        dict(augment={"flip": False, "cutout": 9}), "augment.cutout: 9 is not allowed; allowed: whole numbers up to 8, "
    ),
    "colours of gray images": (
        dict(augment={"flip": False, "saturation": 0.4}), "augment.saturation: 0.4 is not allowed; allowed: 0 on images"
    ),
    "negative contrast": (
        dict(augment={"flip": False, "contrast": -1}), "augment.contrast: -1 is not allowed; allowed: a number from 0"
    ),
    "mixed twice": (
        dict(augment={"flip": False, "mixup": 0.2, "cutmix": 1}), "augment.cutmix: 1 is not allowed; allowed: 0 with mi"
    ),
    "mixed by nothing": (
        dict(augment={"flip": False, "mixup": -1}), "augment.mixup: -1 is not allowed; allowed: 0, or a number from"
    ),
    "mixed with itself": (
        dict(norm="none", batch_sizes=[1, 2], augment={"flip": False, "cutmix": 1}),
        "small.batch_sizes: 1 is not allowed; allowed: numbers from 2 with cutmix, which mixes the images of a mini-b",
    ),
    "variance of mixed images": (
        dict(norm="none", variance_batch_sizes=[2, 4], augment={"flip": False, "mixup": 1}),
        "augment.mixup: 1 is not allowed; allowed: 0 with variance_batch_sizes, which cuts the same examples into",
    ),
    "no length": (
        lambda v: small(v).pop("epochs"), "small: key 'epochs' is missing; allowed: one of epochs, steps, images"
    ),
    "two lengths": (dict(steps=5), "small.steps: 5 is not allowed; allowed: only one of epochs, steps, images; epo"),
    "no steps": (dict(steps=0), "small.steps: 0 is not allowed; allowed: a whole number from 1 (updates)"),
    "curves over epochs of which there is no number": (
        lambda v: (
            small(v).pop("epochs"), small(v).update(steps=7),
            v["figures"]["fig01"].update(kind="convergence", base_lr="2^-8"),
        ),
        "figures.fig01.experiments: 'small' is not allowed; allowed: experiments trained for epochs with kind converg",
    ),
    "fewer images than an update has": (
        lambda v: (small(v).pop("epochs"), small(v).update(images=7)),
        "small.images: 7 is not allowed; allowed: whole numbers from 8, the largest batch size",
    ),
    "variance without epochs": (
        lambda v: (small(v).pop("epochs"), small(v).update(steps=7, variance_batch_sizes=[2, 4], norm="none")),
        "small.variance_batch_sizes: [2, 4] is not allowed; allowed: only with epochs, at the ends of which the va",
    ),
    "nothing held out": (
        dict(selection="validation", train_images=5, batch_sizes=[4]),
        "selection: 'validation' is not allowed; allowed: test: of 5 training images a tenth, which would be held out,",
    ),
    "variance of more images than an epoch has": (
        dict(norm="none", train_images=10, batch_sizes=[2, 4], variance_batch_sizes=[2, 5]),
        "variance_batch_sizes: 5 is not allowed; allowed: whole numbers up to 4, half the images of an epoch at m = 4",
    ),
    "an experiment's name of two lines": (
        lambda v: v["experiments"].update({"small\n": small(v)}), "experiments: 'small\\n' is not allowed; allowed:"
    ),
    "an experiment's name that is a number": (
        lambda v: v["experiments"].update({2024: small(v)}), "line 18: not valid YAML: key 2024 is no text; put it in"
    ),
    "an experiment's name that no file may have": (
        lambda v: v["experiments"].update({"x" * 65: small(v)}), "is not allowed; allowed: names of small letters,"
    ),
    "a figure named as a line of the status": (
        lambda v: v["figures"].update(all=v["figures"]["fig01"]), "figures: 'all' is not allowed; allowed: names other"
    ),
    "a title of two lines": (
        lambda v: v["figures"]["fig01"].update(title="One\ntwo"), "title: 'One\\ntwo' is not allowed; allowed: one line"
    ),
    "a title in a script that the font lacks": (
        lambda v: v["figures"]["fig01"].update(title="小 and η 🐶 小"),
        "figures.fig01.title: '小 and η 🐶 小' is not allowed; allowed: characters that the font of figures, DejaVu "
        "Sans, has; it lacks 小 🐶",
    ),
    "a title without end": (lambda v: v.update(title="x" * 301), "title: 'xxx"),
    "duplicate seeds": (lambda v: v.update(seeds=[2, 1, 1]), "seeds: 1 appears twice in [2, 1, 1]"),
    "negative seed": (lambda v: v.update(seeds=[-1]), "seeds.0: -1 is not allowed"),
    "unknown model": (dict(model="alexnt"), "model: 'alexnt' is not allowed; allowed: alexnet, resnet8"),
    "a project's model with arguments": (
        dict(model="alexnet(width=2)"), "model: 'alexnet(width=2)' is not allowed; allowed: alexnet, which takes no"
    ),
    "arguments without an end": (
        dict(model="torchvision:resnet18(a=1"), "model: 'torchvision:resnet18(a=1' is not allowed; allowed: NAME, or"
    ),
    "an argument without a name": (dict(model="timm:a(1)"), "allowed: NAME, or NAME(argument=value, ...)"),
    "an argument that is computed": (dict(model="timm:a(b=open('x'))"), "allowed: NAME, or NAME(argument=value, ...)"),
    "an argument twice": (dict(model="timm:a(b=1, b=2)"), "allowed: NAME, or NAME(argument=value, ...)"),
    "arguments of arguments": (dict(model="timm:a(**{'b': 1})"), "allowed: NAME, or NAME(argument=value, ...)"),
    "an infinite argument": (dict(model="timm:a(b=1e999)"), "allowed: NAME, or NAME(argument=value, ...)"),
    "unknown data set": (dict(data="cifar"), "data: 'cifar' is not allowed; allowed: digits, cifar10"),
    "the best of itself": (
        dict(base_lrs={"best_of": ["small"]}),
        "small.base_lrs.best_of: 'small' is not allowed; allowed: experiments with rates of their own; there is none",
    ),
    "unknown norm": (dict(norm="layer"), "norm: 'layer' is not allowed; allowed: none, batch, group or own"),
    "falling drops": (dict(lr_drops=[0.75, 0.5]), "experiments.small.lr_drops: [0.75, 0.5] is not allowed"),
    "drops that are no fractions": (dict(lr_drops=["1/2/3"]), "lr_drops.0: '1/2/3' is not allowed; allowed: a number"),
    "drops above 1": (dict(lr_drops=["4/3"]), "lr_drops: ['4/3'] is not allowed; allowed: rising fractions"),
    "drops of another schedule": (dict(lr_schedule="cosine", lr_drops=[0.5]), "small.lr_drops: [0.5] is not allowed"),
    "a factor of another schedule": (dict(lr_schedule="constant", lr_drop_factor=0.5), "lr_drop_factor: 0.5 is not"),
    "a factor of 1": (dict(lr_drop_factor=1), "small.lr_drop_factor: 1 is not allowed; allowed: a number between 0"),
    "a schedule of nobody": (dict(lr_schedule="cosin"), "small.lr_schedule: 'cosin' is not allowed; allowed: drops, "),
    "two warm-ups": (dict(lr_schedule="one-cycle", warmup=True), "small.warmup: True is not allowed; allowed: false "),
    "a length of no warm-up": (dict(warmup_fraction=0.1), "small.warmup_fraction: 0.1 is not allowed; allowed: only"),
    "a start of no warm-up": (dict(warmup=False, warmup_start=0), "small.warmup_start: 0 is not allowed; allowed: o"),
    "a warm-up without end": (dict(warmup=True, warmup_fraction=1), "small.warmup_fraction: 1 is not allowed; allow"),
    "drops at the end": (dict(lr_drops=["3/3"]), "lr_drops: ['3/3'] is not allowed; allowed: rising fractions"),
    "an optimiser of nobody": (dict(optimizer="adma"), "optimizer: 'adma' is not allowed; allowed: sgd, nesterov, "),
    "an optimiser that torch lacks": (
        dict(optimizer="torch:RMSProp"),
        "experiments.small.optimizer: 'torch:RMSProp' is not allowed; allowed: of torch.optim ASGD, Adadelta",
    ),
    "a schedule that nothing follows": (
        dict(optimizer="torch:Rprop", weight_decay=0),
        "optimizer: 'torch:Rprop' is not allowed; allowed: only with lr_schedule: constant and without warm-up",
    ),
    "an argument that is computed, of an optimiser": (
        dict(optimizer="torch:SGD(momentum=1/2)"), "optimizer: 'torch:SGD(momentum=1/2)' is not allowed; allowed: NAME"
    ),
    "momentum beside torch's": (
        dict(optimizer="torch:SGD", momentum=0.9), "momentum: 0.9 is not allowed; allowed: arguments of the optimiser"
    ),
    "momentum of Adam": (dict(optimizer="adam", momentum=0.9), "small.momentum: 0.9 is not allowed; allowed: 0, or sg"),
    "Nesterov without": (dict(optimizer="nesterov"), "momentum: None is not allowed; allowed: a number above 0 with o"),
    "betas of SGD": (dict(betas=[0.9, 0.99]), "small.betas: [0.9, 0.99] is not allowed; allowed: only with optimizer:"),
    "one beta": (dict(optimizer="adam", betas=[0.9]), "small.betas: [0.9] is not allowed; allowed: two numbers from 0"),
    "a beta of 1": (dict(optimizer="adam", betas=[0.9, 1]), "small.betas.1: 1 is not allowed; allowed: a number from "),
    "epsilon of Lion": (dict(optimizer="lion", eps=1e-8), "small.eps: 1e-08 is not allowed; allowed: only with optimi"),
    "clipped to nothing": (dict(clip_norm=0), "small.clip_norm: 0 is not allowed; allowed: a number from 1e-30 to 1e3"),
    "all smoothed": (dict(label_smoothing=1), "small.label_smoothing: 1 is not allowed; allowed: a number from 0 and "),
    "no decay of weights": (dict(weight_decay_excludes=["weights"]), "weight_decay_excludes.0: 'weights' is not allow"),
    "variance of Adam": (
        dict(optimizer="adamw", variance_batch_sizes=[2, 4]),
        "small.optimizer: 'adamw' is not allowed; allowed: none with variance_batch_sizes, which takes an update for",
    ),
    "variance of clipped": (
        dict(clip_norm=1, variance_batch_sizes=[2, 4]), "small.clip_norm: 1 is not allowed; allowed: none with varia"
    ),
    "a loss of nobody": (dict(loss="hinge"), "small.loss: 'hinge' is not allowed; allowed: cross_entropy, binary or"),
    "half a loss": (dict(loss={"file": "a.py", "name": "b"}), "experiments.small.loss: key 'like' is missing"),
    "a loss elsewhere": (
        dict(loss={"file": "/tmp/a.py", "name": "b", "like": "mse"}),
        "loss.file: '/tmp/a.py' is not allowed; allowed: a file below the project's folder",
    ),
    "a loss that is not there": (
        dict(loss={"file": "a.py", "name": "b", "like": "mse"}), "loss.file: 'a.py' is not allowed; allowed: a file of"
    ),
    "a metric of nobody": (dict(metrics=["f2"]), "small.metrics.0: 'f2' is not allowed; allowed: top5, balanced_accur"),
    "a metric of classes": (
        dict(loss="binary", metrics=["f1", "top5"]),
        "small.metrics: 'top5' is not allowed; allowed: with loss binary: balanced_accuracy, hamming, f1, likelihood",
    ),
    "a metric of numbers": (dict(metrics=["r2"]), "metrics: 'r2' is not allowed; allowed: with loss cross_entropy: to"),
    "smoothed numbers": (dict(loss="mse", label_smoothing=0.1), "small.label_smoothing: 0.1 is not allowed; allowed"),
    "a metric that nobody records": (
        lambda v: v["figures"]["fig01"].update(metric="f1"),
        "figures.fig01.metric: 'f1' is not allowed; allowed: what all its experiments record under `metrics`: accuracy",
    ),
    "the accuracy of numbers": (
        lambda v: (small(v).update(loss="mse"), v["figures"]["fig01"].update(metric="accuracy")),
        "figures.fig01.metric: 'accuracy' is not allowed; allowed: what all its experiments record under `metrics`: r2",
    ),
    "a range of F1": (
        lambda v: (small(v).update(metrics=["f1"]), v["figures"]["fig01"].update(kind="range", metric="f1")),
        "figures.fig01.metric: 'f1' is not allowed; allowed: only with kind accuracy, best, bn-batch",
    ),
    "numbers beside classes": (
        lambda v: (
            v["experiments"].update(other=small(v) | {"loss": "mse"}),
            v["figures"]["fig01"].update(experiments=["small", "other"]),
        ),
        "fig01.experiments: ['small', 'other'] is not allowed; allowed: experiments whose losses are for one kind",
    ),
    "a claim about two metrics": (
        lambda v: (
            small(v).update(metrics=["f1"]),
            v["figures"].update(f1=v["figures"]["fig01"] | {"metric": "f1"}),
            v.update(claims={"mine": {"text": "t", "improves": {"from": "fig01", "to": "f1"}}}),
        ),
        "claims.mine.improves: 'fig01, f1' is not allowed; allowed: figures of one metric",
    ),
    "scaled by no momentum": (
        dict(momentum_scaled=True), "momentum_scaled: True is not allowed; allowed: only with a momentum above 0"
    ),
    "more than is left to train on": (
        dict(selection="validation", train_images=100, batch_sizes=[95]),
        "batch_sizes: 95 is not allowed; allowed: whole numbers up to 90",
    ),
    "the best of nothing": (dict(base_lrs={"best_of": []}), "base_lrs.best_of: [] is not allowed; allowed: a list of"),
    "the best of the unknown": (
        dict(base_lrs={"best_of": ["smal"]}), "small.base_lrs.best_of: 'smal' is not allowed"
    ),
    "the best of others without that m": (
        lambda v: v["experiments"].update(large=small(v) | dict(batch_sizes=[8, 64], base_lrs={"best_of": ["small"]})),
        "large.base_lrs.best_of: ['small'] is not allowed; allowed: experiments that together have each batch size; 64",
    ),
    "the best of two BN batches": (
        lambda v: (base_and_dependent(v), small(v).update(bn_batch_sizes=[2, 4])),
        "best_of: 'small' is not allowed; allowed: experiments with one BN batch size for each batch size",
    ),
    "variance with a batch statistic of one example": (
        dict(variance_batch_sizes=[1, 4]), "variance_batch_sizes: 1 is not allowed; allowed: numbers from 2 with norm:"
    ),
    "variance of batches that sub-batches do not fill": (
        dict(batch_sizes=[8], bn_batch_sizes=[4], variance_batch_sizes=[4, 6]),
        "variance_batch_sizes: 6 is not allowed; allowed: multiples of the BN batch size, 4",
    ),
    "variance with several sub-batches": (
        dict(batch_sizes=[8], bn_batch_sizes=[2, 4], variance_batch_sizes=[4, 8]),
        "variance_batch_sizes: [4, 8] is not allowed; allowed: with one of bn_batch_sizes, below each batch size",
    ),
    "variance with whole batches among sub-batches": (
        dict(batch_sizes=[4, 8], bn_batch_sizes=[4], variance_batch_sizes=[4, 8]),
        "variance_batch_sizes: [4, 8] is not allowed; allowed: with one of bn_batch_sizes, below each batch size",
    ),
    "a figure of what is not measured": (
        lambda v: v["figures"]["fig01"].update(kind="variance"),
        "figures.fig01.experiments: 'small' is not allowed; allowed: for kind variance experiments with variance_batch",
    ),
    "unknown experiment": (lambda v: v["figures"]["fig01"].update(experiments=["smal"]),
        "figures.fig01.experiments: 'smal' is not"),
    "unknown kind": (lambda v: v["figures"]["fig01"].update(kind="pie"),
        "figures.fig01.kind: 'pie' is not allowed; allowed: accuracy"),
    "rate not in the grid": (
        lambda v: v["figures"]["fig01"].update(kind="convergence", base_lr="2^-3"),
        "figures.fig01.base_lr: '2^-3' is not allowed; allowed: a rate of experiment small: 2^-8, 0.001",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_a_study_are_reported_in_one_line(mistake):
    change, words = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        load(change)
    message = str(caught.value)
    assert message.startswith("config/studies/mine.yaml: ") and words in message and "\n" not in message


def test_a_misspelt_study_is_reported_with_the_likely_one():
    load(name="laptop")
    with pytest.raises(
        UserError,
        match=r"study: 'laptp': no such study \(did you mean 'laptop'\?\); allowed: those of config/studies: laptop",
    ):
        load_study(CONFIG | {"study": "laptp"})


@pytest.mark.parametrize("content", ["", "- a", "[" + "1, " * 1000 + "]", "text"])
def test_a_study_that_has_no_keys_is_refused_in_a_line_of_moderate_length(content):
    Path("config/studies/mine.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(
        UserError, match=r"^config/studies/mine.yaml: top level: .{4,203} is not allowed; allowed: keys"
    ):
        load_study(CONFIG | {"study": "mine"})


@pytest.mark.parametrize(
    "name", ["mine (1)", "my+study", "../x", "two\nlines", "-x", ".x", "", "x/y", "runs", "x" * 65]
)
def test_a_study_is_called_what_a_folder_and_a_pattern_may_be_called(name):
    with pytest.raises(UserError, match=r"^config/config.yaml: study: '.*' is not allowed; allowed: letters, digits"):
        load_study(CONFIG | {"study": name})


@pytest.mark.parametrize("name", ["2024", "My.Study_2-b"])
def test_a_study_may_be_called_by_a_number_as_a_command_line_has_it(name):
    given = int(name) if name.isdigit() else name
    assert load(name=name, study=given).name == name


def test_what_an_experiment_says_of_its_images_is_checked_before_the_data_are_there():
    pictures = {"pictures": {"source": "image-folder", "path": "p", "size": 8}}
    few = dict(data="pictures", train_images=5, batch_sizes=[2])
    assert load(few, datasets=pictures).runs()
    with pytest.raises(UserError, match="selection: 'validation' is not allowed; allowed: test: of 5 training images"):
        load(few | dict(selection="validation"), datasets=pictures)
    with pytest.raises(UserError, match=r"augment.pad: 8 is not allowed; allowed: whole numbers below 8"):
        load(few | dict(augment={"flip": False, "pad": 8}), datasets=pictures)


def size(shape, value_bytes=1):
    return DatasetInfo(shape, 10, 100, 10, value_bytes)


@pytest.mark.parametrize(
    ("augment", "of", "line"),
    [
        ({"cutout": 9}, size((3, 9, 8)), "augment.cutout: 9 is not allowed; allowed: whole numbers up to 8"),
        (
            {"contrast": 0.5},
            size((3, 9, 9), 4),
            "augment.contrast: 0.5 is not allowed; allowed: 0, since table has floats",
        ),
        (
            {"saturation": 0.5},
            size((2, 9, 9)),
            "augment.saturation: 0.5 is not allowed; allowed: 0, since images of table",
        ),
    ],
)
def test_augmentation_that_does_not_suit_arrays_of_ones_own_is_refused(augment, of, line):
    study = load(
        dict(data="table", augment={"flip": False, **augment}), datasets={"table": {"source": "arrays", "path": "p"}}
    )
    check_against_data(study, "table", 100, size((3, 9, 9)))
    with pytest.raises(UserError) as caught:
        check_against_data(study, "table", 100, of)
    assert f"experiments.small.{line}" in str(caught.value)


def test_the_loss_is_for_the_labels_of_the_data():
    tables = {"table": {"source": "arrays", "path": "p"}}
    for loss, targets in (("cross_entropy", None), ("binary", "binary"), ("mse", "numbers")):
        study = load(dict(data="table", loss=loss), datasets=tables)
        for other in (None, "binary", "numbers"):
            of = size((3, 9, 9))._replace(targets=other)
            if other == targets or (loss, other) == ("mse", "binary"):  # of which R2 is known, too
                check_against_data(study, "table", 100, of)
                continue
            with pytest.raises(
                UserError, match=rf"small.loss: '{loss}' is not allowed; allowed: .* of table, which are"
            ):
                check_against_data(study, "table", 100, of)


def test_of_targets_that_are_not_0_or_1_one_is_named():
    study = load(dict(data="table", loss="binary"), datasets={"table": {"source": "arrays", "path": "p"}})
    of = size((3, 9, 9))._replace(targets="numbers", a_number="2 of output tall")
    with pytest.raises(UserError, match=r"'binary' is not allowed.* numbers, as 2 of output tall is neither 0 nor 1"):
        check_against_data(study, "table", 100, of)


def test_of_five_classes_the_right_one_is_always_among_five():
    study = load(dict(data="table", metrics=["top5"]), datasets={"table": {"source": "arrays", "path": "p"}})
    check_against_data(study, "table", 100, size((3, 9, 9))._replace(classes=6))
    with pytest.raises(
        UserError, match=r"small.metrics: 'top5' is not allowed; allowed: with more than 5 classes; tab"
    ):
        check_against_data(study, "table", 100, size((3, 9, 9))._replace(classes=5))


def test_the_primary_metric_of_a_loss_is_recorded_whatever_else_is():
    setting = load(dict(loss="mse")).experiments["small"].setting
    assert (setting.primary_metric, setting.metrics) == ("r2", ("r2",))
    assert load(dict(loss="mse")).figures["fig01"]["metric"] == "r2"
    setting = load(dict(loss="binary", metrics=["f1"])).experiments["small"].setting
    assert (setting.primary_metric, setting.metrics) == ("balanced_accuracy", ("balanced_accuracy", "f1"))
    setting = load(dict(metrics=["top5", "f1"])).experiments["small"].setting
    assert (setting.primary_metric, setting.metrics) == ("accuracy", ("f1", "top5"))
    assert "metric" not in load(dict(metrics=["f1"])).figures["fig01"]


def test_what_an_experiment_says_is_checked_by_the_shape_of_its_images(monkeypatch):
    table = {"table": {"source": "arrays", "path": "p"}}
    padded = load(dict(data="table", augment={"flip": False, "pad": 8}), datasets=table)
    check_against_data(padded, "table", 100, size((3, 9, 9)))
    check_against_data(padded, "other", 100, size((3, 8, 9)))
    with pytest.raises(UserError, match=r"small.augment.pad: 8 is not allowed; allowed: whole numbers below 8"):
        check_against_data(padded, "table", 100, size((3, 9, 8)))
    plain = load(dict(data="table"), datasets=table)
    with pytest.raises(
        UserError, match=r"small.model: 'alexnet' is not allowed; allowed: a model of your own, since table"
    ):
        check_against_data(plain, "table", 100, size((30, 1, 1)))
    monkeypatch.setattr(models, "is_own", lambda name: True)
    check_against_data(plain, "table", 100, size((30, 1, 1)))
    for augment in ({"flip": True}, {"flip": False, "pad": 1}, {"flip": False, "cutmix": 1}):
        with pytest.raises(
            UserError, match=r"small.augment: '.*' is not allowed; allowed: none, or mixup alone, since table has no"
        ):
            monkeypatch.setattr(models, "is_own", lambda name: False)
            augmented = load(dict(data="table", augment=augment), datasets=table)
            monkeypatch.setattr(models, "is_own", lambda name: True)
            check_against_data(augmented, "table", 100, size((30, 1, 1)))


def test_titles_may_have_accents_greek_and_dollars():
    for title in ("Größe η ∝ √m à 2⁻⁸", "From $5 to $10", r"Sweep of $\lambda_{x$"):
        spec = load(lambda v, title=title: v["figures"]["fig01"].update(title=title)).figures["fig01"]
        assert spec["title"] == title


@pytest.mark.parametrize("letter", ["\n", "\x85", "\u2028", "\u2029", "\ud800"])
def test_what_no_line_can_show_is_in_no_text_but_a_description_has_lines(letter):
    with pytest.raises(UserError, match=r"^config/config.yaml: scale.name: '.*' is not allowed; allowed: one line of"):
        check_config(CONFIG | {"scale": {"name": f"a{letter}"}})
    assert load(lambda v: v.update(description="What\nfor.\n")).description == "What\nfor.\n"


def test_of_several_mistakes_the_first_by_its_key_is_reported():
    with pytest.raises(UserError, match=r"^config/config.yaml: convergence_threshold: 2 is not allowed"):
        check_config(CONFIG | {"seeds": 0, "convergence_threshold": 2, "study": 3})
