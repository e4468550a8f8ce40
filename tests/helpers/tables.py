"""Tables of a study that a report is made of."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import PAPERS_RECIPE

TEMPLATE = Path(str(files("smallbatch"))) / "templates" / "report.html.j2"
HERE = {"python": "3.11.2", "torch": "2.15.0", "device": "Some CPU", "commit": "abc123"}

CLAIM = {"section": "3.2", "text": "Small m is best", "predicate": "best at m <= 8", "effect": "", "low": np.nan,
         "high": np.nan, "unit": "", "figures": "", "absent": "", "evidence": "", "seeds": "", "thresholds": "",
         "reading": "", "differences": "", "to_decide": "", "comparisons": "[]"}  # fmt: skip


def planned(results: dict, experiment: str = "alex", **more) -> pd.DataFrame:
    """Runs from {(m, base_lr): [accuracy for each seed]}: a number finished, "diverged" or "missing"."""
    rows = []
    for (m, base_lr), seeds in results.items():
        for seed, result in enumerate(seeds):
            status = result if isinstance(result, str) else "finished"
            accuracy = {"diverged": 0.1, "missing": np.nan}.get(status, result)
            rows.append({
                "experiment": experiment, "run": f"{experiment}-{m}-{base_lr}-{seed}", "data": "digits", "classes": 10,
                "train_images": 1437, "model": "alexnet", "norm": "none", "norm_layers": "all", "weight_decay": 5e-4,
                "epochs": 20, **PAPERS_RECIPE, "augment": "none", "batch_size": m, "bn_batch_size": m,
                "base_lr": base_lr, "seed": seed, "status": status, "accuracy": accuracy,
                "selection_accuracy": accuracy, "test_images": 360, "momentum": 0.0, "momentum_scaled": False,
                "lr_scaling": "linear", "precision": "float32", "selection": "test", "bar": 0.8,
                "converged": status == "finished" and accuracy > 0.5,
                "seconds": np.nan if status == "missing" else 600.0, "images_per_second": 100.0,
                **(HERE if status != "missing" else {}), **more,
            })  # fmt: skip
    return pd.DataFrame(rows).astype({"accuracy": float})


def study_told(**more) -> dict:
    settings = {"data": "digits", "base_lrs": (2**-8, 0.003), "warmup": False, "train_images": None}
    told = {"name": "made", "title": "A study", "description": "What it is for.", "scale": {}, "repository": None}
    return {**told, "experiments": {"alex": settings}} | more


def claims(**more) -> pd.DataFrame:
    """A claim for each verdict; C1 and C3 rest on fig01, C3 and C4 on figures that are not there."""
    rows = [
        {"claim": "C1", "verdict": "supported", "effect": "+1.2 points", "low": 0.4, "high": 2.0, "unit": "points",
         "figures": "fig01", "evidence": "Best at m = 2 (97.5 %), best of m > 8: 96.3 %."},
        {"claim": "C2", "verdict": "refuted", "effect": "slope 0.98", "low": 0.9, "high": 1.05, "figures": "fig02"},
        {"claim": "C3", "verdict": "undecided", "figures": "fig01, fig02", "absent": "fig03, sec32"},
        {"claim": "C4", "verdict": "not run", "absent": "fig12"},
    ]  # fmt: skip
    return pd.DataFrame([CLAIM | row | more for row in rows])
