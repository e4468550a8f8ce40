"""Which tests run when, and fixtures that several files of tests share; what else they share is in `helpers`."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import copy_project, made_data, made_once

from smallbatch.core.environment import cache_folder, processors

if TYPE_CHECKING:
    from cluster import Cluster

MARKS = {"workflow": "slow", "slurm": "slurm", "browser": "browser"}
"""Folder of tests -> how all of its tests are marked. `pytest` alone runs those without such a mark."""

ORDER = (
    "test_slurm_faults.py", "own_models", "workflow", "engine", "faults", "unit", "browser",
    "test_slurm_requests.py",
)  # fmt: skip
"""Files and folders as they are run: long ones early; of two files that bring a cluster up, one comes last."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As tests that call snakemake wait for a third of their time, one process more than there are processors."""
    return processors() + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Processes of tests share the processors: one thread each, also in what they start; and compiled modules."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test as its folder says."""
    if mark := MARKS.get(item.path.parent.name):
        item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A call of snakemake takes seconds: a test that is marked in none of these ways, and makes one, fails."""
    if any(map(item.get_closest_marker, MARKS.values())):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", start_no_workflow)
        return (yield)


_start = subprocess.Popen.__init__


def start_no_workflow(self: subprocess.Popen, command, *args, **options) -> None:
    """Stands in for the constructor of `subprocess.Popen`."""
    if "snakemake" in command:
        pytest.fail("a test that starts snakemake belongs into tests/workflow, or is to be marked slow")
    _start(self, command, *args, **options)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The user's cache is left alone; tests and the processes they start share one, all of them the kernels."""
    folder = tmp_path_factory.mktemp("cache")
    if "PYTEST_XDIST_WORKER" in os.environ:
        shutil.copytree(made_once(tmp_path_factory, "kernels", compile_kernels), folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield


def compile_kernels(folder: Path) -> None:
    """Fill a cache with the compiled kernels, if there is a compiler."""
    from smallbatch.training.engines.native import library

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        library.kernels()
    library.kernels.cache_clear()


@pytest.fixture
def empty_cache():
    """Nothing is remembered but compiled kernels, which take ten seconds of a processor."""

    def forget() -> None:
        for entry in cache_folder().glob("*"):
            if entry.is_dir():
                shutil.rmtree(entry)
            elif not entry.name.startswith("kernels-"):
                entry.unlink()

    forget()
    yield
    forget()


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    return made_data(tmp_path / "data" / "made")


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests come in an order, and those that are marked `gpu` run where there is one."""
    rank = {name: place for place, name in enumerate(ORDER)}
    items.sort(key=lambda item: rank.get(item.path.name, rank.get(item.path.parent.name, len(ORDER))))
    of_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if of_gpu and not gpu_is_here():
        for item in of_gpu:
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


def gpu_is_here() -> bool:
    """Whether torch has one; to import it takes longer than most files of tests."""
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def folder_of_studies(tmp_path, monkeypatch):
    """The tests work in a folder with an empty config/studies."""
    (tmp_path / "config" / "studies").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
