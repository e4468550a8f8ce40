"""What the paper's figures show, to say where a study shows something else under the same number."""

from collections.abc import Iterable

import pandas as pd

from smallbatch.analysis.words import model_words

DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
_NO_BN = ("alexnet", "resnet8", "resnet20", "resnet32")

FIGURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    **dict.fromkeys(("fig01", "fig05", "fig06"), (("cifar10",), ("alexnet",))),
    "fig02": (("cifar10",), ("resnet8",)),
    "fig03": (("cifar10",), ("resnet20",)),
    **dict.fromkeys(
        ("sec32", "fig04", "fig07", "fig08", "fig10", "fig13a", "fig17", "fig18"), (("cifar10",), ("resnet32",))
    ),
    **dict.fromkeys(("fig09", "fig11", "fig13b"), (("cifar100",), ("resnet32",))),
    **dict.fromkeys(("fig12", "fig14"), (("imagenet",), ("resnet50",))),
    "fig15": (("cifar10",), _NO_BN),
    "fig16": (("cifar10", "cifar100"), _NO_BN),
}
"""Figure -> its data and its models."""


def differences(figure: str, shown: Iterable[pd.DataFrame]) -> str:
    """`ResNet-8 on digits, not ResNet-32 on CIFAR-10`; empty where model and data are the paper's.

    Args:
        figure: the paper's name of it.
        shown: the runs of each experiment that a study shows there.
    """
    data, models = FIGURES[figure]
    there = {(runs["model"].iloc[0], runs["data"].iloc[0]) for runs in shown if {"model", "data"} <= {*runs.columns}}
    other_data = sorted({own for _, own in there} - {*data})
    other_models = sorted({own for own, _ in there} - {*models})
    theirs_data, theirs_models = (" or ".join(words) for words in ([DATA[d] for d in data], map(model_words, models)))
    own_data, own_models = ", ".join(DATA.get(d, d) for d in other_data), ", ".join(map(model_words, other_models))
    if other_data and other_models:
        return f"{own_models} on {own_data}, not {theirs_models} on {theirs_data}"
    if other_data:
        return f"{own_data}, not {theirs_data}"
    return f"{own_models}, not {theirs_models}" if other_models else ""
