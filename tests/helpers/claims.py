"""Made studies, of which claims are judged."""

import numpy as np
import pandas as pd
import yaml

from helpers import PAPERS_RECIPE, PROJECT
from smallbatch.analysis.claims.verdict_table import judge

CONFIG = PROJECT / "config"
THRESHOLDS = yaml.safe_load((CONFIG / "config.yaml").read_text(encoding="utf-8"))["claims"]
NO_VARIANCE = pd.DataFrame(columns=["run", "epoch", "batch_size", "trace", "draws"])
NO_EPOCHS = pd.DataFrame(columns=["run", "epoch", "test_accuracy"])
RATE = 2**-8
DEAD = 0.1
"""The accuracy of a run that did not train: chance."""
AS_FIGURE_1 = {
    "data": "cifar10", "model": "alexnet", "norm": "none", "norm_layers": "all", "augment": "none", **PAPERS_RECIPE,
    "epochs": 82, "lr_drops": "0.5 0.75", "train_images": 50_000, "weight_decay": 5e-4, "momentum": 0.0,
    "momentum_scaled": False, "lr_scaling": "linear", "precision": "float32", "selection": "test",
}  # fmt: skip


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
    plain = {"norm": "none", "lr_scaling": "linear", "momentum_scaled": False}
    runs = table({(8, b, RATE): [0.9] * len(traces)}, **plain | settings)
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


def pair(first: dict, second: dict, *names: str, spread: float = 0.0) -> dict:
    return study(**dict(zip(names, (curve(first, spread), curve(second, spread)), strict=True)))


SOME = [0.9, 0.9, DEAD, DEAD, DEAD]


def one_seed(accuracies: dict[int, list[float]]) -> pd.DataFrame:
    """Runs from {m: [accuracy at each rate]}, a seed each."""
    return lines({m: [[accuracy] for accuracy in line] for m, line in accuracies.items()})
