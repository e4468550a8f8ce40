"""A tiny study, before it is trained and after; a home folder."""

import shutil

import pytest
from helpers import TINY, made_once, write_study
from helpers.workflows import train_tiny

from smallbatch.core.environment import cache_folder
from smallbatch.training.engines.native.library import kernels


@pytest.fixture(scope="session", autouse=True)
def compiled(cache):
    """The kernels are compiled before jobs want them: two at once would both do so, and for longer than they train."""
    kernels()


@pytest.fixture
def tiny(project):
    write_study(project, "tiny", TINY)
    return project


@pytest.fixture
def copied(tmp_path_factory, tmp_path):
    """A finished study: a copy, as new and as old as what was trained."""
    return shutil.copytree(made_once(tmp_path_factory, "trained-tiny", train_tiny) / "project", tmp_path / "project")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's home folder, with the kernels."""
    folder = tmp_path_factory.mktemp("home")
    cached = folder / ".cache" / "smallbatch"
    cached.mkdir(parents=True)
    for file in cache_folder().glob("kernels-*"):
        shutil.copy(file, cached)
    return folder
