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


def test_records_and_weights_lie_apart(store, tmp_path):
    store.write(OTHER, "f", OUTCOME, {}, None)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    other = OTHER.name("f")
    expected = {f"runs/{name}/{file}" for name in (NAME, other) for file in (RECORD, METRICS)}
    assert files == expected | {f"weights/{NAME}.safetensors"}
    assert store.damage(NAME) is None and store.damage(other) is None


def test_a_record_says_when_the_run_ended(store):
    ended = datetime.fromisoformat(store.find(RUN, "f").ended)
    assert ended.utcoffset() == timedelta(0) and abs(datetime.now(UTC) - ended) < timedelta(minutes=5)


def test_weights_may_be_missing_but_not_wrong(store):
    store.weights_file(NAME).write_bytes(b"weighty")
    assert store.damage(NAME) == "its weights do not fit their checksum"
    assert store.has(RUN, "f"), "whoever asks for the run does not read its weights"
    store.weights_file(NAME).unlink()
    assert store.damage(NAME) is None and store.has(RUN, "f") and store.clear(RUN, "f") == []


def test_weights_of_which_the_record_knows_nothing_are_wrong(store):
    store.write(OTHER, "f", OUTCOME, {}, None)
    store.weights_file(OTHER.name("f")).write_bytes(b"weights")
    assert store.damage(OTHER.name("f")) == "its weights do not fit their checksum"


def test_what_is_damaged_is_set_aside_with_its_weights(store):
    assert store.clear(RUN, "f") == []
    (store.folder(NAME) / METRICS).write_text("")
    aside = store.folder(f"{NAME}.damaged-1"), store.weights / f"{NAME}.safetensors.damaged-1"
    assert store.clear(RUN, "f") == list(aside)
    assert (aside[0] / RECORD).is_file() and aside[1].read_bytes() == b"weights"
    assert not store.folder(NAME).exists() and not store.weights_file(NAME).exists()


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
    assert written == [store.weights_file(NAME), store.folder(NAME) / METRICS]
    assert not store.has(RUN, "f") and store.find(RUN, "f") is None
    assert len(store.clear(RUN, "f")) == 2 and store.clear(RUN, "f") == []


@pytest.mark.parametrize("key", ["outcome", "environment", "ended", "weights", "files", "settings"])
def test_a_record_that_lacks_something_is_damaged(store, key):
    record = json.loads((store.folder(NAME) / RECORD).read_text())
    del record[key]
    (store.folder(NAME) / RECORD).write_text(json.dumps(record))
    assert "run.json is damaged" in store.damage(NAME) and key in store.damage(NAME)
    assert store.find(RUN, "f") is None


def test_files_beside_the_folders_are_no_runs(store):
    other = OTHER.name("f")
    store.folder(f"{NAME}.dvc").write_text("outs:")
    store.folder(f"{other}.dvc").write_text("outs:")
    assert store.ends({NAME, other}) == {NAME: None}
    assert not store.has(OTHER, "f") and store.clear(OTHER, "f") == []
