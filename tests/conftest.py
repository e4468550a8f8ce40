"""Things that several tests need: small made data, runs, and copies of the project."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import yaml

from smallbatch.data import prepared
from smallbatch.models import content
from smallbatch.runs.store import Epoch, Outcome
from smallbatch.study.experiments import Run, Setting
from smallbatch.study.rates import BaseLr

if TYPE_CHECKING:
    from cluster import Cluster

PROJECT = Path(__file__).parents[1]


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


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The user's cache is left alone; tests and the processes they start share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    return made_data(tmp_path / "data" / "made")


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


def training_settings(**changed) -> dict:
    """`training` as config/config.yaml has it, on the CPU; with all weights kept."""
    config = yaml.safe_load((PROJECT / "config/config.yaml").read_text())
    return config["training"] | {"device": "cpu", "keep_weights": "all"} | changed


@pytest.fixture
def double(monkeypatch):
    """Double precision, so that what differs is logic and not rounding (batches of 2 amplify rounding without end)."""
    import torch

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def one_thread():
    """As the engine has it on the CPU: with more, sums are split by the number of lanes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_kernels(monkeypatch):
    """As on a machine without a C++ compiler."""
    from smallbatch.training.engines.native import library

    monkeypatch.setattr(library, "compiler", lambda: None)
    library.kernels.cache_clear()
    yield
    library.kernels.cache_clear()


@pytest.fixture(params=["kernels", "torch"])
def either_way(request):
    """With the compiled kernels, if there is a compiler, and without."""
    if request.param == "torch":
        request.getfixturevalue("no_kernels")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project's own files, to run workflows in."""
    return copy_project(tmp_path / "project")


def copy_project(copy: Path) -> Path:
    """Copy the project's own files to a new folder; returns it."""
    documents = ("README.md", "LICENSE", "CITATION.cff")
    for part in ("Snakefile", "workflow", "config", "profiles", "slurm", "envs", "docs", *documents):
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(source, copy / part)
    return copy


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator["Cluster"]:
    """A SLURM cluster of the variant that `request.param` names; tests that want one say so with SMALLBATCH_SLURM."""
    from cluster import running, why_not

    if os.environ.get("SMALLBATCH_SLURM") != "required":
        pytest.skip("brings a SLURM up on this machine only with SMALLBATCH_SLURM=required in the environment")
    variant = getattr(request, "param", {})
    if reason := why_not(**variant):
        pytest.fail(reason)
    with running(**variant) as cluster:
        yield cluster


def snakemake(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run snakemake in `folder`, with options of `subprocess.run`; what it printed is in stdout."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    options |= {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": 570}
    return subprocess.run(command, cwd=folder, **options)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that are marked `gpu` run where there is one; of two files that bring a cluster up, one comes last."""
    import torch

    items.sort(key=lambda item: item.path.name == "test_slurm_requests.py")  # or a process would wait for the other
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU here"))


def digests(store, runs, fingerprint):
    """Of these runs those that are there and whole, by name, each with the digest of its record."""
    return {run.name(fingerprint): digest for run in runs if (digest := store.digest(run, fingerprint))}
