"""What several files of tests need: small made data and runs, copies of the project, calls of snakemake."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from helpers import warm
from smallbatch import data
from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.models import content
from smallbatch.runs.records import Epoch, Outcome
from smallbatch.study.experiments import Run, Setting
from smallbatch.study.rates import BaseLr

PROJECT = Path(__file__).parents[2]

GRID = {
    "data": "digits", "model": "alexnet", "weight_decay": 5e-4, "epochs": 1, "train_images": 128,
    "batch_sizes": [16, 64], "base_lrs": ["2^-10", "2^-8"],
}  # fmt: skip
"""An experiment of four runs that take a second."""

TINY = {
    "title": "Tiny",
    "description": "For the tests.",
    "reproduces": "paper",
    "seeds": [1],
    "experiments": {
        "alexnet": GRID,
        "bn": GRID | {
            "model": "resnet8", "weight_decay": 1e-4, "norm": "batch", "bn_batch_sizes": [8, 16],
            "base_lrs": {"best_of": ["alexnet"]},
        },
    },
    "figures": {
        "fig01": {"kind": "accuracy", "title": "A", "experiments": ["alexnet"]},
        "fig13": {"kind": "bn-batch", "title": "B", "experiments": ["bn"]},
    },
}  # fmt: skip
"""A study of eight such runs, four of which take their rates from the others."""


PAPERS_RECIPE = {
    "lr_schedule": "drops", "lr_drops": "0.5 0.75", "lr_drop_factor": 0.1, "warmup": False,
    "warmup_fraction": 0.05, "warmup_start": 1 / 32, "optimizer": "sgd", "betas": "", "eps": 1e-8,
    "weight_decay_excludes": "", "clip_norm": float("nan"), "label_smoothing": 0.0,
    "steps": None, "images": None, "loss": "cross_entropy", "loss_function": None, "loss_content": None, "metrics": "",
    "chance": 0.1,
}  # fmt: skip
"""Columns of a table of runs, as the paper trains ten classes without warm-up."""


def write_study(project: Path, name: str, values: dict) -> None:
    """Lay a study into a project."""
    path = project / "config" / "studies" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def made_data(folder: Path, *, train: int = 64, test: int = 32, shape=(1, 8, 8), classes: int = 4) -> Path:
    """A data set that can be learnt: each class is a bright patch in a place of its own, under noise."""
    draws = np.random.default_rng(0)
    splits = []
    for count in (train, test):
        labels = np.arange(count, dtype=np.int64) % classes
        images = draws.integers(0, 80, (count, *shape), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 2 * label % shape[1] :, : shape[2] // 2] += 90
        splits.append(prepared.Split(images, labels))
    prepared.write(folder, folder.name, [f"class{i}" for i in range(classes)], *splits)
    return folder


def prepared_beside(path: Path, settings: dict[str, Any]) -> prepared.Prepared:
    """The data that lie at a path, checked and prepared beside it; nothing else is left there."""
    folder = path.parent / "made" / "mine"
    data.check_settings("config.yaml", "mine", settings)
    data.check_source("config.yaml", "mine", settings)
    data.prepare("mine", settings, folder, folder)
    assert data.reason_to_prepare("mine", settings, folder) is None
    assert [entry.name for entry in folder.parent.iterdir()] == ["mine"]
    return prepared.read(folder)


@contextlib.contextmanager
def refusal(path: Path, *parts: str) -> Iterator[None]:
    """A block that ends in one line which names a path and these parts, and prepares nothing beside it."""
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert message.startswith(str(path))
    for part in parts:
        assert part in message
    assert "\n" not in message
    assert not list((path.parent / "prepared").glob("*"))


def a_run(*, batch_size: int = 4, b: int | None = None, base_lr: float = 2**-8, seed: int = 1, **setting) -> Run:
    """A run on the made data; what is not said has a plain value."""
    values = {"data": "made", "model": "alexnet", "weight_decay": 5e-4, "epochs": 2} | setting
    values = {"model_content": content(values["model"])} | values
    return Run(Setting(**values), batch_size, b or batch_size, BaseLr(base_lr), seed)


def an_outcome(run: Run, accuracy: float = 0.5, diverged_at: int | None = None, **changed) -> Outcome:
    """What could have come out of a run; where nothing is said, it took 1 s."""
    count = 0 if diverged_at else run.setting.epochs
    epochs = [Epoch(epoch, 0.1, 2.0, 1.5, accuracy, float("nan")) for epoch in range(1, count + 1)]
    plain = {"seconds": 1.0, "images": 64, "lanes": 1, "peak_memory": 10**6, "variance": []}
    return Outcome(epochs, diverged_at, **plain | changed)


def check_fields(ours: NamedTuple, theirs: NamedTuple, **tolerance: float) -> None:
    """Each field is as that of `theirs`, within a tolerance as of `pytest.approx`; says of which it is not, and both.

    (Compared as a whole, a named tuple and what `pytest.approx` makes of one fail without their numbers.)
    """
    pairs = zip(theirs._fields, ours, theirs, strict=True)
    wrong = [
        f"{field}: {own!r}, not {other!r}"
        for field, own, other in pairs
        if own != pytest.approx(other, nan_ok=True, **tolerance)
    ]
    assert not wrong, "; ".join(wrong)


def digests(store, runs, fingerprint):
    """Of these runs those that are there and whole, by name, each with the digest of its record."""
    return {run.name(fingerprint): digest for run in runs if (digest := store.digest(run, fingerprint))}


def training_settings(**changed) -> dict:
    """`training` as config/config.yaml has it, on the CPU; with all weights kept."""
    config = yaml.safe_load((PROJECT / "config/config.yaml").read_text())
    return config["training"] | {"device": "cpu", "keep_weights": "all"} | changed


def copy_project(copy: Path) -> Path:
    """Copy the project's own files to a new folder; returns it."""
    documents = ("README.md", "LICENSE", "CITATION.cff", "Makefile", "pyproject.toml")
    for part in ("Snakefile", "workflow", "config", "profiles", "slurm", "envs", "docs", *documents):
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(source, copy / part)
    return copy


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder of all processes of these tests."""
    folder = factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills once for all processes of these tests, which leave it as it is and work in copies."""
    root = shared_folder(factory)
    folder = root / name
    with open(root / f"{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            begun = root / f"{name}-begun"
            shutil.rmtree(begun, ignore_errors=True)
            begun.mkdir()
            make(begun)
            begun.rename(folder)
    return folder


def snakemake(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run snakemake in `folder`, with options of `subprocess.run` if there are any; what it printed is in stdout."""
    python = sys.executable if options else warm.python()
    options = {"stdin": subprocess.DEVNULL} | options
    options |= {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": 570}
    return subprocess.run([python, "-m", "snakemake", *arguments], cwd=folder, **options)
