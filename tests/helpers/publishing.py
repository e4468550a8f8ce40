"""Repositories whose studies are published, and calls in them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PROJECT, copy_project, made_once, snakemake

SCALE = "scale={name: SHORT, epochs: 0.1, batch_sizes: [8, 32], base_lrs: [2^-10, 2^-8], figures: [FIGURE]}"


def sh(folder, command: str) -> str:
    """Run a line of shell in `folder`, `dvc` and `git` among its words; returns what it printed."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PATH": path, "GIT_EDITOR": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def as_repository(project, store):
    """Make a copy of the project a git repository whose embedded remote is another folder; returns it.

    It names that by the way from here to there, so that copies of both fit as well.
    """
    if not shutil.which("git"):
        pytest.skip("git is not here, so there is nothing to clone")
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(PROJECT / name, project / name)
    set_seeds(project, 1)
    (project / "docs" / "results.md").write_text("# Results\n\n<!-- laptop-one: claims -->\n<!-- end -->\n")
    sh(
        project,
        f"""git init --quiet --initial-branch main && git config user.name A && git config user.email a@example.org
        dvc init --quiet && dvc config core.analytics false
        dvc remote add --quiet --default embedded {os.path.relpath(store, project)}
        git add --all && git commit --quiet --message begin""",
    )
    return project


def trained_repository(factory, place):
    """A repository whose study is trained and not published; its remote is folder `store` beside it."""

    def train(folder):
        project = as_repository(copy_project(folder / "project"), folder / "store")
        done = make(project, "all")
        assert done.returncode == 0, done.stdout

    return Path(shutil.copytree(made_once(factory, "trained-repository", train) / "project", place, symlinks=True))


def clone(source, place):
    sh(place.parent, f"git clone --quiet {source} {place}")
    sh(place, "git config user.name B && git config user.email b@example.org")
    return place


def set_seeds(project, seeds):
    file = project / "config" / "config.yaml"
    file.write_text(re.sub("^seeds: [a-z0-9]+", f"seeds: {seeds}", file.read_text(), flags=re.MULTILINE))


def make(folder, *targets, name="one", figure="fig01", more=()):
    config = SCALE.replace("SHORT", name).replace("FIGURE", figure)
    return snakemake(folder, "--cores", "2", *targets, "--config", "study=laptop", config, *more)


def names(folder):
    return {path.name for path in (folder / "results" / "runs").iterdir() if path.is_dir()}


def objects(store):
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def pictures(folder, study="laptop-one"):
    return {path.name: path.read_bytes() for path in (folder / "paper_figures" / study).iterdir()}
