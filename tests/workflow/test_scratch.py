"""Runs and checkpoints on another disk, by links: all works as without, and none of the links is committed."""

import os
import shutil
from pathlib import Path

import pytest
from helpers import PROJECT
from helpers.publishing import clone, make, names, pictures, sh, trained_repository

LINKED = ("runs", "checkpoints")


@pytest.fixture
def scratch():
    """A folder on another disk, where there is one."""
    folder = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp", f"smallbatch-scratch-{os.getpid()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def commands(folder):
    """The commands that docs/cluster.md shows, with this folder for the scratch disk."""
    page = (PROJECT / "docs" / "cluster.md").read_text(encoding="utf-8")
    return page.partition("## Results on a scratch disk")[2].partition("```sh\n")[2].partition("```")[0].replace(
        "/scratch/me", str(folder)
    )  # fmt: skip


def test_runs_behind_links_are_trained_published_pulled_and_mended(tmp_path_factory, tmp_path, scratch):
    plain = trained_repository(tmp_path_factory, tmp_path / "plain")
    linked = clone(plain, tmp_path / "linked")
    (linked / "results").mkdir()  # which a clone of the project itself has
    sh(linked, commands(scratch))
    assert sh(linked, "git status --porcelain") == ""
    done = make(linked, "all", "crate")
    assert done.returncode == 0, done.stdout
    assert names(linked) == names(plain) == {path.name for path in (scratch / "runs").iterdir() if path.is_dir()}
    assert pictures(linked) == pictures(plain) and [path.name for path in (scratch / "checkpoints").iterdir()] == [
        "lock"
    ]

    done = make(linked, "publish")
    assert done.returncode == 0 and "5 of these are new or changed; commit them" in done.stdout, done.stdout
    sh(linked, "git add docs/results.md paper_figures results .dvc && git commit --quiet --message 'Publish study one'")
    assert "results/runs" not in sh(linked, "git ls-files") and "up to date" in sh(linked, "dvc status")
    assert "nothing is left to commit" in make(linked, "publish").stdout

    # A damaged run is set aside where it lies, and taken from the bundle; so is all that a cleaning of the disk took.
    victim = next((scratch / "runs").glob("*/metrics.csv"))
    content = victim.read_bytes()
    victim.write_bytes(b"x")
    done = make(linked, "all")
    assert done.returncode == 0 and victim.read_bytes() == content, done.stdout
    assert (scratch / "runs" / f"{victim.parent.name}.damaged-1").exists()
    shutil.rmtree(scratch / "runs")
    refused = make(linked, "all")
    assert refused.returncode and "results/runs: a link to nothing stands where a folder is needed" in refused.stdout
    (scratch / "runs").mkdir()
    done = make(linked, "all")
    assert done.returncode == 0 and "train" not in done.stdout.partition("Job stats:")[2].partition("total")[0]
    assert names(linked) == names(plain) and sh(linked, "git status --porcelain") == ""
