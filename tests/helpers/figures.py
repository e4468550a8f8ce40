"""Runs that figures are drawn from, and what is read of a figure."""

import matplotlib
import numpy as np
import pandas as pd

from helpers import PAPERS_RECIPE
from smallbatch import figures

NO_EPOCHS = pd.DataFrame(columns=["run", "epoch", "learning_rate", "train_loss", "test_loss", "test_accuracy"])
NO_VARIANCE = pd.DataFrame(columns=["run", "epoch", "batch_size", "trace", "draws"])


def draw(spec: dict, runs: pd.DataFrame, epochs: pd.DataFrame, variance: pd.DataFrame = NO_VARIANCE):
    return figures.draw(spec, runs, epochs, variance, spec["experiments"])


def caption(name: str, spec: dict, runs: pd.DataFrame, variance: pd.DataFrame = NO_VARIANCE) -> str:
    return figures.caption(name, spec, runs, variance)


def planned(accuracies: dict, **settings) -> pd.DataFrame:
    """Runs from {(m, b, base_lr): [accuracy for each seed]}: a number finished, "diverged" or "missing"."""
    common = {
        "experiment": "alex", "data": "digits", "classes": 10, "train_images": 1437, "model": "alexnet", "norm": "none",
        "norm_layers": "all", "weight_decay": 5e-4, "epochs": 4, **PAPERS_RECIPE, "augment": "none",
        "seconds": 30.0, "images_per_second": 100.0, "peak_memory_mb": 300.0, "test_images": 360, "momentum": 0.0,
        "momentum_scaled": False, "lr_scaling": "linear", "precision": "float32", "selection": "test", "bar": 0.8,
    } | settings  # fmt: skip
    rows = []
    for (m, b, base_lr), seeds in accuracies.items():
        for seed, result in enumerate(seeds):
            status = result if isinstance(result, str) else "finished"
            accuracy = {"diverged": common["chance"], "missing": np.nan}.get(status, result)
            rows.append(common | {
                "run": f"{common['experiment']}-m{m}-b{b}-{base_lr}-s{seed}", "batch_size": m, "bn_batch_size": b,
                "base_lr": base_lr, "seed": seed, "status": status, "accuracy": accuracy,
                "selection_accuracy": accuracy,
                "converged": status == "finished" and accuracy > 0.5,
            })  # fmt: skip
    return pd.DataFrame(rows).astype({"accuracy": float})


def grid() -> pd.DataFrame:
    """Two batch sizes, three rates, two seeds; one cell missing whole, one in part, two diverged in part or whole."""
    return planned({
        (2, 2, 2**-8): [0.80, 0.90], (2, 2, 2**-7): ["missing", "missing"], (2, 2, 2**-6): [0.70, "diverged"],
        (8, 8, 2**-8): [0.60, "missing"], (8, 8, 2**-7): [0.95, 0.85], (8, 8, 2**-6): ["diverged", "diverged"],
    })  # fmt: skip


def spec(kind: str, *experiments: str, **more) -> dict:
    return {"kind": kind, "experiments": list(experiments or ["alex"]), "title": "A title"} | more


def draw_grid(kind: str = "accuracy"):
    return draw(spec(kind, base_lr=2**-8), grid(), NO_EPOCHS)


def lines(axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label -> x and y of each line that a legend names."""
    handles, labels = axes.get_legend_handles_labels()
    return {label: handle.get_data() for handle, label in zip(handles, labels, strict=True)}


def corners(collection) -> np.ndarray:
    return np.vstack([np.empty((0, 2)), *(path.vertices for path in collection.get_paths())])


def holds(points: np.ndarray, x: float, y: float) -> bool:
    return bool(np.isclose(points, [x, y]).all(axis=1).any())


def note_of(figure) -> str:
    """The note below the plot, on one line."""
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def level(*accuracies: float) -> dict[tuple[int, int, float], list[float]]:
    """m = 2 at rates from 2^-8 on, two seeds each, 0.002 apart."""
    return {(2, 2, 2.0 ** (place - 8)): [a - 0.001, a + 0.001] for place, a in enumerate(accuracies)}


def measured(slope: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = planned({(8, 8, 2**-8): [0.9, 0.8]})
    rows = [(run, epoch, m, 3.0 * m**slope, 32) for run in runs["run"] for epoch in (0, 4) for m in (2, 8, 32)]
    return runs, pd.DataFrame(rows, columns=NO_VARIANCE.columns)


def brightness(color: str) -> float:
    return float(np.dot(matplotlib.colors.to_rgb(color), [0.299, 0.587, 0.114]))


def with_f1() -> pd.DataFrame:
    """The runs of `grid`, which record an F1 of a tenth of their accuracy; those that diverged have 0.02."""
    runs = grid()
    f1 = runs["accuracy"].div(10).where(runs["status"] != "diverged", 0.02)
    return runs.assign(f1=f1, selection_f1=f1, f1_error=0.001, selection_f1_error=0.001)
