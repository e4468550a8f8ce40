"""The line of an experiment in the report and in the README, and what the report counts, worked out by hand."""

from math import nan

import pandas as pd
import pytest
from helpers import PAPERS_RECIPE

from smallbatch.publish.dvc_publish import results_markdown
from smallbatch.publish.report import compared, environments, result_row

PLAIN = {
    "experiment": "plain", "data": "digits", "classes": 10, "train_images": 1437, "model": "alexnet", "norm": "none",
    "norm_layers": "all", "epochs": 20, **PAPERS_RECIPE, "augment": "none", "momentum": 0.0, "momentum_scaled": False,
    "lr_scaling": "linear", "precision": "float32", "selection": "test", "status": "finished", "accuracy": 0.9,
    "selection_accuracy": 0.9, "converged": True, "batch_size": 8, "bn_batch_size": 8, "base_lr": 2**-8, "seed": 1,
    "seconds": 60.0, "test_images": 1000, "device": "Some CPU", "torch": "2.15.0",
}  # fmt: skip
DIVERGED = {"status": "diverged", "accuracy": 0.1, "selection_accuracy": 0.1, "converged": False, "seconds": 3.0}
MISSING = {"status": "missing", "accuracy": nan, "selection_accuracy": nan, "converged": False, "seconds": nan,
           "device": None, "torch": None}  # fmt: skip


def runs(*changed: dict) -> pd.DataFrame:
    return pd.DataFrame([PLAIN | {"run": f"run{place}"} | one for place, one in enumerate(changed)])


# One seed a cell. On the images that rates are chosen on m = 2 is best, on the test images m = 32.
HELD_OUT = runs(
    {"batch_size": 2, "base_lr": 0.003, "accuracy": 0.8125, "selection_accuracy": 0.95},
    {"batch_size": 32, "accuracy": 0.97, "selection_accuracy": 0.9, "converged": False, "seconds": 4000.0},
    {"batch_size": 32, "base_lr": 2**-4, **DIVERGED},
    {"batch_size": 32, "base_lr": 2**-2, **DIVERGED},
    {"batch_size": 512, **MISSING},
).assign(selection="validation")


def test_an_experiment_s_line_counts_runs_and_shows_its_best_cell():
    assert result_row(HELD_OUT) == {
        "experiment": "plain", "data": "digits", "model": "reduced AlexNet, no BN, rate chosen on validation images",
        "runs": "4 of 5", "diverged": "2", "converged": "1", "best m": "2", "best η/m": "0.003",
        "best accuracy (%)": "81.2", "time trained": "68 min",
    }  # fmt: skip


def test_the_best_cell_of_several_labels_is_that_of_their_balanced_accuracy_and_named_so():
    recalls = {"balanced_accuracy": [0.7, 0.6], "selection_balanced_accuracy": [0.7, 0.6]}
    several = runs({"batch_size": 8, "accuracy": 0.8}, {"batch_size": 2, "selection_accuracy": 0.99})
    line = result_row(several.assign(loss="binary", **recalls, balanced_accuracy_error=0.01,
                                     selection_balanced_accuracy_error=0.01))  # fmt: skip
    assert (line["best m"], line["best accuracy (%)"]) == ("8", "70.0 balanced accuracy")


def test_results_are_a_line_an_experiment_in_their_order():
    plain = runs({"batch_size": 8}, {"batch_size": 2, "accuracy": 0.5, "selection_accuracy": 0.5})
    nothing = runs(MISSING).assign(experiment="nothing", model="resnet8", norm="batch")
    both = pd.concat([plain.assign(experiment="z"), nothing, HELD_OUT.assign(experiment="a")])
    assert results_markdown(both) == (
        "| experiment | model | runs | diverged | converged | best m | best η/m | best accuracy (%) |\n"
        "|---|---|---:|---:|---:|---:|---:|---:|\n"
        "| z | reduced AlexNet, no BN | 2 | 0 | 2 | 8 | 2⁻⁸ | 90.0 |\n"
        "| nothing | ResNet-8, BN | 0 of 1 | 0 | 0 | – | – | – |\n"  # noqa: RUF001
        "| a | reduced AlexNet, no BN, rate chosen on validation images | 4 of 5 | 2 | 1 | 2 | 0.003 | 81.2 |"
    )


def test_the_head_of_rates_says_how_they_are_scaled():
    root = runs({}).assign(lr_scaling="sqrt")
    assert "| best m | best η/√m | best accuracy (%) |" in results_markdown(root)
    both = results_markdown(pd.concat([runs({}), root.assign(experiment="root")]))
    assert "| best m | best η/m or η/√m | best accuracy (%) |" in both


def test_places_count_each_run_once_and_its_time():
    gpu = runs({"device": "Some GPU", "seconds": 7000.0}).assign(run="other")
    twice = pd.concat([HELD_OUT, HELD_OUT.assign(experiment="twin"), gpu])
    assert environments(twice) == [
        {"device": "Some CPU", "torch": "2.15.0", "runs trained": 4, "time trained": "68 min"},
        {"device": "Some GPU", "torch": "2.15.0", "runs trained": 1, "time trained": "1.9 h"},
    ]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("base_lrs", (2**-8, "2^-6", 0.003), "2⁻⁸, 2⁻⁶, 0.003"), ("lr_drops", (0.5, 0.75), "0.5, 0.75"),
        ("warmup", True, "yes"), ("warmup", False, "no"), ("train_images", None, "–"), ("best_of", (), "–"),  # noqa: RUF001
        ("epochs", 20, "20"), ("weight_decay", 5e-4, "0.0005"),
    ],
)  # fmt: skip
def test_settings_are_shown_as_they_are(key, value, text):
    other = {"one": {key: value}, "two": {key: "2^0"}}
    assert compared(other)["rows"]["one"] == {key: text}


def test_what_some_have_and_what_all_share():
    shown = compared({"one": {"epochs": 20, "b": 2, "steps": None}, "two": {"epochs": 20, "cuda": "13", "steps": None}})
    assert shown["shared"] == {"epochs": "20"} and shown["unset"] == ["steps"]
    assert shown["rows"] == {"one": {"b": "2", "cuda": "–"}, "two": {"b": "–", "cuda": "13"}}  # noqa: RUF001
    assert compared({"one": {"epochs": 20}}) == {"shared": {"epochs": "20"}, "unset": [], "rows": {}}
