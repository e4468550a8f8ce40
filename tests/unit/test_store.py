"""The run store: records and weights lie apart, each record finds its own weights, and what is there is right."""

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from helpers import a_run, an_outcome, digests

from smallbatch.analysis.table import write_tables
from smallbatch.core.errors import UserError
from smallbatch.core.files import sealed_bytes
from smallbatch.data.prepared import Meta
from smallbatch.runs.records import METRICS_FILE, RECORD_FILE, Epoch, Outcome, Variance
from smallbatch.runs.store import RunStore

RUN, OTHER = a_run(seed=1), a_run(seed=2)
NAME = RUN.name("f")
NAN = float("nan")
EPOCHS = [Epoch(1, 0.1, 2.0, 1.5, 0.5, NAN), Epoch(2, 0.1, 1.0, 1.2, 0.75, NAN)]
OUTCOME = Outcome(EPOCHS, None, 1.0, 64, 1, 10**6, [])


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path)
    store.write(RUN, "f", OUTCOME, {"torch": "2"}, b"weights")
    return store


@pytest.fixture
def folder(store):
    return store.folder(RUN, "f")


@pytest.fixture
def record(store):
    return store.find(RUN, "f")


def resealed(folder, **changed):
    """Edit a record and give it a digest that fits."""
    values = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8")) | changed
    del values["digest"]
    (folder / RECORD_FILE).write_bytes(sealed_bytes({key: value for key, value in values.items() if value is not ...}))


def test_records_and_weights_lie_apart(store, record, tmp_path):
    store.write(OTHER, "f", OUTCOME, {}, None)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    expected = {f"runs/{run.name('f')}/{file}" for run in (RUN, OTHER) for file in (RECORD_FILE, METRICS_FILE)}
    # The SHA-256 of "weights" begins so.
    assert files == expected | {f"weights/{NAME}.9a129038d9a0.safetensors"}
    assert store.weights(record) == tmp_path / "weights" / f"{NAME}.9a129038d9a0.safetensors"
    assert store.read_weights(record) == b"weights" and store.weights(store.find(OTHER, "f")) is None
    assert not any(store.damage(store.folder(run, "f")) for run in (RUN, OTHER))


def test_what_was_written_is_read(store, record, folder):
    assert repr(record.outcome) == repr(OUTCOME) and record.environment == {"torch": "2"}
    assert record.run == RUN and record.fingerprint == "f"
    assert record.digest == json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["digest"]


def test_who_trains_a_run_again_has_another_record_and_other_weights(store, record):
    store.write(RUN, "f", OUTCOME, {"torch": "3"}, b"other weights")
    again = store.find(RUN, "f")
    assert again.digest != record.digest and again.environment == {"torch": "3"}
    assert (store.read_weights(record), store.read_weights(again)) == (b"weights", b"other weights")
    store.drop_weights(again)
    assert store.read_weights(record) == b"weights" and not store.weights(again).exists() and store.has(RUN, "f")


def test_a_record_says_when_the_run_ended(record):
    ended = datetime.fromisoformat(record.ended)
    assert ended.utcoffset() == timedelta(0) and abs(datetime.now(UTC) - ended) < timedelta(minutes=5)


def test_damaged_weights_cost_the_weights_and_not_the_run(store, record, folder):
    file = store.weights(record)
    file.write_bytes(b"weighty")
    assert store.damage(folder) is None and store.has(RUN, "f") and store.clear(RUN, "f") is None
    with pytest.raises(UserError, match=r"safetensors: damaged: it does not fit its digest in run.json; set aside as "):
        store.read_weights(record)
    aside = file.with_name(f"{file.name}.damaged-1")
    assert aside.read_bytes() == b"weighty"
    with pytest.raises(UserError, match=rf"set aside as {aside.name}; with {folder} deleted the run is trained again"):
        store.read_weights(record)
    aside.unlink()
    with pytest.raises(UserError, match=r"safetensors: these weights were not kept"):
        store.read_weights(record)
    file.mkdir()
    file.with_name(f"{file.name}.dvc").write_text("outs:", encoding="utf-8")
    with pytest.raises(UserError, match=r"set aside as \S+damaged-1; `dvc pull \S+\.safetensors\.dvc` gets it again"):
        store.read_weights(record)


def test_what_is_damaged_is_set_aside(store, folder):
    (folder / METRICS_FILE).write_text("")
    assert store.clear(RUN, "f").endswith(f"; set aside as {NAME}.damaged-1")
    assert (store.root / f"{NAME}.damaged-1" / RECORD_FILE).is_file() and not folder.exists()


def a_file_in_place_of_the_folder(folder):
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("x")


def a_folder_in_place_of(name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def a_flipped_bit_in(name):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / name).write_bytes(content)

    return damage


def another_runs(folder):
    store = RunStore(folder.parents[1])
    store.write(OTHER, "f", OUTCOME, {}, None)
    folder.rename(folder.with_name("elsewhere"))
    store.folder(OTHER, "f").rename(folder)


def content_of(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (a_file_in_place_of_the_folder, "a file stands in its place"),
        (a_folder_in_place_of(RECORD_FILE), "run.json is a folder"),
        (a_folder_in_place_of(METRICS_FILE), "metrics.csv is a folder"),
        (a_flipped_bit_in(RECORD_FILE), "run.json is damaged"),
        (a_flipped_bit_in(METRICS_FILE), "metrics.csv does not fit its digest in run.json"),
        (another_runs, "its settings do not fit its name"),
        (content_of(RECORD_FILE, b""), "run.json is damaged"),
        (content_of(RECORD_FILE, b"{}"), "run.json is damaged (it has no digest of its content)"),
        (content_of(RECORD_FILE, b"[" * 100_000), "run.json is damaged (too deeply nested)"),
        (content_of(RECORD_FILE, b"\xff\xfe{"), "run.json is damaged"),
    ],
)
def test_whatever_the_damage_the_run_is_named_and_can_be_written_again(store, folder, damage, told):
    damage(folder)
    found = store.damage(folder)
    assert told in found and store.ends({NAME}) == ({}, {NAME: found})
    assert not store.has(RUN, "f") and store.find(RUN, "f") is None and digests(store, [RUN], "f") == {}
    with pytest.raises(UserError, match=r"there is no such run|damaged"):
        store.read(NAME)
    assert store.clear(RUN, "f") == f"{folder}: damaged: {found}; set aside as {NAME}.damaged-1"
    assert not os.path.lexists(folder)
    store.write(RUN, "f", OUTCOME, {}, None)
    assert store.has(RUN, "f")


def test_an_edited_outcome_is_noticed(store, folder):
    text = (folder / RECORD_FILE).read_text(encoding="utf-8")
    (folder / RECORD_FILE).write_text(text.replace('"diverged_at": null', '"diverged_at": 7'), encoding="utf-8")
    assert store.damage(folder) == "run.json is damaged (its content does not fit its digest)"
    assert store.ends({NAME}) == ({}, {NAME: store.damage(folder)})


def test_who_looks_at_ends_reads_every_file(store, folder):
    (folder / METRICS_FILE).write_bytes(b"x")
    assert store.ends({NAME}) == ({}, {NAME: f"{METRICS_FILE} does not fit its digest in {RECORD_FILE}"})


PLAIN = {"diverged_at": None, "seconds": 1.0, "images": 64, "lanes": 1, "peak_memory": 10**6}


@pytest.mark.parametrize(
    "changed",
    [
        *({key: ...} for key in ("settings", "protocol", "outcome", "environment", "files", "ended", "weights")),
        *({"outcome": {key: value for key, value in PLAIN.items() if key != left_out}} for left_out in PLAIN),
        *({"outcome": PLAIN | {key: "1"}} for key in PLAIN),
        {"outcome": PLAIN | {"lanes": 0}},
        {"outcome": PLAIN | {"seconds": NAN}},
        {"outcome": PLAIN | {"diverged_at": 0}},
        {"outcome": PLAIN | {"diverged_at": True}},
        {"outcome": [PLAIN]},
        {"environment": {"torch": 2}},
        {"ended": "yesterday"},
        {"weights": "abc"},
        {"protocol": 2},
        {"files": {}},
        {"files": {METRICS_FILE: "0" * 64}},
    ],
    ids=lambda changed: str(changed)[:60],
)
def test_a_record_that_loads_but_lacks_something_is_damaged(store, folder, changed):
    resealed(folder, **changed)
    assert store.damage(folder) and not store.has(RUN, "f") and store.find(RUN, "f") is None


def epochs(**changed):
    return [EPOCHS[0], EPOCHS[1]._replace(**changed)]


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome(EPOCHS[:1], None, 1.0, 64, 1, 1, []), "1 epochs of 2"),
        (Outcome([*EPOCHS, EPOCHS[1]], 9, 1.0, 64, 1, 1, []), "3 epochs of 2"),
        (Outcome(EPOCHS[1:], 9, 1.0, 64, 1, 1, []), "not in order"),
        (Outcome(epochs(test_accuracy=1.5), None, 1.0, 64, 1, 1, []), "not from 0 to 1"),
        (Outcome(epochs(test_accuracy=NAN), None, 1.0, 64, 1, 1, []), "not from 0 to 1"),
        (Outcome(epochs(validation_accuracy=-0.1), None, 1.0, 64, 1, 1, []), "not from 0 to 1"),
        (Outcome(epochs(train_loss=NAN), None, 1.0, 64, 1, 1, []), "not finite"),
        (Outcome(epochs(test_loss=NAN), None, 1.0, 64, 1, 1, []), "not finite"),
        (Outcome(EPOCHS, None, 1.0, 64, 1, 1, [Variance(3, 4, 1.0, 8)]), "variance is of no epoch"),
        (Outcome(EPOCHS, None, -1.0, 64, 1, 1, []), "seconds is -1.0"),
    ],
)
def test_what_cannot_come_out_of_a_run_is_not_written(store, folder, outcome, told):
    before = store.find(RUN, "f").digest
    with pytest.raises(UserError, match=rf"{NAME}: not written: .*{told}"):
        store.write(RUN, "f", outcome, {}, None)
    assert store.find(RUN, "f").digest == before


def test_a_run_that_diverged_in_the_last_update_of_an_epoch_has_no_loss_after_it(store):
    store.write(RUN, "f", Outcome(epochs(test_loss=NAN), 32, 1.0, 64, 1, 1, []), {}, None)
    assert store.find(RUN, "f").outcome.diverged_at == 32
    with pytest.raises(UserError, match="weights is"):
        store.write(RUN, "f", Outcome([], 3, 1.0, 64, 1, 1, []), {}, b"weights")


def test_a_write_that_ends_early_leaves_no_run_and_the_next_no_trace_of_it(store, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("smallbatch.core.files.Path.rename", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
        store.write(OTHER, "f", OUTCOME, {}, b"weights")
    assert not store.has(OTHER, "f") and store.find(OTHER, "f") is None and not store.folder(OTHER, "f").exists()
    left = store.weights(store.find(RUN, "f")).with_name(f".{NAME}.9a129038d9a0.safetensors.abcd1234")
    left.write_bytes(b"wei")
    store.write(RUN, "f", OUTCOME, {}, b"weights")
    assert not left.exists() and not list(tmp_path.rglob(".*"))


def test_rows_that_no_run_can_have_are_set_aside_by_who_reads_them(store, folder):
    """Under digests that fit: only the tables read the rows, and the next call is to find the run missing."""
    content = (folder / METRICS_FILE).read_text().replace("0.75", "7.5")
    (folder / METRICS_FILE).write_text(content)
    resealed(folder, files={METRICS_FILE: hashlib.sha256(content.encode()).hexdigest()})
    meta = Meta("made", ("a", "b"), (1, 8, 8), (0.5,), (0.5,), 64, 32, "f")
    told = rf"{NAME}: damaged: metrics\.csv, .*from 0 to 1\); set aside as {NAME}\.damaged-1; the next call trains it"
    for line in (told, f"{NAME}: missing; the next call trains it again"):
        assert store.has(RUN, "f") == ("aside" in line)
        with pytest.raises(UserError, match=line):
            write_tables([("e", RUN)], store, meta, 0.8, {}, "")


def test_digests_are_those_of_the_records_that_are_whole(store, record):
    store.write(OTHER, "f", OUTCOME, {}, None)
    both = {NAME: record.digest, OTHER.name("f"): store.find(OTHER, "f").digest}
    assert digests(store, [RUN, OTHER, a_run(seed=3)], "f") == both and len(set(both.values())) == 2
    (store.folder(RUN, "f") / METRICS_FILE).write_bytes(b"x")
    assert digests(store, [RUN, OTHER], "f").keys() == {OTHER.name("f")}


def test_a_file_that_cannot_be_read_is_named(store, folder, monkeypatch):
    def denied(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(UserError, match=rf"{NAME}/run.json: cannot be read: Permission denied"):
        store.has(RUN, "f")


def test_files_beside_the_folders_are_no_runs(store):
    for run in (RUN, OTHER):
        (store.root / f"{run.name('f')}.dvc").write_text("outs:")
    assert store.ends({RUN.name("f"), OTHER.name("f")}) == ({NAME: None}, {})
    assert not store.has(OTHER, "f") and store.clear(OTHER, "f") is None


def test_the_data_that_runs_were_trained_on_are_known_by_their_label(store):
    assert store.fingerprints("made") == {"f"}
    for fingerprint, data in (("e", "made"), ("g", "made"), ("h", "other")):
        run = a_run(data=data)
        store.write(run, fingerprint, an_outcome(run), {}, None)
    (store.folder(a_run(data="made"), "g") / RECORD_FILE).write_text("{}")
    assert store.fingerprints("made") == {"e", "f"} and RunStore(store.root / "none").fingerprints("made") == set()
