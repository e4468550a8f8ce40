"""The workflow as a module of another one: Snakemake's `module`, from a folder and as snakedeploy writes it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from helpers import PROJECT, copy_project, snakemake

CALLER = """
configfile: "config/config.yaml"


module smallbatch:
    snakefile:
        {snakefile!r}
    config:
        config


use rule * from smallbatch{renamed}


rule mine:
    input:
        "results/laptop/runs.csv",
    output:
        "mine.txt",
    shell:
        "wc -l < {{input}} > {{output}}"
"""


def snakefile_of(project: Path) -> str:
    """Where modules look for it."""
    inner = project / "workflow" / "Snakefile"
    return str(inner if inner.is_file() else project / "Snakefile")


@pytest.fixture
def caller(project: Path, tmp_path: Path) -> Path:
    """Another folder, with settings and a study of its own, and no name that the project's rules could lean on."""
    folder = tmp_path / "caller"
    (project / "config").rename(tmp_path / "config")
    folder.mkdir()
    (tmp_path / "config").rename(folder / "config")
    (folder / "Snakefile").write_text(CALLER.format(snakefile=snakefile_of(project), renamed=""))
    return folder


def printed(folder: Path, *arguments: str, **options) -> str:
    done = snakemake(folder, *arguments, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_module_plans_the_callers_study_from_another_folder(caller):
    plan = printed(caller, "-n", "all", "mine")
    assert "Study laptop would be complete." in plan and "mine.txt" in plan
    names = {path.name for path in caller.iterdir()} - {".snakemake"}
    assert names <= {"Snakefile", "config", "results", "logs"}


def test_a_module_may_be_renamed(caller, project):
    (caller / "Snakefile").write_text(CALLER.format(snakefile=snakefile_of(project), renamed=" as batches_*"))
    assert "batches_all" in printed(caller, "-n", "batches_all")


def test_a_module_prepares_data_where_the_caller_is(caller, project):
    printed(caller, "--cores", "1", "data/digits/meta.json")
    assert (caller / "data" / "digits" / "meta.json").is_file() and not (project / "data").exists()


@pytest.fixture
def forge(tmp_path, monkeypatch) -> Path:
    """A repository with the project, tagged, for which git takes what has this address on a forge."""
    repository = copy_project(tmp_path / "repository")
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-C", str(repository))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "First"], ["tag", "v0.2.0"]):
        subprocess.run([*git, *command], check=True)
    settings = tmp_path / "gitconfig"
    settings.write_text(f'[url "file://{repository}"]\n\tinsteadOf = https://github.com/someone/smallbatch\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return repository


def test_what_snakedeploy_writes_runs_with_the_installed_library(forge, tmp_path):
    folder = tmp_path / "deployed"
    folder.mkdir()
    deploy = ("deploy-workflow", "https://github.com/someone/smallbatch", str(folder), "--tag", "v0.2.0")
    subprocess.run(["snakedeploy", *deploy], check=True, timeout=100)
    written = (folder / "workflow" / "Snakefile").read_text()
    assert 'github("someone/smallbatch"' in written and "use rule * from smallbatch" in written
    assert yaml.safe_load((folder / "config" / "config.yaml").read_text())["study"] == "laptop"
    library = tmp_path / "site-packages"  # which has no more than the package
    shutil.copytree(PROJECT / "workflow" / "smallbatch", library / "smallbatch")
    installed = os.environ | {"PYTHONPATH": str(library)}
    assert "Study laptop would be complete." in printed(folder, "-n", "all", env=installed)
    printed(folder, "--cores", "1", "data/digits/meta.json", env=installed)
    assert (folder / "data" / "digits" / "meta.json").is_file()
