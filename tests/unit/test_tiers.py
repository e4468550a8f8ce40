"""Which tests run when: `pytest` alone the fast ones, `make test` all, .ci/run all with a SLURM and a browser."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
from helpers import PROJECT, snakemake

FAST = {"unit", "engine", "own_models", "faults"}
MARKED = {"workflow": "slow", "slurm": "slurm", "browser": "browser"}


def test_each_test_lies_in_a_folder_that_says_when_it_runs():
    assert {file.parent.name for file in (PROJECT / "tests").rglob("test_*.py")} == FAST | MARKED.keys()


def test_a_fast_test_starts_no_workflow():
    with pytest.raises(pytest.fail.Exception, match="belongs into tests/workflow, or is to be marked slow"):
        snakemake(PROJECT, "--version", env=os.environ)


@pytest.mark.slow
def test_a_slow_test_may():
    assert snakemake(PROJECT, "--version", env=os.environ).returncode == 0


@pytest.mark.slow
def test_by_default_no_test_of_a_slow_folder_is_run():
    command = [sys.executable, "-m", "pytest", "--collect-only", *(f"tests/{folder}" for folder in MARKED)]
    plain = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(command, cwd=PROJECT, env=plain, capture_output=True, text=True)
    assert re.search(r"^no tests collected \(\d+ deselected\)", done.stdout, re.MULTILINE), done.stdout


def test_what_is_left_out_by_default_is_what_is_marked():
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    (left_out,) = re.findall(r"-m '(.*)'", settings["addopts"])
    assert set(left_out.split(" and ")) == {f"not {mark}" for mark in MARKED.values()}


def test_ci_runs_what_the_readme_says_with_all_that_it_takes():
    script = (PROJECT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in script if line.startswith("make ")] == ["make all", "make test", "make docs"]
    assert any("export SMALLBATCH_BROWSER=required SMALLBATCH_SLURM=required" in line for line in script)
    made = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^PYTEST := pytest .*-m ''", made, re.MULTILINE), "no test is left out"


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="this is the only process of tests")
def test_one_of_many_processes_takes_one_thread_and_keeps_compiled_modules():
    assert "OMP_NUM_THREADS" in os.environ and not sys.dont_write_bytecode
