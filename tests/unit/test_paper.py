"""Which settings of a figure are not the paper's."""

import pandas as pd
import pytest
import yaml
from helpers.claims import AS_FIGURE_1, CONFIG, curve, judged, study

from smallbatch.analysis.claims.catalogue import CLAIMS
from smallbatch.analysis.metric_as_accuracy import with_metric_as_accuracy
from smallbatch.analysis.settings_unlike_paper import PAPER_FIGURES, settings_unlike_paper
from smallbatch.analysis.table import runs_table
from smallbatch.data.prepared import Meta
from smallbatch.data.public_datasets import PUBLIC_DATASETS
from smallbatch.study_file import load_study

AS_FIGURE_8 = AS_FIGURE_1 | {"model": "resnet32", "norm": "batch", "augment": "pad 4 + flip", "weight_decay": 1e-4}


@pytest.mark.parametrize(
    ("figure", "settings", "words"),
    [
        ("fig01", {}, []),
        ("fig01", {"data": "cifar10-jpeg"}, ["cifar10-jpeg, not CIFAR-10"]),
        ("fig01", {"norm": "batch"}, ["BN on conv + FC, not no BN"]),
        ("fig01", {"norm": "group", "norm_layers": "conv"}, ["GN on conv only, not no BN"]),
        ("fig01", {"augment": "flip"}, ["augmentation flip, not none"]),
        ("fig01", {"warmup": True}, ["with warm-up"]),
        ("fig01", {"epochs": 1}, ["1 epoch, not 82"]),
        ("fig01", {"epochs": 5, "steps": 1000}, ["1,000 updates, not 82 epochs"]),
        ("fig01", {"train_images": 10_000}, ["10,000 training images, not 50,000"]),
        ("fig01", {"data": "digits", "train_images": 1437},
         ["digits, not CIFAR-10", "1,437 training images, not 50,000"]),
        ("fig01", {"data": "pictures", "train_images": 60_000}, ["pictures, not CIFAR-10"]),
        ("fig01", {"data": "cifar10-jpeg", "train_images": 10_000},
         ["cifar10-jpeg, not CIFAR-10", "10,000 training images, not 50,000"]),
        ("fig01", {"weight_decay": 1e-4}, ["weight decay 0.0001, not 0.0005"]),
        ("fig01", {"lr_drops": "0.5"}, ["rate drops at 0.5, not 0.5 0.75"]),
        ("fig01", {"lr_drops": ""}, ["constant rate"]),
        ("fig01", {"lr_schedule": "cosine", "lr_drops": ""}, ["cosine schedule"]),
        ("fig01", {"momentum": 0.9, "lr_scaling": "sqrt"}, ["momentum 0.9", "η ∝ √m"]),
        ("fig01", {"precision": "bf16", "selection": "validation"}, ["bf16", "rate chosen on validation images"]),
        ("fig05", {"norm": "batch"}, []),
        ("fig06", {"norm": "batch"}, ["BN on conv + FC, not BN on conv only"]),
        ("fig06", {"norm": "batch", "norm_layers": "conv"}, []),
        ("fig08", AS_FIGURE_8, []),
        ("fig08", AS_FIGURE_8 | {"model": "resnet8"}, ["ResNet-8, not ResNet-32"]),
        ("fig10", AS_FIGURE_8, ["without warm-up"]),
        ("fig09", AS_FIGURE_8 | {"epochs": 164}, ["CIFAR-10, not CIFAR-100"]),
        ("fig13b", AS_FIGURE_8 | {"data": "digits", "model": "resnet20", "epochs": 164},
         ["ResNet-20 on digits, not ResNet-32 on CIFAR-100"]),
        ("fig17", AS_FIGURE_8, ["82 epochs, not 41"]),
        ("fig15", AS_FIGURE_8 | {"warmup": True}, []),
    ],
)  # fmt: skip
def test_settings_that_are_not_the_papers_are_named(figure: str, settings: dict, words: list[str]):
    assert settings_unlike_paper(figure, [pd.DataFrame([AS_FIGURE_1 | settings])]) == words


def test_another_measure_than_accuracy_is_named():
    runs = pd.DataFrame([AS_FIGURE_1]).assign(converged=True)
    by_f1 = runs.assign(**{f"{of}f1{what}": 0.5 for of in ("", "selection_") for what in ("", "_error")})
    assert settings_unlike_paper("fig01", [runs, with_metric_as_accuracy(by_f1, "f1")]) == ["F1, not accuracy"]
    assert settings_unlike_paper("fig01", [with_metric_as_accuracy(runs, "accuracy")]) == []


def test_settings_of_several_experiments_are_named_once():
    shown = [pd.DataFrame([AS_FIGURE_1 | settings]) for settings in (
        {}, {"data": "digits", "model": "vgg", "epochs": 10}, {"data": "digits", "epochs": 20}
    )]  # fmt: skip
    assert settings_unlike_paper("fig16", shown) == [
        "vgg on digits, not reduced AlexNet or ResNet-8 or ResNet-20 or ResNet-32 on CIFAR-10 or CIFAR-100",
        "10, 20 epochs, not 82 or 164",
    ]


def test_a_weight_decay_is_that_of_its_model():
    """The paper's for ResNets is another than its for AlexNet."""
    alexnet = AS_FIGURE_1 | {"weight_decay": 1e-4}
    shown = [pd.DataFrame([settings]) for settings in (alexnet, AS_FIGURE_8 | {"model": "resnet8"})]
    assert settings_unlike_paper("fig15", shown) == ["weight decay 0.0001, not 0.0005"]
    same = [runs.assign(weight_decay=0.01) for runs in shown]
    assert settings_unlike_paper("fig15", same) == ["weight decay 0.01, not 0.0001 or 0.0005"]


def test_the_study_of_the_paper_has_the_papers_settings(monkeypatch):
    monkeypatch.chdir(CONFIG.parent)
    config = yaml.safe_load((CONFIG / "config.yaml").read_text(encoding="utf-8"))
    study = load_study(config | {"study": "paper"})
    metas = {
        label: Meta(label, ("class",) * size.classes, size.shape, (), (), size.train, size.test, "0" * 64)
        for label, size in PUBLIC_DATASETS.items()
    }
    runs = runs_table(study.planned(), {}, metas, threshold=0.8).groupby("experiment")
    shown = {figure: study.figures[figure]["experiments"] for figure in PAPER_FIGURES if figure in study.figures}
    assert len(shown) >= 17
    found = {figure: settings_unlike_paper(figure, map(runs.get_group, names)) for figure, names in shown.items()}
    assert not any(found.values()), found


def test_a_figure_is_named_where_not_all_of_a_claim_differ_alike():
    plain, bn = AS_FIGURE_1 | {"epochs": 10}, AS_FIGURE_1 | {"epochs": 10, "norm": "batch"}
    shown = {name: curve({2: 0.9, 8: 0.8}, **bn) for name in ("fig01", "fig05")} | {
        "fig06": curve({2: 0.9, 8: 0.8}, **plain)
    }
    assert judged(**study(**shown)).loc["C8", "differences"].split("; ") == [
        "10 epochs, not 82", "fig01: BN on conv + FC, not no BN", "fig06: no BN, not BN on conv only"
    ]  # fmt: skip


def test_every_figure_that_a_claim_rests_on_has_its_models_and_data():
    assert {figure for claim in CLAIMS for figure in claim.figures} == set(PAPER_FIGURES)
