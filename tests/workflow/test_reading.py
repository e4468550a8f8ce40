"""Reading the workflow, which plans, lists, checks and draws jobs, writes nothing and still says what is to be done."""

import re
import shutil
from pathlib import Path

import pytest
from helpers import GRID, an_outcome, snakemake, write_study

from smallbatch import data
from smallbatch.runs import bundles
from smallbatch.runs.packs import Plan, pack_size
from smallbatch.runs.store import RunStore
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import check_config, load_study

STUDY = {
    "title": "Read",
    "seeds": [1],
    "experiments": {"alexnet": GRID},
    "figures": {"fig01": {"kind": "accuracy", "title": "A", "experiments": ["alexnet"]}},
}  # fmt: skip
READING = [("-n", "all"), ("-n",), ("--list",), ("--lint",), ("--dag", "dot"), ("--rulegraph", "dot")]


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Path of each file and folder -> its bytes and when it changed; Snakemake's own notes and bytecode left out."""
    own = [path for path in folder.rglob("*") if not {".snakemake", "__pycache__"} & set(path.parts)]
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        if path.is_file()
        else (b"", 0)  # a folder changes when bytecode is laid in it
        for path in own
    }


def trainings(told: str) -> int:
    """How many jobs of rule `train` a dry run announces."""
    return int(found[1]) if (found := re.search(r"^train +(\d+)$", told, re.MULTILINE)) else 0


@pytest.fixture
def read(project, monkeypatch):
    """A project with a small study; how it is asked to read."""
    write_study(project, "read", STUDY)
    config = project / "config/config.yaml"
    config.write_text(re.sub(r"^study: .*$", "study: read", config.read_text(), flags=re.MULTILINE))
    monkeypatch.chdir(project)
    return project


def prepared(project):
    """Its data prepared: their fingerprint, and the study."""
    config = check_config(read_yaml(project / "config/config.yaml"))
    meta = data.prepare("digits", config["datasets"]["digits"], project / "data/digits", project / "data/downloads")
    return meta.fingerprint, load_study(config)


def without_work(project):
    """Runs of the whole study lie in a bundle that nobody has laid in the store yet."""
    fingerprint, study = prepared(project)
    store = RunStore(project / "results")
    for run in study.runs():
        store.write(run, fingerprint, an_outcome(run), {"torch": "2"}, None)
    bundles.write_bundle(store, "read", [run.name(fingerprint) for run in study.runs()])
    shutil.rmtree(store.root)
    return store, fingerprint, study


def with_work(project):
    """Besides, of each pack one run is lost, though the pack was through in an earlier call."""
    store, fingerprint, study = without_work(project)
    training = check_config(read_yaml(project / "config/config.yaml"))["training"]
    next(store.published.glob("*.zip")).unlink()
    for run in study.runs()[1:]:
        store.write(run, fingerprint, an_outcome(run), {"torch": "2"}, None)
    (project / "results/packs").mkdir()
    for pack in Plan(study, pack_size(study, training), store).packs:
        (project / "results/packs" / f"{pack}.done").touch()


def fresh(project):
    """As cloned: the trainings are planned before the data."""


@pytest.mark.parametrize(("state", "trains"), [(fresh, 1), (without_work, 0), (with_work, 1)])
def test_reading_writes_nothing_and_says_what_is_to_be_done(read, state, trains):
    state(read)
    before = files(read)
    for call in READING:
        done = snakemake(read, *call)
        assert done.returncode == 0, done.stdout
        assert files(read) == before, f"snakemake {' '.join(call)} wrote"
        if call[0] == "-n":
            assert trainings(done.stdout) == trains and re.search(r"^all +1$", done.stdout, re.MULTILINE), done.stdout
