"""The workflow on a tiny study: calls that all its tests make, and what is read of their output."""

import os
import re
import subprocess

import pandas as pd

from helpers import TINY, copy_project, snakemake, warm, write_study

RUNS = 8
ALL = ("--cores", "2", "--config", "study=tiny", "--", "all")


def trained(project):
    """Run folder -> when its record was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in project.glob("results/runs/*/run.json")}


def jobs(output):
    """Rule -> number of jobs, as Snakemake's table of job stats has it."""
    table = output.partition("Job stats:")[2].partition("total")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)}


def train_tiny(folder):
    project = copy_project(folder / "project")
    write_study(project, "tiny", TINY)
    done = snakemake(project, *ALL)
    assert done.returncode == 0, done.stdout


def check_rates(project):
    """The rate of each m is the best of the other experiment's; returns how many runs there are."""
    runs = pd.read_parquet(project / "results/tiny/runs.parquet")
    means = runs[runs["experiment"] == "alexnet"].groupby(["batch_size", "base_lr"])["accuracy"].mean()
    for m, taken in runs[runs["experiment"] == "bn"].groupby("batch_size")["base_lr"]:
        assert set(taken) == {means[m].idxmax()}
    return len(runs)


def run_smallbatch(project, command):
    """Call the library without Snakemake; returns what it printed."""
    called = [warm.python(), "-m", "smallbatch", command, "--config", "study=tiny"]
    places = os.environ | {"PYTHONPATH": str(project / "workflow")}
    done = subprocess.run(called, cwd=project, env=places, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
