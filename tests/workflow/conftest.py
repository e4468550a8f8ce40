"""A tiny study, before it is trained and after; a home folder."""

import shutil

import pytest
from helpers import TINY, made_once, write_study
from helpers.workflows import train_tiny


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
    """A user's home folder."""
    return tmp_path_factory.mktemp("home")
