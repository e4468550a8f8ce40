"""The run store: records and weights lie apart, and what is there is right."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from conftest import a_run

from smallbatch.files import atomic
from smallbatch.store import METRICS, RECORD, Epoch, Outcome, RunStore

RUN, OTHER = a_run(seed=1), a_run(seed=2)
NAME = RUN.name("f")
OUTCOME = Outcome([Epoch(1, 0.1, 2.0, 1.5, 0.5, float("nan"))], None, 1.0, 64, 1, 10**6, [])


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path)
    store.write(RUN, "f", OUTCOME, {"torch": "2"}, b"weights")
    return store


@pytest.fixture
def folder(store):
    return store.folder(RUN, "f")


def test_records_and_weights_lie_apart(store, tmp_path):
    store.write(OTHER, "f", OUTCOME, {}, None)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    expected = {f"runs/{run.name('f')}/{file}" for run in (RUN, OTHER) for file in (RECORD, METRICS)}
    assert files == expected | {f"weights/{NAME}.safetensors"}
    assert not any(store.damage(store.folder(run, "f")) for run in (RUN, OTHER))


def test_a_record_says_when_the_run_ended(store):
    ended = datetime.fromisoformat(store.find(RUN, "f").ended)
    assert ended.utcoffset() == timedelta(0) and abs(datetime.now(UTC) - ended) < timedelta(minutes=5)


def test_a_record_may_not_say_when_the_run_ended(store, folder):
    record = json.loads((folder / RECORD).read_text())
    del record["ended"]
    (folder / RECORD).write_text(json.dumps(record))
    assert store.damage(folder) is None and store.find(RUN, "f").ended is None


def test_weights_may_be_missing_but_not_wrong(store, folder):
    store.weights(NAME).write_bytes(b"weighty")
    assert store.damage(folder) == "weights.safetensors does not fit its checksum"
    assert store.has(RUN, "f"), "whoever asks for the run does not read its weights"
    store.weights(NAME).unlink()
    assert store.damage(folder) is None and store.has(RUN, "f") and store.clear(RUN, "f") is None


def test_weights_of_which_the_record_knows_nothing_are_wrong(store):
    store.write(OTHER, "f", OUTCOME, {}, None)
    store.weights(OTHER.name("f")).write_bytes(b"weights")
    assert "weights.safetensors" in store.damage(store.folder(OTHER, "f"))


def test_what_is_damaged_is_set_aside_with_its_weights(store, folder):
    (folder / METRICS).write_text("")
    assert store.clear(RUN, "f") == store.root / f"{NAME}.damaged-1"
    assert (store.root / f"{NAME}.damaged-1" / RECORD).is_file()
    assert store.weights(NAME).with_name(f"{NAME}.safetensors.damaged-1").read_bytes() == b"weights"
    assert not folder.exists() and not store.weights(NAME).exists()


def test_a_write_that_ends_early_leaves_no_run(tmp_path, monkeypatch):
    store, written = RunStore(tmp_path), []

    def recording(path, *mode):
        written.append(path)
        return atomic(path, *mode)

    def ending(path, value):
        raise KeyboardInterrupt

    monkeypatch.setattr("smallbatch.store.atomic", recording)
    monkeypatch.setattr("smallbatch.store.write_json", ending)
    with pytest.raises(KeyboardInterrupt):
        store.write(RUN, "f", OUTCOME, {}, b"weights")
    assert set(written) == {store.weights(NAME), store.folder(RUN, "f") / METRICS}
    assert not store.has(RUN, "f") and store.find(RUN, "f") is None


@pytest.mark.parametrize("key", ["outcome", "environment", "files", "settings"])
def test_a_record_that_lacks_something_is_damaged(store, folder, key):
    record = json.loads((folder / RECORD).read_text())
    del record[key]
    (folder / RECORD).write_text(json.dumps(record))
    assert "run.json is damaged" in store.damage(folder) and key in store.damage(folder)
    assert store.find(RUN, "f") is None


def test_files_beside_the_folders_are_no_runs(store):
    for run in (RUN, OTHER):
        (store.root / f"{run.name('f')}.dvc").write_text("outs:")
    assert store.ends({RUN.name("f"), OTHER.name("f")}) == {NAME: None}
    assert not store.has(OTHER, "f") and store.clear(OTHER, "f") is None
