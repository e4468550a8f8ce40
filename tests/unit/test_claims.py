"""Every claim gets every verdict from tables made for it, and no table makes judging fail."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import PROJECT
from scipy import stats

from smallbatch.analysis.claims.catalogue import CLAIMS
from smallbatch.analysis.claims.judge import COLUMNS, judge
from smallbatch.analysis.grid import SAMPLES, read_grid
from smallbatch.analysis.noise import Noise, with_results
from smallbatch.analysis.paper import FIGURES, differences
from smallbatch.analysis.table import runs_table
from smallbatch.analysis.verdicts import effect_words
from smallbatch.core.errors import UserError
from smallbatch.data.originals import ORIGINALS
from smallbatch.data.prepared import Meta
from smallbatch.study_file import check_config, load_study

CONFIG = PROJECT / "config"
THRESHOLDS = yaml.safe_load((CONFIG / "config.yaml").read_text())["claims"]
NO_VARIANCE = pd.DataFrame(columns=["run", "epoch", "batch_size", "trace", "draws"])
NO_EPOCHS = pd.DataFrame(columns=["run", "epoch", "test_accuracy"])
RATE = 2**-8
DEAD = 0.1
"""The accuracy of a run that did not train: chance."""
AS_FIGURE_1 = {
    "data": "cifar10", "model": "alexnet", "norm": "none", "norm_layers": "all", "augment": "none", "warmup": False,
    "epochs": 82, "lr_drops": "0.5 0.75", "train_images": 50_000, "weight_decay": 5e-4, "momentum": 0.0,
    "momentum_scaled": False, "lr_scaling": "linear", "precision": "float32", "selection": "test",
}  # fmt: skip
AS_FIGURE_8 = AS_FIGURE_1 | {"model": "resnet32", "norm": "batch", "augment": "pad 4 + flip", "weight_decay": 1e-4}


def table(cells: dict, experiment: str = "made", **settings) -> pd.DataFrame:
    """Runs from {(m, b, base_lr): accuracies of the seeds}, NaN for a missing one. Above 0.5 a run has converged."""
    rows = []
    for (m, b, base_lr), accuracies in cells.items():
        for seed, accuracy in enumerate(accuracies):
            rows.append({
                "experiment": experiment, "classes": 10, "test_images": 10_000, "norm": "batch", "batch_size": m,
                "bn_batch_size": b, "base_lr": base_lr, "seed": seed, "accuracy": accuracy,
                "selection_accuracy": accuracy, "converged": accuracy > 0.5,
                "status": "missing" if np.isnan(accuracy) else "finished",
            } | settings)  # fmt: skip
    return pd.DataFrame(rows)


def seeds(accuracy: float, spread: float = 0.0) -> list[float]:
    """Five seeds around an accuracy, as few as can say that more than half of all converge; each cell in its order."""
    return [accuracy + step * spread for step in np.roll([-1, -0.5, 0, 0.5, 1], round(170 * accuracy))]


def curve(best: dict, spread: float = 0.0, **settings) -> pd.DataFrame:
    """Runs from {m: accuracy, or the accuracies of its seeds} at one rate."""
    cells = {m: accuracy if isinstance(accuracy, list) else seeds(accuracy, spread) for m, accuracy in best.items()}
    return table({(m, m, RATE): accuracies for m, accuracies in cells.items()}, **settings)


def lines(accuracies: dict, **settings) -> pd.DataFrame:
    """Runs from {m: [accuracy at each rate of 2^-8, 2^-7, ...]}, five seeds each, or a list of seeds for one."""
    return table({
        (m, m, RATE * 2**step): cell if isinstance(cell, list) else seeds(cell)
        for m, line in accuracies.items() for step, cell in enumerate(line)
    }, **settings)  # fmt: skip


def curves(accuracies: dict[int, list[float]], spread: float = 0.0) -> dict:
    """What `judge` takes of a study of Figure 4: {m: [accuracy before, after the rate drops]}, two epochs of each."""
    runs = curve({m: end for m, (_, end) in accuracies.items()}, spread, lr_drops="0.5")
    runs = runs.assign(run=[f"run{place}" for place in range(len(runs))])
    rows = [
        (run, epoch, accuracy + run_accuracy - end)
        for run, m, run_accuracy in runs[["run", "batch_size", "accuracy"]].itertuples(index=False)
        for start, end in [accuracies[m]]
        for epoch, accuracy in enumerate([start, start, end, end], start=1)
    ]
    return study(fig04=runs) | {"epochs": pd.DataFrame(rows, columns=NO_EPOCHS.columns)}


def bn_batches(accuracies: dict, spread: float = 0.0) -> pd.DataFrame:
    """Runs from {(m, b): accuracy} at one rate."""
    return table({(m, b, RATE): seeds(accuracy, spread) for (m, b), accuracy in accuracies.items()})


def study(**figures: pd.DataFrame) -> dict:
    """What `judge` takes of a study whose figures show an experiment each."""
    specs = {name: {"kind": "accuracy", "experiments": [f"of-{name}"]} for name in figures}
    if "fig04" in specs:
        specs["fig04"]["base_lr"] = RATE
    runs = pd.concat([runs.assign(experiment=f"of-{name}") for name, runs in figures.items()])
    return {"figures": specs, "runs": runs}


def measured(*traces: dict[int, float], b: int = 8, **settings) -> dict:
    """What `judge` takes of a study that measured variances, a run each, of seeds of their own."""
    runs = table({(8, b, RATE): [0.9] * len(traces)}, **{"norm": "none"} | settings)
    runs["run"] = [f"run{i}" for i in range(len(traces))]
    rows = [(f"run{i}", 0, m, trace, 64) for i, line in enumerate(traces) for m, trace in line.items()]
    figures = {"variance": {"kind": "variance", "experiments": ["made"]}}
    return {"figures": figures, "runs": runs, "variance": pd.DataFrame(rows, columns=NO_VARIANCE.columns)}


def judged(
    figures: dict,
    runs: pd.DataFrame | None = None,
    variance: pd.DataFrame = NO_VARIANCE,
    epochs: pd.DataFrame = NO_EPOCHS,
) -> pd.DataFrame:
    runs = table({}) if runs is None else runs
    return judge(figures, runs, epochs, variance, THRESHOLDS, np.random.default_rng(0)).set_index("claim")


def best_at(inside: int, outside: int, *figures: str, **settings) -> dict[str, dict]:
    """A case of each verdict for a claim that the best is at `inside` rather than at `outside`."""

    def each(at_inside: float, spread: float = 0.0) -> dict:
        return study(**{name: curve({inside: at_inside, outside: 0.8}, spread, **settings) for name in figures})

    return {"supported": each(0.9), "refuted": each(0.7), "undecided": each(0.81, spread=0.1)}


def pair(first: dict, second: dict, *names: str, spread: float = 0.0) -> dict:
    return study(**dict(zip(names, (curve(first, spread), curve(second, spread)), strict=True)))


SOME = [0.9, 0.9, DEAD, DEAD, DEAD]
UP_TO_16 = curve({2: 0.9, 16: 0.9, 128: DEAD})
FLAT = {8: 0.8, 32: 0.8, 64: 0.8, 256: 0.8}
WARM = {8: 0.8, 32: 0.8, 64: 0.85, 256: 0.85}  # helps large m, and lifts them above small
HELPED = {8: 0.85, 32: 0.85, 64: 0.8, 256: 0.8}  # small m are above

CASES: dict[str, dict[str, dict]] = {
    "C1": best_at(8, 16, "fig01"),
    "C2": best_at(2, 8, "fig02", "fig03"),
    "C3": {
        "supported": study(fig01=curve({2: 0.9, 8: 0.85, 128: DEAD})),
        "refuted": study(fig01=curve({2: 0.9, 8: 0.85, 128: 0.8})),
        "undecided": study(fig01=curve({2: 0.9, 8: 0.85, 128: SOME})),
    },
    "C4": {
        "supported": study(fig01=curve({2: 0.9, 8: 0.8, 128: DEAD})),
        "refuted": study(fig01=curve({2: 0.8, 8: 0.9, 128: 0.95})),
        "undecided": study(fig01=curve({2: 0.9, 8: 0.8, 128: SOME})),
    },
    "C5": {
        "supported": study(fig02=lines({2: [0.9, 0.9, 0.9], 64: [0.9, DEAD, DEAD]})),
        "refuted": study(fig02=lines({2: [0.9, DEAD, DEAD], 64: [0.9, 0.9, DEAD]})),
        "undecided": study(fig02=lines({2: [0.9, SOME, DEAD], 64: [0.9, DEAD, DEAD]})),
    },
    "C6": {
        "supported": study(sec32=curve({4: 0.765, 8: 0.7, 128: DEAD})),
        "refuted": study(sec32=curve({4: 0.765, 8: 0.7, 128: 0.7})),
        "undecided": study(sec32=curve({4: 0.765, 8: 0.7, 128: SOME})),
    },
    "C7": {
        "supported": curves({4: [0.5, 0.9], 64: [0.505, 0.905], 128: [0.4, 0.8]}),
        "refuted": curves({4: [0.5, 0.9], 64: [0.4, 0.9], 128: [0.3, 0.8]}),  # they end together
        "undecided": curves({4: [0.5, 0.9], 64: [0.505, 0.905], 128: [0.4, 0.8]}, spread=0.05),
    },
    "C8": {
        "supported": pair({2: 0.8, 8: 0.8, 32: 0.8}, {2: 0.7, 8: 0.85, 32: 0.85}, "fig01", "fig05"),
        "refuted": pair({2: 0.8, 8: 0.8, 32: 0.8}, {2: 0.7, 8: 0.75, 32: 0.85}, "fig01", "fig06"),
        "undecided": pair({2: 0.8}, {2: 0.81}, "fig01", "fig05", spread=0.1),
    },
    "C9": {
        "supported": study(fig05=curve({2: 0.8, 8: 0.9, 128: 0.85})),
        "refuted": study(fig05=curve({2: 0.9, 8: 0.85, 128: 0.8})),
        "undecided": study(fig05=curve({2: 0.8, 8: 0.9, 128: 0.85}, spread=0.1)),
    },
    "C10": best_at(32, 64, "fig06"),
    "C11": {
        "supported": pair({8: 0.85}, {32: 0.855}, "fig05", "fig06"),
        "refuted": pair({8: 0.85}, {32: 0.87}, "fig05", "fig06"),
        "undecided": pair({8: 0.85}, {32: 0.855}, "fig05", "fig06", spread=0.02),
    },
    "C12": {
        "supported": study(fig08=curve({2: 0.85, 8: 0.9, 64: 0.8, 512: 0.7})),
        "refuted": study(fig08=curve({2: 0.95, 8: 0.9, 64: 0.8, 512: 0.7})),
        "undecided": study(fig08=curve({2: 0.85, 8: 0.9, 64: 0.88, 512: 0.9}, spread=0.1)),
    },
    "C13": {
        "supported": study(fig08=UP_TO_16, fig09=curve({2: 0.9, 16: DEAD, 128: DEAD})),
        "refuted": study(fig08=UP_TO_16, fig09=curve({2: 0.9, 16: 0.9, 128: DEAD})),
        "undecided": study(fig08=curve({2: 0.9, 16: 0.9, 128: SOME})),
    },
    "C14": {
        "supported": pair(FLAT, WARM, "fig09", "fig11"),
        "refuted": pair(FLAT, HELPED, "fig08", "fig10"),
        "undecided": pair(FLAT, WARM, "fig08", "fig10", spread=0.1),
    },
    "C15": {
        "supported": study(fig10=curve({2: 0.85, 8: 0.9, 128: 0.89, 512: 0.7})),
        "refuted": study(fig10=curve({2: 0.85, 8: 0.9, 128: 0.8, 512: 0.7})),
        "undecided": study(fig10=curve({2: 0.7, 8: 0.9, 128: [0.83, 0.88, 0.93], 512: 0.7})),
    },
    "C16": {
        "supported": pair({16: 0.9, 64: 0.88}, {16: 0.7, 64: 0.6}, "fig10", "fig11"),
        "refuted": pair({16: 0.9, 64: 0.8}, {16: 0.7, 64: 0.68}, "fig10", "fig11"),
        "undecided": pair({16: 0.9, 64: 0.85}, {16: 0.7, 64: 0.64}, "fig10", "fig11", spread=0.05),
    },
    "C17": {
        "supported": pair(HELPED, HELPED, "fig08", "fig10"),
        "refuted": pair(FLAT, WARM, "fig09", "fig11"),
        "undecided": study(fig10=curve({8: 0.81, 64: 0.8}, spread=0.1)),
    },
    "C18": best_at(64, 128, "fig12"),
    "C19": {
        "supported": study(fig12=lines({8: [0.7, 0.8], 64: [0.69, 0.6]})),
        "refuted": study(fig12=lines({8: [0.7, 0.8], 64: [0.5, 0.75]})),
        "undecided": study(fig12=lines({8: [0.7, 0.8, SOME], 64: [0.69, 0.6, 0.7]})),
    },
    "C20": {
        "supported": study(fig13=bn_batches({(8, 2): 0.8, (64, 2): 0.7, (8, 4): 0.8, (64, 4): 0.79})),
        "refuted": study(fig14=bn_batches({(8, 2): 0.8, (64, 2): 0.7, (8, 4): 0.8, (64, 4): 0.81})),
        "undecided": study(fig13a=bn_batches({(8, 2): 0.8, (64, 2): 0.79}, spread=0.1)),
    },
    "C21": {
        "supported": study(fig13b=bn_batches({(8, 4): 0.8, (8, 8): 0.79, (64, 8): 0.8, (64, 64): 0.7})),
        "refuted": study(fig13b=bn_batches({(8, 4): 0.8, (8, 8): 0.79, (64, 8): 0.7, (64, 64): 0.8})),
        "undecided": study(fig13b=bn_batches({(64, 8): 0.8, (64, 64): 0.79}, spread=0.1)),
    },
    "C22": {
        "supported": study(fig14=bn_batches({(64, 64): 0.8, (64, 8): 0.7, (256, 32): 0.8, (256, 128): 0.7})),
        "refuted": study(fig14=bn_batches({(64, 64): 0.8, (64, 8): 0.7, (256, 32): 0.7, (256, 128): 0.8})),
        "undecided": study(fig14=bn_batches({(64, 64): 0.8, (64, 8): 0.79}, spread=0.1)),
    },
    "C23": {
        "supported": study(fig15=curve({2: 0.9, 32: 0.85, 64: 0.8}, norm="none")),
        "refuted": study(fig15=curve({2: 0.8, 32: 0.85, 64: 0.8}, norm="none")),
        "undecided": study(fig15=curve({2: 0.82, 32: 0.81, 64: 0.8}, spread=0.1, norm="none")),
    },
    "C24": {
        "supported": study(fig16=lines({2: [0.9, 0.9, 0.9], 8: [0.9, 0.9, DEAD], 128: [0.9, DEAD, DEAD]}, norm="none")),
        "refuted": study(fig16=lines({2: [0.9, DEAD, DEAD], 8: [0.9, 0.9, DEAD], 128: [0.9, 0.9, 0.9]}, norm="none")),
        "undecided": study(fig16=lines({2: [0.9, SOME], 8: [0.9, SOME], 128: [0.9, SOME]}, norm="none")),
    },
    "C25": {
        "supported": pair({8: 0.85, 64: 0.7}, {8: 0.86, 64: 0.75}, "fig17", "fig08"),
        "refuted": pair({8: 0.85, 64: 0.7}, {8: 0.9, 64: 0.72}, "fig17", "fig18"),
        "undecided": pair({8: 0.85, 64: 0.7}, {8: 0.86, 64: 0.75}, "fig08", "fig18", spread=0.1),
    },
    "C26": {
        "supported": measured({2: 1.0, 4: 2.0, 8: 4.0}, {2: 3.0, 4: 6.1, 8: 12.0}),
        "refuted": measured({2: 1.0, 4: 4.0, 8: 16.0}, {2: 1.0, 4: 4.1, 8: 16.0}),
        "undecided": measured({2: 1.0, 4: 2.0, 8: 4.0}, {2: 1.0, 4: 2.8, 8: 8.0}),
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("claim", CASES)
@pytest.mark.parametrize("verdict", ["supported", "refuted", "undecided"])
def test_each_claim_gets_each_verdict(claim: str, verdict: str):
    row = judged(**CASES[claim][verdict]).loc[claim]
    assert row["verdict"] == verdict, row["evidence"]
    assert row["low"] <= row["high"]
    assert row["effect"] and row["unit"] and row["figures"] and row["evidence"]


def region(unit: str, at_least: float | None = None, at_most: float | None = None) -> dict:
    return {"at_least": at_least, "at_most": at_most, "unit": unit}


ABOVE_0 = region("points", at_least=0)
ABOVE_MARGIN = region("points", at_least=THRESHOLDS["margin"])
SAME = region("points", -THRESHOLDS["same"], THRESHOLDS["same"])
NEAR = region("points", -THRESHOLDS["near"], THRESHOLDS["near"])
NOT_FAR_BELOW = region("points", at_most=THRESHOLDS["near"])
MORE_RATES = region("rates", at_least=0)
MOST_SEEDS = region("% of seeds", at_least=100 * THRESHOLDS["converged_share"])
SLOPE_1 = region("slope", 1 - THRESHOLDS["slope_tolerance"], 1 + THRESHOLDS["slope_tolerance"])

COMPARISONS: dict[str, list[tuple[str, float, dict]]] = {
    "C1": [("fig01: best inside at m = 8 at 2⁻⁸ (90.0 %), outside at m = 16 at 2⁻⁸ (80.0 %)", 10, ABOVE_0)],
    "C2": [
        ("fig02: best inside at m = 2 at 2⁻⁸ (90.0 %), outside at m = 8 at 2⁻⁸ (80.0 %)", 10, ABOVE_0),
        ("fig03: best inside at m = 2 at 2⁻⁸ (90.0 %), outside at m = 8 at 2⁻⁸ (80.0 %)", 10, ABOVE_0),
    ],
    "C3": [("fig01: at the best rate 2⁻⁸ 0 of 5 seeds converged at m = 128", 100, MOST_SEEDS)],
    "C4": [
        (
            "fig01: from m = 2 to the last m at which all seeds train accuracy falls by 10.0 points, over 1 rate",
            10, ABOVE_MARGIN,
        ),
        ("fig01: of the rates that train at m = 2, 100 % fail at the largest m", 100, MOST_SEEDS),
    ],
    "C5": [("fig02: 3.0 rates converged on average over m ≤ 8, 1.0 at m = 64", 2, MORE_RATES)],
    "C6": [
        ("sec32: at the rate where most do, m = 4: 5 of 5 seeds converged", 100, MOST_SEEDS),
        ("sec32: at the rate where most do, m = 8: 5 of 5 seeds converged", 100, MOST_SEEDS),
        ("sec32: at the rate where most do, m = 128: 0 of 5 seeds converged", 100, MOST_SEEDS),
        ("sec32: best at m = 4 at 2⁻⁸ (76.5 %), 76 % expected", 0.5, NEAR),
    ],
    "C7": [
        ("fig04, epochs 1 to 2: m = 4 averages 50.0 %, all of m = 4 ... 64 50.2 %", -0.25, SAME),
        ("fig04, epochs 1 to 2: m = 64 averages 50.5 %, all of m = 4 ... 64 50.2 %", 0.25, SAME),
        ("fig04, epochs 3 to 4: m = 4 averages 90.0 %, all of m = 4 ... 64 90.3 %", -0.25, SAME),
        ("fig04, epochs 3 to 4: m = 64 averages 90.5 %, all of m = 4 ... 64 90.3 %", 0.25, SAME),
        ("fig04, epochs 1 to 4: m = 128 averages 60.0 %, m = 4 ... 64 70.2 %", 10.25, ABOVE_MARGIN),
    ],
    "C8": [
        (
            "fig05: median gain +5.0 points over m = 2 ... 32, from -10.0 at m = 2 to +5.0 at m = 8",
            5, ABOVE_MARGIN,
        ),
    ],
    "C9": [
        ("fig05: best inside at m = 8 at 2⁻⁸ (90.0 %), outside at m = 128 at 2⁻⁸ (85.0 %)", 5, ABOVE_0),
        ("fig05: m = 2 reaches 80.0 %, m = 8 at 2⁻⁸ (90.0 %) is the best in 8 ... 64", 10, ABOVE_MARGIN),
    ],
    "C10": [("fig06: best inside at m = 32 at 2⁻⁸ (90.0 %), outside at m = 64 at 2⁻⁸ (80.0 %)", 10, ABOVE_0)],
    "C11": [("fig06: best at m = 32 at 2⁻⁸ (85.5 %), in fig05 at m = 8 at 2⁻⁸ (85.0 %)", 0.5, SAME)],
    "C12": [
        ("fig08: best inside at m = 8 at 2⁻⁸ (90.0 %), outside at m = 2 at 2⁻⁸ (85.0 %)", 5, ABOVE_0),
        ("fig08: from 90.0 % at m = 8 to 70.0 % at m = 512", 20, ABOVE_MARGIN),
    ],
    "C13": [
        (f"{figure}: at the best rate 2⁻⁸, m = {m}: {count} of 5 seeds converged", 100, MOST_SEEDS)
        for figure, counts in (("fig08", (5, 5, 0)), ("fig09", (5, 0, 0)))
        for m, count in zip((2, 16, 128), counts, strict=True)
    ],
    "C14": [
        ("fig11: +2.5 points on average over m = 8 ... 256 against fig09", 2.5, ABOVE_MARGIN),
        ("fig11: +5.0 points at m > 32, +0.0 at smaller m", 5, ABOVE_MARGIN),
    ],
    "C15": [
        ("fig10: best inside at m = 8 at 2⁻⁸ (90.0 %), outside at m = 128 at 2⁻⁸ (89.0 %)", 1, ABOVE_0),
        ("fig10: m = 128 reaches 89.0 %, m = 8 90.0 %", 1, NOT_FAR_BELOW),
    ],
    "C16": [
        ("fig11: best inside at m = 16 at 2⁻⁸ (70.0 %), outside at m = 64 at 2⁻⁸ (60.0 %)", 10, ABOVE_0),
        ("fig11: m = 16 ... 64 lose 10.0 points, 2.0 in fig10", 8, ABOVE_MARGIN),
    ],
    "C17": [
        ("fig10: m = 64 ... 256 average 80.0 %, m = 8 ... 32 85.0 %", 5, ABOVE_MARGIN),
        ("fig10: m = 64 ... 256 average 80.0 %, m = 8 ... 32 of fig08 85.0 %", 5, ABOVE_MARGIN),
    ],
    "C18": [("fig12: best inside at m = 64 at 2⁻⁸ (90.0 %), outside at m = 128 at 2⁻⁸ (80.0 %)", 10, ABOVE_0)],
    "C19": [
        ("fig12: large m lie 20.0 points below small at the best rate 2⁻⁷, 1.0 at 2⁻⁸", 19, ABOVE_0),
        ("fig12: m = 8 at 2⁻⁸: 5 of 5 seeds converged", 100, MOST_SEEDS),
        ("fig12: m = 8 at 2⁻⁷: 5 of 5 seeds converged", 100, MOST_SEEDS),
    ],
    "C20": [
        ("fig13, b = 2: from 80.0 % at m = 8 to 70.0 % at m = 64", 10, ABOVE_MARGIN),
        ("fig13, b = 4: from 80.0 % at m = 8 to 79.0 % at m = 64", 1, ABOVE_MARGIN),
    ],
    "C21": [
        ("fig13b, m = 64: best inside at b = 8 at 2⁻⁸ (80.0 %), outside at b = 64 at 2⁻⁸ (70.0 %)", 10, ABOVE_0),
        ("fig13b, m = 64: best below m at b = 8 at 2⁻⁸ (80.0 %), the whole batch has 70.0 %", 10, ABOVE_0),
    ],
    "C22": [
        ("fig14, m = 64: best inside at b = 64 at 2⁻⁸ (80.0 %), outside at b = 8 at 2⁻⁸ (70.0 %)", 10, ABOVE_0),
        ("fig14, m = 256: best inside at b = 32 at 2⁻⁸ (80.0 %), outside at b = 128 at 2⁻⁸ (70.0 %)", 10, ABOVE_0),
    ],
    "C23": [
        ("fig15: best inside at m = 2 at 2⁻⁸ (90.0 %), outside at m = 64 at 2⁻⁸ (80.0 %)", 10, ABOVE_0),
        ("fig15: from 90.0 % at m = 2 to 85.0 % at m = 32", 5, ABOVE_0),
    ],
    # Widths 3, 2, 1 over log2 m = 1, 3, 7, from their mean -8/3, -2/3, 10/3: slope -6 / (168 / 9), times -6.
    "C24": [("fig16: 3.0 rates converged at m = 2, 1.0 at m = 128", 36 * 9 / 168, MORE_RATES)],
    "C25": [
        ("fig08: +3.0 points on average over m = 8 ... 64 against fig17", 3, ABOVE_MARGIN),
        ("fig08: at the best rate of fig17, 2⁻⁸: +5.0 points at m > 32, +1.0 at smaller m", 4, ABOVE_MARGIN),
        ("fig08: m = 64 average 75.0 %, m = 8 86.0 %", 11, ABOVE_MARGIN),
    ],
    "C26": [("made, epoch 0: slope 1.00 over m = 2 ... 8, 2 seeds", 1, SLOPE_1)],
}  # fmt: skip
"""Of each claim's supported case: what is compared, in words, the effect, and where the claim puts it."""


@pytest.mark.parametrize("claim", CASES)
def test_the_comparisons_of_each_claim(claim: str):
    row = judged(**CASES[claim]["supported"]).loc[claim]
    found = json.loads(row["comparisons"])
    assert [part["comparison"] for part in found] == [told for told, *_ in COMPARISONS[claim]]
    for part, (_, effect, claimed) in zip(found, COMPARISONS[claim], strict=True):
        assert part["effect"] == pytest.approx(effect, abs=0.002)
        assert {key: part[key] for key in claimed} == pytest.approx(claimed)
        assert part["verdict"] == "supported" and part["low"] <= part["effect"] <= part["high"]
        assert part["seeds"] == (2 if claim == "C26" else 5)


MISSING = [np.nan] * 5
THREE = [SOME, [0.7, 0.7, 0.7, DEAD, DEAD]]
LONGER = {8: [0.9, 0.86, DEAD], 32: [0.8, 0.83, DEAD], 64: [0.7, 0.66, DEAD], 128: [0.8, 0.7, DEAD]}

CORNERS: dict[str, tuple[dict, list[tuple[str, float]]]] = {
    # The best rate is 2^-7; 2 of 5 seeds train there.
    "C3": (
        study(fig01=lines({2: [0.8, 0.9], 8: [0.8, 0.85], 128: [0.7, SOME]})),
        [("fig01: at the best rate 2⁻⁷ 2 of 5 seeds converged at m = 128", 60)],
    ),
    # 30 points at 2^-8; at 2^-7 5 points up to m = 32, past a missing cell, before 3 of 5 fail; at 2^-6 m = 2 fails.
    "C4": (
        study(fig01=lines({
            2: [0.9, 0.8, DEAD], 8: [0.8, MISSING, 0.9], 32: [0.7, 0.75, 0.9], 64: [0.6, SOME, 0.9],
            128: [0.6, MISSING, DEAD],
        })),
        [
            (
                "fig01: from m = 2 to the last m at which all seeds train accuracy falls by 17.5 points, over 2 rates",
                17.5,
            ),
            ("fig01: of the rates that train at m = 2, 30 % fail at the largest m", 30),
        ],
    ),
    # A rate that some m lacks counts for none.
    "C5": (
        study(fig01=lines({
            2: [0.9, 0.9, 0.9], 8: [0.9, DEAD, DEAD], 16: [0.9, DEAD, SOME], 64: [DEAD, DEAD, MISSING]
        })),
        [
            ("fig01: 1.5 rates converged on average over m ≤ 8, 1.0 at m = 16", 0.5),
            ("fig01: 1.5 rates converged on average over m ≤ 8, 0.0 at m = 64", 1.5),
        ],
    ),
    # Where most seeds do is the second rate up to m = 8, which the data say and no sample.
    "C6": (
        study(sec32=lines({2: THREE, 3: THREE, 4: THREE, 5: THREE, 6: THREE, 8: [0.76, SOME], 16: [SOME, DEAD],
                           128: [DEAD, DEAD]})),
        [
            *[(f"sec32: at the rate where most do, m = {m}: 3 of 5 seeds converged", 60) for m in (2, 3, 4, 5, 6)],
            ("sec32: at the rate where most do, m = 8: 5 of 5 seeds converged", 100),
            ("sec32: at the rate where most do, m = 16: 2 of 5 seeds converged", 60),
            ("sec32: at the rate where most do, m = 128: 0 of 5 seeds converged", 100),
            ("sec32: best at m = 8 at 2⁻⁸ (76.0 %), 76 % expected", 0),
        ],
    ),
    # m = 2 is in neither half.
    "C7": (
        curves({2: [0.1, 0.2], 4: [0.5, 0.9], 16: [0.5, 0.9], 64: [0.5, 0.9], 128: [0.4, 0.8], 256: [0.3, 0.7]}),
        [
            *[
                (f"fig04, epochs {epochs}: m = {m} averages {at} %, all of m = 4 ... 64 {at} %", 0)
                for epochs, at in (("1 to 2", "50.0"), ("3 to 4", "90.0")) for m in (4, 16, 64)
            ],
            ("fig04, epochs 1 to 4: m = 128 averages 60.0 %, m = 4 ... 64 70.0 %", 10),
            ("fig04, epochs 1 to 4: m = 256 averages 50.0 %, m = 4 ... 64 70.0 %", 20),
        ],
    ),
    # -10, 4 and 6 at the m that both have.
    "C8": (
        pair({2: 0.8, 4: 0.8, 8: 0.8, 32: 0.8}, {4: 0.7, 8: 0.84, 32: 0.86, 64: 0.9}, "fig01", "fig05"),
        [("fig05: median gain +4.0 points over m = 4 ... 32, from -10.0 at m = 4 to +6.0 at m = 32", 4)],
    ),
    "C9": (
        study(fig05=curve({2: 0.5, 4: 0.8, 8: 0.9, 64: 0.95, 128: 0.85})),
        [
            ("fig05: best inside at m = 64 at 2⁻⁸ (95.0 %), outside at m = 128 at 2⁻⁸ (85.0 %)", 10),
            ("fig05: m = 2 reaches 50.0 %, m = 64 at 2⁻⁸ (95.0 %) is the best in 8 ... 64", 45),
        ],
    ),
    "C12": (
        study(fig08=curve({4: 0.95, 8: 0.9, 32: 0.88, 128: 0.82})),
        [
            ("fig08: best inside at m = 4 at 2⁻⁸ (95.0 %), outside at m = 32 at 2⁻⁸ (88.0 %)", 7),
            ("fig08: from 90.0 % at m = 8 to 82.0 % at m = 128", 8),
        ],
    ),
    "C13": (
        study(fig08=lines({16: [0.8, 0.9], 32: [0.8, SOME], 128: [0.8, DEAD]})),
        [
            ("fig08: at the best rate 2⁻⁷, m = 16: 5 of 5 seeds converged", 100),
            ("fig08: at the best rate 2⁻⁷, m = 32: 2 of 5 seeds converged", 60),
            ("fig08: at the best rate 2⁻⁷, m = 128: 0 of 5 seeds converged", 100),
        ],
    ),
    "C15": (
        study(fig10=curve({4: 0.9, 8: 0.88, 16: 0.89, 128: 0.8, 256: 0.7})),
        [
            ("fig10: best inside at m = 4 at 2⁻⁸ (90.0 %), outside at m = 16 at 2⁻⁸ (89.0 %)", 1),
            ("fig10: m = 16 reaches 89.0 %, m = 4 ... 8 89.0 %", 0),
            ("fig10: m = 128 reaches 80.0 %, m = 4 ... 8 89.0 %", 9),
        ],
    ),
    # Over m = 16, 32 and 64, which both have.
    "C16": (
        pair(
            {8: 0.5, 16: 0.9, 32: 0.88, 64: 0.86, 128: 0.7}, {8: 0.9, 16: 0.7, 32: 0.65, 64: 0.6, 256: 0.2},
            "fig10", "fig11",
        ),
        [
            ("fig11: best inside at m = 8 at 2⁻⁸ (90.0 %), outside at m = 32 at 2⁻⁸ (65.0 %)", 25),
            ("fig11: m = 16 ... 64 lose 10.0 points, 4.0 in fig10", 6),
        ],
    ),
    "C17": (
        study(fig11=curve({8: 0.9, 32: 0.8, 33: 0.7, 64: 0.6})),
        [("fig11: m = 33 ... 64 average 65.0 %, m = 8 ... 32 85.0 %", 20)],
    ),
    # 75 and 65 %, 85 and 50 %, 10 and 30 %; at 2^-6 no m trains.
    "C19": (
        study(fig12=lines({8: [0.8, 0.9, DEAD], 32: [0.7, 0.8, DEAD], 64: [0.7, 0.6, 0.5], 128: [0.6, 0.4, DEAD]})),
        [
            ("fig12: large m lie 35.0 points below small at the best rate 2⁻⁷, 10.0 at 2⁻⁸", 25),
            ("fig12: large m lie 35.0 points below small at the best rate 2⁻⁷, -20.0 at 2⁻⁶", 55),
            *[(f"fig12: m = {m} at {rate}: 5 of 5 seeds converged", 100) for m in (8, 32) for rate in ("2⁻⁸", "2⁻⁷")],
        ],
    ),
    # log2 m = 3, 4, 6 lie -4/3, -1/3, 5/3 from their mean, accuracies 5, -5, 0 points: slope -5 / (42 / 9), times -3.
    "C20": (
        study(fig14=bn_batches({(8, 4): 0.8, (16, 4): 0.7, (64, 4): 0.75, (16, 8): 0.8})),
        [("fig14, b = 4: from 80.0 % at m = 8 to 75.0 % at m = 64", 15 * 9 / 42)],
    ),
    "C21": (
        study(fig13b=bn_batches({
            (16, 2): 0.7, (16, 4): 0.8, (16, 8): 0.85, (16, 16): 0.9, (8, 8): 0.9, (8, 4): 0.7
        })),
        [
            ("fig13b, m = 16: best inside at b = 8 at 2⁻⁸ (85.0 %), outside at b = 16 at 2⁻⁸ (90.0 %)", -5),
            ("fig13b, m = 16: best below m at b = 8 at 2⁻⁸ (85.0 %), the whole batch has 90.0 %", -5),
        ],
    ),
    # log2 m = 1, 3, 4 lie -5/3, 1/3, 4/3 from their mean, accuracies 6, -4, -2 points: slope -14 / (42 / 9), times -3.
    "C23": (
        study(fig15=curve({2: 0.9, 8: 0.8, 16: 0.82, 64: 0.5}, norm="none")),
        [
            ("fig15: best inside at m = 2 at 2⁻⁸ (90.0 %), outside at m = 64 at 2⁻⁸ (50.0 %)", 40),
            ("fig15: from 90.0 % at m = 2 to 82.0 % at m = 16", 9),
        ],
    ),
    # With BN from m = 8 on: widths 3, 2, 1 at -5/3, -2/3, 7/3 from the mean of log2 m: slope -4 / (78 / 9), times -4.
    "C24": (
        study(fig16=lines({4: [0.9] * 3, 8: [0.9] * 3, 16: [0.9, 0.9, DEAD], 128: [0.9, DEAD, DEAD]})),
        [("fig16: 3.0 rates converged at m = 8, 1.0 at m = 128", 16 * 9 / 78)],
    ),
    # Best rates gain 5, 2, 0 and 10; at 2^-7, the best of the shorter training and a rate of both, 1, 2, 6 and 20.
    "C25": (
        study(
            fig17=lines({8: [0.8, 0.85], 32: [0.8, 0.81], 64: [0.7, 0.6], 128: [0.7, 0.5]}),
            fig08=table({
                (m, m, RATE * 2**step): seeds(accuracy)
                for m, line in LONGER.items() for step, accuracy in zip((-1, 1, 2), line, strict=True)
            }),
        ),
        [
            ("fig08: +4.2 points on average over m = 8 ... 128 against fig17", 4.25),
            ("fig08: at the best rate of fig17, 2⁻⁷: +13.0 points at m > 32, +1.5 at smaller m", 11.5),
            ("fig08: m = 64 ... 128 average 75.0 %, m = 8 ... 32 86.5 %", 11.5),
        ],
    ),
}  # fmt: skip
"""Studies at the corners of what a claim compares, with its comparisons and their effects."""


@pytest.mark.parametrize("claim", CORNERS)
def test_what_is_compared_at_the_corners_of_a_claim(claim: str):
    case, expected = CORNERS[claim]
    found = json.loads(judged(**case).loc[claim, "comparisons"])
    assert [part["comparison"] for part in found] == [told for told, _ in expected]
    assert [part["effect"] for part in found] == pytest.approx([effect for _, effect in expected], abs=1e-5)


SIZES = [2**step for step in range(9)]
BEST_WITHIN = {
    "C1": (1, 8), "C2": (2, 4), "C9": (8, 64), "C10": (4, 32), "C12": (4, 8), "C15": (4, 8), "C16": (4, 16),
    "C18": (16, 64), "C21": (4, 8), "C22": (16, 64), "C23": (1, 32),
}  # fmt: skip
"""The sizes among which the paper has the best, the smallest and the largest."""


@pytest.mark.slow
@pytest.mark.parametrize("best", SIZES)
def test_each_claim_has_the_best_where_the_paper_has_it(best: int):
    accuracies = {size: 0.9 if size == best else 0.8 for size in SIZES}
    over_m = {f"fig{number:02}": curve(accuracies, norm="none") for number in (1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 15)}
    over_b = bn_batches({(256, b): accuracy for b, accuracy in accuracies.items()})
    told = judged(**study(**over_m, fig13a=over_b, fig13b=over_b, fig14=over_b))
    for claim, (low, high) in BEST_WITHIN.items():
        found = [part for part in json.loads(told.loc[claim, "comparisons"]) if ": best inside " in part["comparison"]]
        inside = low <= best <= high
        assert found and all((part["effect"] > 0) == inside for part in found), claim


def test_the_best_rate_is_usable_up_to_16_on_one_and_8_on_the_other_data():
    told = judged(**study(**dict.fromkeys(("fig07", "fig08", "fig09"), curve(dict.fromkeys(SIZES, 0.9)))))
    found = [(part["comparison"][:5], part["effect"]) for part in json.loads(told.loc["C13", "comparisons"])]
    bounds = {"fig07": 16, "fig08": 16, "fig09": 8}
    assert found == [(figure, 100 * (m <= bound)) for figure, bound in bounds.items() for m in SIZES]


def test_without_a_study_every_claim_names_the_figures_of_the_paper_that_it_rests_on():
    told = judged({})
    assert dict(told["absent"]) == {
        "C1": "fig01", "C2": "fig02, fig03", "C3": "fig01, fig02, fig03", "C4": "fig01, fig02, fig03",
        "C5": "fig01, fig02, fig03", "C6": "sec32", "C7": "fig04", "C8": "fig01, fig05, fig06", "C9": "fig05",
        "C10": "fig06", "C11": "fig05, fig06", "C12": "fig07, fig08, fig09", "C13": "fig07, fig08, fig09",
        "C14": "fig08, fig09, fig10, fig11", "C15": "fig10", "C16": "fig10, fig11",
        "C17": "fig08, fig09, fig10, fig11", "C18": "fig12", "C19": "fig12", "C20": "fig13a, fig13b, fig14",
        "C21": "fig13a, fig13b", "C22": "fig14", "C23": "fig15", "C24": "fig16", "C25": "fig08, fig17, fig18",
        "C26": "",
    }  # fmt: skip
    for column in ("section", "text", "reading"):
        assert list(told[column]) == [getattr(claim, column) for claim in CLAIMS]


@pytest.mark.parametrize(
    ("effect", "unit", "words"),
    [
        (1.25, "points", "+1.2 points"), (-1e-12, "points", "+0.0 points"), (-2, "rates", "-2.0 rates"),
        (59.6, "% of seeds", "60 % of seeds"), (0.9805, "slope", "slope 0.98"), (np.nan, "points", ""),
    ],
)  # fmt: skip
def test_effects_in_words(effect: float, unit: str, words: str):
    assert effect_words(effect, unit) == words


def test_a_figure_without_the_sizes_leaves_a_claim_to_the_others():
    row = judged(**study(fig02=curve({2: 0.9, 8: 0.8}), fig03=curve({2: 0.9, 4: 0.9}))).loc["C2"]
    assert tuple(row[["verdict", "figures", "absent"]]) == ("supported", "fig02", "")


def test_ranges_without_a_rate_that_all_sizes_have_are_unknown():
    row = judged(**study(fig01=lines({2: [0.9, MISSING], 64: [MISSING, 0.9]}))).loc["C5"]
    assert row["verdict"] == "undecided" and row["effect"] == ""
    assert [part["effect"] for part in json.loads(row["comparisons"])] == [None]
    assert row["evidence"] == "fig01: there is no rate that all batch sizes have results at"


def test_the_best_rate_in_words_is_that_of_the_data():
    accuracies = [0.9, *[0.8] * 7]
    told = judged(**study(fig01=one_seed({2: accuracies, 8: accuracies, 128: [DEAD] * 8}))).loc["C3", "evidence"]
    assert told == "fig01: at the best rate 2⁻⁸ 0 of 1 seed converged at m = 128"


@pytest.mark.parametrize("claim", CASES)
def test_each_claim_is_not_run_without_data(claim: str):
    case = CASES[claim]["supported"]
    nothing = {key: value.iloc[:0] if isinstance(value, pd.DataFrame) else value for key, value in case.items()}
    missing = {**case, "runs": case["runs"].assign(accuracy=np.nan, status="missing")} if "runs" in case else nothing
    for told in (judged({}), judged(**nothing), judged(**missing)):
        row = told.loc[claim]
        assert row["verdict"] == "not run"
        assert np.isnan(row["low"]) and np.isnan(row["high"]) and row["effect"] == row["unit"] == row["figures"] == ""
        assert row["seeds"] == row["differences"] == row["to_decide"] == "" and row["comparisons"] == "[]"


def test_there_is_a_case_and_a_row_for_every_claim_in_order():
    assert [claim.name for claim in CLAIMS] == [f"C{number}" for number in range(1, 27)] == list(CASES)
    told = judge({}, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), THRESHOLDS, np.random.default_rng(0))
    assert list(told["claim"]) == list(CASES) and list(told.columns) == list(COLUMNS)
    assert not told["predicate"].str.contains("[{}]").any()
    assert "the mean over m ≤ 8 minus" in told["predicate"][4]


def test_what_is_told_of_a_claim():
    row = judged(**study(fig01=curve({2: 0.975, 8: 0.9, 16: 0.96}))).loc["C1"]
    assert row["effect"] == "+1.5 points" and row["unit"] == "points"
    assert 1 < row["low"] < 1.5 < row["high"] < 2  # seeds agree, but images are 10,000
    assert row["evidence"] == "fig01: best inside at m = 2 at 2⁻⁸ (97.5 %), outside at m = 16 at 2⁻⁸ (96.0 %)"
    assert (row["section"], row["figures"], row["absent"]) == ("3.2", "fig01", "")


def test_figures_that_are_absent_are_named_and_the_others_judged():
    told = judged(**study(fig02=curve({2: 0.9, 8: 0.8}), fig13=bn_batches({(8, 4): 0.8, (8, 2): 0.7})))
    assert tuple(told.loc["C2", ["verdict", "figures", "absent"]]) == ("supported", "fig02", "fig03")
    assert tuple(told.loc["C21", ["verdict", "evidence", "absent"]]) == (
        "not run", "the study has no results of fig13b", "fig13b"
    )  # fmt: skip
    assert tuple(told.loc["C8", ["verdict", "evidence"]]) == (
        "not run", "the study has no results of fig01, fig05, fig06"
    )  # fmt: skip


def test_a_grid_without_the_batch_sizes_of_a_claim_is_not_run():
    row = judged(**study(fig01=curve({2: 0.9, 8: 0.8}))).loc["C1"]
    assert (row["verdict"], row["absent"]) == ("not run", "")
    assert row["evidence"] == "fig01: the study lacks batch sizes that this compares"


def test_one_figure_that_refutes_a_claim_decides_it():
    case = study(fig02=curve({2: 0.9, 8: 0.8}), fig03=curve({2: 0.8, 8: 0.9}))
    row = judged(**case).loc["C2"]
    assert row["verdict"] == "refuted" and row["evidence"].startswith("fig03: ")
    assert row["evidence"].endswith("; of 2 comparisons 1 supported, 1 refuted")


SMALL = {2: 0.76, 4: 0.76, 8: 0.77, 16: 0.76, 32: 0.76}


@pytest.mark.parametrize(
    ("claim", "figure"),
    [("C3", "fig01"), ("C4", "fig01"), ("C6", "sec32"), ("C12", "fig07"), ("C13", "fig08"), ("C24", "fig16")],
)
def test_a_study_that_stops_before_large_m_cannot_tell_what_they_do(claim: str, figure: str):
    told = judged(**study(**{figure: curve(SMALL, norm="none")})).loc[claim]
    assert told["verdict"] == "not run" and told["effect"] == told["figures"] == ""
    assert told["evidence"] == f"{figure}: the study lacks batch sizes that this compares; large m begin at 128"
    reaching = judged(**study(**{figure: curve(SMALL | {128: DEAD}, norm="none")})).loc[claim]
    assert reaching["verdict"] in ("supported", "refuted", "undecided")


def test_half_a_claim_may_be_refuted_but_not_supported():
    half = study(fig07=curve({2: 0.85, 8: 0.9, 16: 0.8, 32: 0.8}))
    assert judged(**half).loc["C12", "verdict"] == "not run"
    assert json.loads(judged(**half).loc["C12", "comparisons"])[0]["verdict"] == "supported"
    assert judged(**study(fig07=curve({2: 0.95, 8: 0.9, 32: 0.8}))).loc["C12", "verdict"] == "refuted"


@pytest.mark.parametrize(("claim", "figure"), [("C14", "fig08"), ("C17", "fig09"), ("C25", "fig17"), ("C8", "fig01")])
def test_a_pair_of_figures_of_which_one_is_absent_is_not_run_even_where_nothing_converged(claim: str, figure: str):
    assert judged(**study(**{figure: curve({2: DEAD, 64: DEAD})})).loc[claim, "verdict"] == "not run"


def test_failing_more_often_is_no_loss_of_accuracy():
    level = {2: [0.9] * 5, 8: [0.9] * 4 + [DEAD], 32: [0.9] * 2 + [DEAD] * 3, 128: [DEAD] * 5}
    row = judged(**study(fig01=curve(level | {4: 0.9}, test_images=10**9))).loc["C4"]
    assert row["verdict"] == "refuted" and row["effect"] == "+0.0 points"
    assert row["evidence"].startswith("fig01: from m = 2 to the last m at which all seeds train accuracy falls by 0.0 ")


def test_both_halves_of_the_claim_on_bn_batches_can_be_true():
    best_at_4 = {(m, b): 0.9 if b == 4 else 0.8 for m in (2, 4, 8, 16, 64) for b in (2, 4, 8, 16, 64) if b <= m}
    row = judged(**study(fig13b=bn_batches(best_at_4))).loc["C21"]
    assert row["verdict"] == "supported"
    said = [part["comparison"] for part in json.loads(row["comparisons"])]
    assert [text.split(":")[0] for text in said if "whole batch" in text] == ["fig13b, m = 16", "fig13b, m = 64"]


def test_with_bn_ranges_are_compared_from_where_the_smallest_m_no_longer_suffer():
    dead_at_2 = {2: [DEAD] * 3, 8: [0.9] * 3, 32: [0.9, 0.9, DEAD], 128: [0.8, DEAD, DEAD]}
    told = judged(**study(fig16=lines(dead_at_2), fig05=lines(dead_at_2)))
    assert told.loc["C24", "verdict"] == told.loc["C9", "verdict"] == "supported"
    assert json.loads(told.loc["C24", "comparisons"])[0]["effect"] == pytest.approx(2)  # 3, 2, 1 at m = 8, 32, 128
    assert judged(**study(fig16=lines(dead_at_2, norm="none"))).loc["C24", "verdict"] != "supported"


def test_a_range_may_widen_at_one_step_and_still_shrink():
    widths = {2: 4, 4: 4, 8: 3, 16: 4, 32: 2, 64: 2, 128: 1}
    runs = lines({m: [0.9] * width + [DEAD] * (5 - width) for m, width in widths.items()}, norm="none")
    row = judged(**study(fig16=runs)).loc["C24"]
    assert row["verdict"] == "supported"
    assert row["effect"] == "+3.0 rates"  # least squares: -sum((x - 3) y) / 28 * 6 with x = 0 ... 6: 14 / 28 * 6


def test_curves_are_compared_over_the_epochs_of_each_learning_rate():
    row = judged(**CASES["C7"]["refuted"]).loc["C7"]
    assert row["evidence"].startswith("fig04, epochs 1 to 2: m = ")
    effects = [(part["comparison"], part["effect"]) for part in json.loads(row["comparisons"])]
    assert effects == [
        ("fig04, epochs 1 to 2: m = 4 averages 50.0 %, all of m = 4 ... 64 45.0 %", pytest.approx(5)),
        ("fig04, epochs 1 to 2: m = 64 averages 40.0 %, all of m = 4 ... 64 45.0 %", pytest.approx(-5)),
        ("fig04, epochs 3 to 4: m = 4 averages 90.0 %, all of m = 4 ... 64 90.0 %", pytest.approx(0)),
        ("fig04, epochs 3 to 4: m = 64 averages 90.0 %, all of m = 4 ... 64 90.0 %", pytest.approx(0)),
        ("fig04, epochs 1 to 4: m = 128 averages 55.0 %, m = 4 ... 64 67.5 %", pytest.approx(12.5)),
    ]


def test_a_run_that_diverged_has_the_accuracy_of_chance_all_along():
    case = CASES["C7"]["supported"]
    runs = case["runs"].assign(status=np.where(case["runs"]["batch_size"] == 128, "diverged", "finished"))
    runs.loc[runs["status"] == "diverged", ["accuracy", "selection_accuracy"]] = DEAD
    *_, larger = json.loads(judged(**case | {"runs": runs}).loc["C7", "comparisons"])
    assert larger["effect"] == pytest.approx(70.25 - 10)


def test_what_is_beside_a_verdict():
    settings = AS_FIGURE_1 | {"data": "digits", "model": "resnet8", "weight_decay": 1e-4, "epochs": 10}
    row = judged(**study(fig01=curve({2: 0.9, 8: 0.9, 128: SOME}, **settings))).loc["C3"]
    assert row["thresholds"] == "large_batch = 128, converged_share = 0.5"
    assert row["differences"] == "ResNet-8 on digits, not reduced AlexNet on CIFAR-10; 10 epochs, not 82"
    assert row["seeds"] == "5" and row["reading"].startswith("a study that stops before large m cannot tell")
    assert row["verdict"] == "undecided" and row["to_decide"].endswith("by the widths of the intervals")
    (part,) = json.loads(row["comparisons"])
    assert {key: part[key] for key in ("effect", "at_least", "at_most", "unit", "seeds", "verdict")} == {
        "effect": 60, "at_least": 50, "at_most": None, "unit": "% of seeds", "seeds": 5, "verdict": "undecided",
    }  # fmt: skip
    fewer = judged(**study(fig02=curve({2: 0.9, 8: [0.8] * 3}), fig03=curve({2: 0.9, 8: 0.8}))).loc["C2"]
    assert fewer["seeds"] == "3 to 5" and fewer["to_decide"] == fewer["differences"] == ""


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
        ("fig01", {"train_images": 10_000}, ["10,000 training images, not 50,000"]),
        ("fig01", {"data": "digits", "train_images": 1437},
         ["digits, not CIFAR-10", "1,437 training images, not 50,000"]),
        ("fig01", {"data": "pictures", "train_images": 60_000}, ["pictures, not CIFAR-10"]),
        ("fig01", {"data": "cifar10-jpeg", "train_images": 10_000},
         ["cifar10-jpeg, not CIFAR-10", "10,000 training images, not 50,000"]),
        ("fig01", {"weight_decay": 1e-4}, ["weight decay 0.0001, not 0.0005"]),
        ("fig01", {"lr_drops": "0.5"}, ["rate drops at 0.5, not 0.5 0.75"]),
        ("fig01", {"lr_drops": ""}, ["rate drops at no time, not 0.5 0.75"]),
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
    assert differences(figure, [pd.DataFrame([AS_FIGURE_1 | settings])]) == words


def test_settings_of_several_experiments_are_named_once():
    shown = [pd.DataFrame([AS_FIGURE_1 | settings]) for settings in (
        {}, {"data": "digits", "model": "vgg", "epochs": 10}, {"data": "digits", "epochs": 20}
    )]  # fmt: skip
    assert differences("fig16", shown) == [
        "vgg on digits, not reduced AlexNet or ResNet-8 or ResNet-20 or ResNet-32 on CIFAR-10 or CIFAR-100",
        "10, 20 epochs, not 82 or 164",
    ]


def test_a_weight_decay_is_that_of_its_model():
    """The paper's for ResNets is another than its for AlexNet."""
    alexnet = AS_FIGURE_1 | {"weight_decay": 1e-4}
    shown = [pd.DataFrame([settings]) for settings in (alexnet, AS_FIGURE_8 | {"model": "resnet8"})]
    assert differences("fig15", shown) == ["weight decay 0.0001, not 0.0005"]


def test_the_study_of_the_paper_has_the_papers_settings(monkeypatch):
    monkeypatch.chdir(CONFIG.parent)
    config = yaml.safe_load((CONFIG / "config.yaml").read_text(encoding="utf-8"))
    study = load_study(config | {"study": "paper"})
    metas = {
        label: Meta(label, ("class",) * size.classes, size.shape, (), (), size.train, size.test, "0" * 64)
        for label, size in ORIGINALS.items()
    }
    runs = runs_table(study.planned(), {}, metas, threshold=0.8).groupby("experiment")
    shown = {figure: study.figures[figure]["experiments"] for figure in FIGURES if figure in study.figures}
    assert len(shown) >= 17
    found = {figure: differences(figure, map(runs.get_group, names)) for figure, names in shown.items()}
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
    assert {figure for claim in CLAIMS for figure in claim.figures} == set(FIGURES)


def test_an_experiment_in_which_nothing_converged_decides_nothing():
    told = judged(**study(fig01=curve({2: DEAD, 16: DEAD}), sec32=curve({2: DEAD, 16: DEAD})))
    for claim in ("C1", "C3", "C5"):
        assert told.loc[claim, "verdict"] == "undecided"
        assert told.loc[claim, "evidence"].startswith("fig01: no run has converged")
    assert told.loc["C6", "verdict"] == "refuted"


def test_rates_are_chosen_on_the_validation_split_and_the_test_accuracy_there_counts():
    cells = {(8, 8, RATE): [0.80], (8, 8, 2 * RATE): [0.90], (16, 16, RATE): [0.85]}
    runs = table(cells, test_images=10**9)
    assert judged(**study(fig01=runs)).loc["C1", "effect"] == "+5.0 points"
    honest = runs.assign(selection_accuracy=[0.9, 0.8, 0.8])
    assert judged(**study(fig01=honest)).loc["C1", "effect"] == "-5.0 points"


def one_seed(accuracies: dict[int, list[float]]) -> pd.DataFrame:
    """Runs from {m: [accuracy at each rate]}, a seed each."""
    return lines({m: [[accuracy] for accuracy in line] for m, line in accuracies.items()})


def test_with_one_seed_the_border_decides_nothing_and_the_inside_does():
    at_border = one_seed({2: [0.9, 0.9, 0.9, 0.9], 64: [0.7, DEAD, DEAD, DEAD]})
    assert judged(**study(fig01=at_border)).loc["C5", "verdict"] == "supported"  # 4 against 1, give or take 2
    at_border = one_seed({2: [0.9, 0.9, 0.9, DEAD], 64: [0.7, 0.7, DEAD, DEAD]})
    assert judged(**study(fig01=at_border)).loc["C5", "verdict"] == "undecided"


@pytest.mark.parametrize("at_large", [[DEAD, 0.7], [DEAD, DEAD, 0.7]])
def test_with_one_seed_any_rate_that_trains_may_be_the_best(at_large: list):
    small = [0.9, 0.8, 0.8][: len(at_large)]
    accuracies = {2: small, 8: small, 128: at_large}
    assert judged(**study(fig01=one_seed(accuracies))).loc["C3", "verdict"] == "undecided"


@pytest.mark.parametrize("accuracy", [0.81, 0.95, 0.6])
def test_one_seed_decides_no_difference_of_accuracies(accuracy: float):
    row = judged(**study(fig01=one_seed({8: [accuracy], 16: [0.8]}))).loc["C1"]
    assert row["verdict"] == "undecided" and row["effect"] == f"{100 * (accuracy - 0.8):+.1f} points"
    assert np.isnan(row["low"]) and np.isnan(row["high"])


def grid_of(runs: pd.DataFrame):
    return read_grid(with_results(runs), np.random.default_rng(0))


def test_a_grid_has_means_over_seeds_and_nan_where_nothing_is():
    cells = {(2, 2, 0.5): [0.8, 0.6], (2, 2, 0.25): [np.nan, np.nan], (8, 8, 0.25): [0.7, np.nan], (8, 8, 0.5): [0.1]}
    grid = grid_of(table(cells))
    assert list(grid.sizes) == [2, 8] and list(grid.base_lrs) == [0.25, 0.5]
    np.testing.assert_allclose(grid.accuracy[0], [[np.nan, 0.7], [0.7, 0.1]])
    np.testing.assert_allclose(grid.converged[0], [[np.nan, 1], [1, 0]])
    np.testing.assert_array_equal(grid.seeds, [[0, 2], [1, 1]])
    assert grid.accuracy.shape == (1 + SAMPLES, 2, 2)
    assert np.isnan(grid.accuracy[:, 0, 0]).all() and not np.isnan(grid.accuracy[:, :, 0]).all()
    np.testing.assert_allclose(grid.best()[0], [0.7, 0.7])
    assert grid.best_words() == "m = 2 at 2⁻¹ (70.0 %)"


def test_a_slope_is_of_the_samples_and_with_one_seed_of_the_residuals_from_the_line():
    several = grid_of(table({(2, 2, RATE): [0.8, 0.81], (8, 8, RATE): [0.76, 0.75], (32, 32, RATE): [0.7, 0.71]}))
    np.testing.assert_allclose(several.slope(), (several.best()[:, 2] - several.best()[:, 0]) / 4)
    # Over log2 m = 1, 3, 5: slope -0.02, residuals 0.01 / 3, -0.02 / 3, 0.01 / 3, one degree of freedom, t = 12.71.
    one = grid_of(table({(2, 2, RATE): [0.80], (8, 8, RATE): [0.75], (32, 32, RATE): [0.72]}))
    error = (6 * 0.0001 / 9 / 1 / 8) ** 0.5
    found = one.slope()
    assert found[0] == pytest.approx(-0.02)
    assert np.percentile(found[1:], [2.5, 97.5]) == pytest.approx(-0.02 + 12.71 * error * np.array([-1, 1]), rel=0.05)
    best = [0.80, 0.75, 0.72, 0.71, 0.66]
    line = stats.linregress(np.arange(1, 6), best)
    found = grid_of(table({(2**k, 2**k, RATE): [accuracy] for k, accuracy in enumerate(best, start=1)})).slope()
    ends = line.slope + line.stderr * stats.t.ppf([0.025, 0.25, 0.75, 0.975], 3)
    assert found[0] == pytest.approx(line.slope)
    assert np.percentile(found[1:], [2.5, 25, 75, 97.5]) == pytest.approx(ends, rel=0.03)
    assert np.isnan(grid_of(table({(2, 2, RATE): [0.8], (8, 8, RATE): [0.7]})).slope()[1:]).all()  # two make any line


def test_luck_raises_two_bests_alike_in_a_sample_and_cancels_in_their_difference():
    cells = {(m, m, RATE): seeds(0.8, 0.01) for m in (2, 4, 8, 32, 64, 128)}
    both = with_results(pd.concat([table(cells), table(cells, experiment="other")], ignore_index=True))
    noise = Noise(both, np.random.default_rng(0))
    one, other = (
        read_grid(runs, np.random.default_rng(0), noise=noise) for _, runs in both.groupby("experiment", sort=False)
    )
    for first, second in (one.split(one.sizes <= 8), (one, other)):
        first, second = first.peak()[1:], second.peak()[1:]
        luck, luck_apart = (np.subtract(*(half.mean() for half in np.split(of, 2))) for of in (first, first - second))
        assert luck > 0.001 and abs(luck_apart) < luck / 4


def test_samples_of_shares():
    cells = {(2, 2, 0.25): [0.9] * 5, (2, 2, 0.5): [0.9, DEAD], (8, 8, 0.25): [0.9], (8, 8, 0.5): [DEAD]}
    shares = grid_of(table(cells)).converged[1:]
    # Mid-P: of 5 of 5 seeds an end at 0.05^(1/5); of 1 of 2 ends where (1 - p)^2 and then 2 p (1 - p) / 2 make 2.5 %.
    assert np.percentile(shares[:, 0, 0], 2.5) == pytest.approx(0.05 ** (1 / 5), abs=0.05)
    assert np.percentile(shares[:, 0, 1], 2.5) == pytest.approx(1 - 0.975, abs=0.02)
    assert (shares[:, 0, 0] == 1).mean() == pytest.approx(0.5, abs=0.06)
    assert shares[:, 1, 0].mean() == pytest.approx(0.75, abs=0.03) == 1 - shares[:, 1, 1].mean()


def test_samples_of_a_share_judged_by_itself_are_low_in_one_half_and_high_in_the_other():
    cells = {(2, 2, 0.25): [0.9] * 5, (2, 2, 0.5): [0.9, 0.9, 0.9, DEAD, DEAD], (8, 8, 0.25): [DEAD] * 5}
    grid = grid_of(table(cells))
    low, high = np.split(grid.exact[1:], 2)
    # Of five seeds at a share of a half: all converge in 1 of 32 studies, three or more in 16, three or fewer in 26.
    assert [(low[:, 0, rate] <= 0.5).mean() for rate in (0, 1)] == pytest.approx([1 / 32, 16 / 32], abs=0.002)
    assert [(high[:, 0, rate] >= 0.5).mean() for rate in (0, 1)] == pytest.approx([1, 26 / 32], abs=0.002)
    assert (high[:, 1, 0] >= 0.5).mean() == pytest.approx(1 / 32, abs=0.002) and (low[:, 1, 0] == 0).all()
    np.testing.assert_array_equal(np.sort(grid.exact, axis=0), np.sort(grid.converged, axis=0))
    assert abs(np.corrcoef(low[:, 0, 0], low[:, 0, 1])[0, 1]) < 0.15  # each in an order of its own
    np.testing.assert_array_equal(grid.having(np.array([8])).exact, grid.exact[:, 1:])


MOST, FEW = [0.9, 0.9, 0.9, DEAD, DEAD], [0.7, 0.7, DEAD, DEAD, DEAD]


@pytest.mark.parametrize(
    ("claim", "figures", "verdict"),
    [
        (
            "C3",
            {"fig01": curve({2: 0.9, 8: 0.85, 128: 0.8}), "fig02": curve({2: 0.9, 8: 0.85, 128: MOST})},
            "undecided",
        ),
        ("C4", {"fig01": curve({2: 0.9, 8: 0.85, 128: 0.8}), "fig02": curve({2: 0.9, 8: 0.8, 128: MOST})}, "undecided"),
        ("C6", {"sec32": curve({2: 0.765, 4: FEW, 8: DEAD, 128: DEAD})}, "undecided"),
        ("C13", {"fig07": curve({2: 0.9, 8: FEW, 16: DEAD, 128: DEAD})}, "undecided"),
        ("C19", {"fig12": curve({2: 0.9, 8: FEW, 16: DEAD, 128: DEAD})}, "not run"),
    ],
)
def test_two_coarse_shares_are_no_surer_than_an_exact_test(claim: str, figures: dict, verdict: str):
    # Five seeds that agree have p = 1 / 32 by themselves, 1 / 16 beside another that may lie outside; mid-P has halves.
    assert judged(**study(**figures)).loc[claim, "verdict"] == verdict


def test_a_border_lies_beside_the_next_rate_that_has_a_result_and_beside_the_ends_of_the_grid():
    def flips(*accuracies: float) -> list[bool]:
        cells = {(2, 2, 2.0**k): [a] for k, a in enumerate(accuracies)}
        return list(grid_of(table(cells)).converged[1:, 0].std(axis=0) > 0)

    assert flips(DEAD, DEAD, np.nan, 0.9, 0.9, 0.9, DEAD) == [True, True, True, False, True, True]
    assert flips(0.9, 0.9, 0.9) == [True, False, True]  # beyond the grid training may fail
    assert flips(DEAD, DEAD, DEAD) == [True, False, False]  # and what is below it may train
    assert flips(0.9) == flips(DEAD) == [True]


def test_the_same_generator_gives_the_same_judgement():
    case = CASES["C14"]["undecided"]
    pd.testing.assert_frame_equal(judged(**case), judged(**case))


def test_a_figure_of_several_experiments_is_judged_for_each():
    runs = pd.concat([curve({2: 0.9, 64: 0.8}, experiment="first"), curve({8: 0.8, 64: 0.9}, experiment="second")])
    row = judged({"fig15": {"kind": "best", "experiments": ["first", "second"]}}, runs).loc["C23"]
    assert row["verdict"] == "refuted" and row["evidence"].startswith("fig15, second: ")


def test_thresholds_are_a_closed_list():
    config = yaml.safe_load((CONFIG / "config.yaml").read_text())
    check_config(config)
    for key, value, words in (
        ("margn", 0.2, r"claims.margn: unknown key \(did you mean 'margin'\?\); allowed: margin, same"),
        ("same", -1, "claims.same: -1 is not allowed; allowed: a number from 0 to 100, points of accuracy"),
    ):
        with pytest.raises(UserError, match=f"config/config.yaml: {words}"):
            check_config(config | {"claims": THRESHOLDS | {key: value}})


def random_study(generator: np.random.Generator) -> dict:
    """All figures of the paper over random parts of small grids: missing cells, seeds, columns, whole experiments."""
    names = [*(f"fig{number:02}" for number in range(1, 19)), "fig13a", "fig13b", "sec32"]
    names = [name for name in names if generator.random() < 0.8]
    tables = []
    for name in names:
        sizes = generator.choice([2, 4, 8, 16, 32, 64, 128, 512], generator.integers(1, 6), replace=False)
        bs = [2, 8, 64] if name in ("fig13a", "fig13b", "fig14") else [None]
        rates = [RATE * 2.0**k for k in range(generator.integers(1, 4))]
        cells = {
            (m, b or m, rate): generator.choice([0.9, 0.85, 0.3, DEAD, np.nan], generator.integers(1, 4)).tolist()
            for m in sizes for b in bs for rate in rates if generator.random() < 0.7
        }  # fmt: skip
        runs = table(cells, experiment=f"of-{name}", norm=generator.choice(["none", "batch"]))
        if len(runs) and generator.random() < 0.2:
            runs[generator.choice(["test_images", "selection_accuracy", "converged", "norm", "base_lr"])] = np.nan
        tables.append(runs)
    specs = {name: {"kind": "accuracy", "experiments": [f"of-{name}"]} for name in names}
    for name in {"fig04"} & set(names):
        specs[name]["base_lr"] = RATE
    points = [(f"run{i}", 0, m, generator.choice([np.nan, 0, 1.0, 2.0]), 8) for i in range(3) for m in (2, 8, 32, 64)]
    variance = pd.DataFrame(points, columns=NO_VARIANCE.columns).sample(frac=generator.random(), random_state=generator)
    return {"figures": specs, "runs": pd.concat(tables or [table({})]), "variance": variance}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_judging_never_fails_on_part_of_a_study(seed: int):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = judged(**random_study(np.random.default_rng(seed)))
    assert list(told.index) == list(CASES)
    assert set(told["verdict"]) <= {"supported", "refuted", "undecided", "not run"}
    decided = told[told["verdict"].isin(["supported", "refuted"])]
    assert decided[["low", "high"]].notna().all(axis=None)
