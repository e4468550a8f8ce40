"""What the paper's figures show, to say where a study shows something else under the same number."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from smallbatch.analysis.metric_as_accuracy import is_accuracy, metric_label
from smallbatch.analysis.words import Row, budget, budget_of, counted, departures, model_words, norm_words
from smallbatch.data.public_datasets import PUBLIC_DATASETS

DATASET_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
PAPER_EPOCHS = {"cifar10": 82, "cifar100": 164, "imagenet": 90}
PAPER_LR_DROPS = {"imagenet": "0.333333 0.666667 0.888889"}
"""Parts of training, as the table of runs has them; of both CIFAR a half and three quarters."""
PAPER_WEIGHT_DECAY = {"alexnet": 5e-4}
"""Of all other models 1e-4."""

_NO_BN = ("alexnet", "resnet8", "resnet20", "resnet32")
_WITHOUT, _EVERYWHERE, _CONV_ONLY = ("none", "all"), ("batch", "all"), ("batch", "conv")
_PLAIN, _PADDED, _CROPPED = "none", "pad 4 + flip", "resized crop + flip"


class PaperFigure(NamedTuple):
    """What a figure of the paper shows: of each setting the values that its experiments have.

    norms: pairs of normalisation and where it stands.
    augments: in words, as `Setting.augment`.
    """

    data: tuple[str, ...]
    models: tuple[str, ...]
    norms: tuple[tuple[str, str], ...]
    augments: tuple[str, ...]
    warmups: tuple[bool, ...]
    epochs: tuple[int, ...]


def _paper_figure(
    data: str,
    model: str,
    norm: tuple[str, str] = _WITHOUT,
    augment: str = _PLAIN,
    *,
    warmup: bool = False,
    epochs: int | None = None,
) -> PaperFigure:
    return PaperFigure((data,), (model,), (norm,), (augment,), (warmup,), (epochs or PAPER_EPOCHS[data],))


_MIXED = ((_WITHOUT, _EVERYWHERE, _CONV_ONLY), (_PLAIN, _PADDED), (False, True))

PAPER_FIGURES: dict[str, PaperFigure] = {
    "fig01": _paper_figure("cifar10", "alexnet"),
    "fig02": _paper_figure("cifar10", "resnet8"),
    "fig03": _paper_figure("cifar10", "resnet20"),
    "sec32": _paper_figure("cifar10", "resnet32"),
    "fig04": _paper_figure("cifar10", "resnet32", _EVERYWHERE),
    "fig05": _paper_figure("cifar10", "alexnet", _EVERYWHERE),
    "fig06": _paper_figure("cifar10", "alexnet", _CONV_ONLY),
    "fig07": _paper_figure("cifar10", "resnet32", _EVERYWHERE),
    "fig08": _paper_figure("cifar10", "resnet32", _EVERYWHERE, _PADDED),
    "fig09": _paper_figure("cifar100", "resnet32", _EVERYWHERE, _PADDED),
    "fig10": _paper_figure("cifar10", "resnet32", _EVERYWHERE, _PADDED, warmup=True),
    "fig11": _paper_figure("cifar100", "resnet32", _EVERYWHERE, _PADDED, warmup=True),
    "fig12": _paper_figure("imagenet", "resnet50", _EVERYWHERE, _CROPPED),
    "fig13a": _paper_figure("cifar10", "resnet32", _EVERYWHERE, _PADDED),
    "fig13b": _paper_figure("cifar100", "resnet32", _EVERYWHERE, _PADDED),
    "fig14": _paper_figure("imagenet", "resnet50", _EVERYWHERE, _CROPPED),
    "fig15": PaperFigure(("cifar10",), _NO_BN, *_MIXED, (82,)),
    "fig16": PaperFigure(("cifar10", "cifar100"), _NO_BN, *_MIXED, (82, 164)),
    "fig17": _paper_figure("cifar10", "resnet32", _EVERYWHERE, _PADDED, epochs=41),
    "fig18": _paper_figure("cifar10", "resnet32", _EVERYWHERE, _PADDED, epochs=164),
}
"""By the paper's number; `sec32` is the text of section 3.2."""

LAST_FIGURE = 18
"""Of the paper."""


def settings_unlike_paper(figure: str, shown: Iterable[pd.DataFrame]) -> list[str]:
    """`ResNet-8 on digits, not ResNet-32 on CIFAR-10`, `10 epochs, not 82`; empty if all settings are the paper's.

    Args:
        figure: the paper's name of it.
        shown: the runs of each experiment that a study shows there, with their settings.
    """
    tables = [runs for runs in shown if "model" in runs]
    paper, rows = PAPER_FIGURES[figure], [runs.iloc[0] for runs in tables]
    others = dict.fromkeys(metric_label(runs) for runs in tables if not is_accuracy(runs))
    aspects = (_subject, _norm, _augment, _warmup, _epochs, _drops, _fewer_images, _weight_decay, _departures)
    measures = [f"{measure}, not accuracy" for measure in others]
    return measures + [words for aspect in aspects for words in aspect(paper, rows)]


_Rows = Sequence[Row]


def _not_in_paper(paper: Iterable[Any], rows: _Rows, value: Callable[[Row], Any]) -> list[Row]:
    """Of each value that the paper's figure does not have, the first experiment."""
    firsts = {value(row): row for row in reversed(rows) if value(row) not in paper}
    return [firsts[first] for first in sorted(firsts)]


def _contrast(ours: Iterable[str], theirs: Iterable[str]) -> str:
    return f"{', '.join(dict.fromkeys(ours))}, not {' or '.join(dict.fromkeys(theirs))}"


def _subject(paper: PaperFigure, rows: _Rows) -> list[str]:
    data = [
        DATASET_TITLES.get(row["data"], row["data"]) for row in _not_in_paper(paper.data, rows, lambda row: row["data"])
    ]
    models = [model_words(row["model"]) for row in _not_in_paper(paper.models, rows, lambda row: row["model"])]
    their_data, their_models = [DATASET_TITLES[label] for label in paper.data], [*map(model_words, paper.models)]
    if data and models:
        theirs = f"{' or '.join(their_models)} on {' or '.join(their_data)}"
        return [f"{', '.join(models)} on {_contrast(data, [theirs])}"]
    return [_contrast(ours, theirs) for ours, theirs in ((models, their_models), (data, their_data)) if ours]


def _norm(paper: PaperFigure, rows: _Rows) -> list[str]:
    others = _not_in_paper(paper.norms, rows, lambda row: (row["norm"], row["norm_layers"]))
    theirs = [norm_words(model, *norm) for norm in paper.norms for model in paper.models]
    return [_contrast([norm_words(row["model"], row["norm"], row["norm_layers"]) for row in others], theirs)] * bool(
        others
    )


def _augment(paper: PaperFigure, rows: _Rows) -> list[str]:
    others = _not_in_paper(paper.augments, rows, lambda row: row["augment"])
    return [f"augmentation {_contrast([row['augment'] for row in others], paper.augments)}"] * bool(others)


def _warmup(paper: PaperFigure, rows: _Rows) -> list[str]:
    others = _not_in_paper(paper.warmups, rows, lambda row: bool(row["warmup"]))
    return ["with warm-up" if row["warmup"] else "without warm-up" for row in others]


def _epochs(paper: PaperFigure, rows: _Rows) -> list[str]:
    in_epochs = [row for row in rows if budget(row)[1] == "epoch"]
    by_others = dict.fromkeys(budget_of(row) for row in rows if budget(row)[1] != "epoch")
    others = [row["epochs"] for row in _not_in_paper(paper.epochs, in_epochs, lambda row: row["epochs"])]
    ours = [*map(str, others[:-1]), *(counted(epochs, "epoch") for epochs in others[-1:])]
    theirs = [*map(str, paper.epochs[:-1]), counted(paper.epochs[-1], "epoch")]
    return [_contrast(ours, map(str, paper.epochs))] * bool(others) + [_contrast(by_others, theirs)] * bool(by_others)


def _fewer_images(paper: PaperFigure, rows: _Rows) -> list[str]:
    theirs = {label: PUBLIC_DATASETS[label].train for label in paper.data}
    least = min(theirs.values())
    fewer = {row["train_images"] for row in rows if row["train_images"] < theirs.get(row["data"], least)}
    *others, most = [f"{count:,}" for count in sorted(fewer)] or [""]
    return [_contrast([*others, f"{most} training images"], [f"{count:,}" for count in theirs.values()])] * bool(fewer)


def _weight_decay(paper: PaperFigure, rows: _Rows) -> list[str]:
    """Of the paper's models alone."""
    theirs = {model: PAPER_WEIGHT_DECAY.get(model, 1e-4) for model in paper.models}
    pairs = {(row["weight_decay"], theirs[row["model"]]) for row in rows if row["model"] in theirs}
    others: dict[float, list[str]] = {}
    for ours, decay in sorted(pairs):
        if ours != decay:
            others.setdefault(ours, []).append(f"{decay:g}")
    return [f"weight decay {ours:g}, not {' or '.join(decays)}" for ours, decays in others.items()]


def _drops(paper: PaperFigure, rows: _Rows) -> list[str]:
    theirs = dict.fromkeys(PAPER_LR_DROPS.get(label, "0.5 0.75") for label in paper.data)
    rows = [row for row in rows if row["lr_schedule"] == "drops" and row["lr_drops"]]  # of others `_departures` speaks
    others = _not_in_paper(theirs, rows, lambda row: row["lr_drops"])
    return [f"rate drops at {_contrast([row['lr_drops'] for row in others], theirs)}"] * bool(others)


def _departures(paper: PaperFigure, rows: _Rows) -> list[str]:
    return [*dict.fromkeys(words for row in rows for words in departures(row))]
