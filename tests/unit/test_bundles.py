"""Bundles of published runs: the same bytes each time, the same records for everybody, harmless whatever is in them."""

import hashlib
import os
import time
import zipfile
from datetime import UTC, datetime

import pytest
from helpers import a_run, an_outcome, digests

from smallbatch.core.errors import UserError
from smallbatch.runs import bundles
from smallbatch.runs.records import METRICS_FILE, RECORD_FILE
from smallbatch.runs.store import RunStore

RUNS = [a_run(seed=seed, epochs=1) for seed in (1, 2, 3)]
NAMES = [run.name("f") for run in RUNS]


@pytest.fixture
def a_store(monkeypatch):
    """Makes a store whose records ended at a time, in seconds, with an accuracy."""

    def make(folder, runs=RUNS, ended=10**9, accuracy=0.5):
        store = RunStore(folder)
        with monkeypatch.context() as patch:
            patch.setattr("smallbatch.runs.store.now", lambda: datetime.fromtimestamp(ended, UTC))
            for run in runs:
                store.write(run, "f", an_outcome(run, accuracy), {"torch": "2"}, f"weights {accuracy}".encode())
        return store

    return make


def carried(store, to):
    """Another store, to which the bundles of one have come."""
    other = RunStore(to)
    other.published.mkdir(parents=True, exist_ok=True)
    for path in store.published.glob("*.zip"):
        (other.published / path.name).write_bytes(path.read_bytes())
    return other


def accuracies(store):
    return [record and record.outcome.epochs[-1].test_accuracy for record in (store.find(run, "f") for run in RUNS)]


def set_aside(store):
    return sorted(path.name for path in store.root.iterdir() if path.name not in NAMES)


def test_runs_arrive_whole_without_their_weights(a_store, tmp_path):
    store = a_store(tmp_path / "one")
    path = bundles.write_bundle(store, "s", NAMES)
    assert bundles.published(store) == dict.fromkeys(NAMES, path)
    other = carried(store, tmp_path / "other")
    for _ in range(2):
        bundles.import_published(other)
        assert digests(other, RUNS, "f") == digests(store, RUNS, "f")
    assert sorted(entry.name for entry in other.root.iterdir()) == sorted(NAMES)
    assert not any(other.weights(other.find(run, "f")).exists() for run in RUNS)


def test_what_is_there_is_not_laid_again(a_store, tmp_path, monkeypatch):
    store = a_store(tmp_path)
    bundles.write_bundle(store, "s", NAMES)
    monkeypatch.setattr(bundles, "write_folder", None)
    bundles.import_published(store)


def test_the_same_records_give_the_same_bundle_and_others_another(a_store, tmp_path):
    store = a_store(tmp_path / "one")
    path = bundles.write_bundle(store, "s", NAMES)
    before = path.read_bytes()
    assert bundles.write_bundle(store, "s", NAMES[::-1]) == path and path.read_bytes() == before
    others = a_store(tmp_path / "other", accuracy=0.25)
    assert (
        len(
            {path.name, bundles.write_bundle(store, "s", NAMES[:2]).name, bundles.write_bundle(others, "s", NAMES).name}
        )
        == 3
    )


def test_of_two_records_of_a_run_the_one_that_ended_first_counts_for_everybody(a_store, tmp_path):
    early = a_store(tmp_path / "early", RUNS[:2], ended=10**9, accuracy=0.25)
    late = a_store(tmp_path / "late", RUNS[1:], ended=10**9 + 1, accuracy=0.75)
    for store in (early, late):
        bundles.write_bundle(store, "s", [name for name in NAMES if (store.root / name).exists()])
    fresh = RunStore(tmp_path / "fresh")
    for one, other in ((early, late), (late, early), (early, fresh), (late, fresh)):
        carried(one, other.results)
    for store in (early, late, fresh):
        bundles.import_published(store)
        assert accuracies(store) == [0.25, 0.25, 0.75]
        assert set_aside(store) == [], "what was replaced is in a bundle"
    own = late.find(RUNS[1], "f")
    assert not late.weights(own).exists(), "the record's own weights are not here"
    other = bundles.record_of_weights(late, f"{NAMES[1]}.{weights_of(0.75)}.safetensors")
    assert late.read_weights(other) == b"weights 0.75" and other.outcome.epochs[-1].test_accuracy == 0.75
    with pytest.raises(UserError, match=r"no record of it, here or in \S+, names weights 000000000000"):
        bundles.record_of_weights(late, f"{NAMES[1]}.{'0' * 12}")
    assert bundles.record_of_weights(late, NAMES[1]).digest == own.digest


def weights_of(accuracy):
    return hashlib.sha256(f"weights {accuracy}".encode()).hexdigest()[:12]


def test_of_two_records_that_ended_together_the_smaller_digest_counts(a_store, tmp_path):
    two = [a_store(tmp_path / str(accuracy), RUNS[:1], accuracy=accuracy) for accuracy in (0.25, 0.75)]
    expected = min(store.digest(RUNS[0], "f") for store in two)
    for store in two:
        bundles.write_bundle(store, "s", NAMES[:1])
    carried(two[0], two[1].results), carried(two[1], two[0].results)
    for store in two:
        bundles.import_published(store)
        assert store.digest(RUNS[0], "f") == expected


def test_a_run_of_ones_own_is_set_aside_for_the_published_one(a_store, tmp_path, caplog):
    store = a_store(tmp_path / "one", accuracy=0.25)
    bundles.write_bundle(store, "s", NAMES)
    own = a_store(tmp_path / "own", RUNS[:1], ended=1, accuracy=0.75)
    record = own.find(RUNS[0], "f")
    bundles.import_published(carried(store, own.results))
    assert accuracies(own) == [0.25] * 3 and set_aside(own) == [f"{NAMES[0]}.replaced-1"]
    assert own.read_weights(record) == b"weights 0.75"
    assert f"{NAMES[0]}: trained here, and published by others; set aside as " in caplog.text


def test_a_damaged_record_is_set_aside_and_laid_again(a_store, tmp_path, caplog):
    store = a_store(tmp_path)
    bundles.write_bundle(store, "s", NAMES)
    (store.root / NAMES[0] / RECORD_FILE).write_bytes(b"{")
    (store.root / NAMES[1] / RECORD_FILE).unlink()
    bundles.import_published(store)
    assert accuracies(store) == [0.5] * 3
    assert set_aside(store) == [f"{name}.damaged-1" for name in NAMES[:2]]
    assert f"{NAMES[0]}: damaged: run.json is damaged" in caplog.text


def named(path):
    """A bundle under the name that its content has."""
    return path.rename(path.with_name(f"s-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}.zip"))


def test_only_files_of_runs_are_taken_in_and_only_of_such_as_are_whole(a_store, tmp_path, caplog):
    store = RunStore(tmp_path / "results")
    store.published.mkdir(parents=True)
    evil = (f"../{RECORD_FILE}", f"../../evil/{RECORD_FILE}", f"/x/{RECORD_FILE}", "a/evil.py", f"a/b/{RECORD_FILE}")
    record = (a_store(tmp_path / "one", RUNS[:1]).root / NAMES[0] / RECORD_FILE).read_text(encoding="utf-8")
    with zipfile.ZipFile(store.published / "s-1.zip", "w") as bundle:
        for name in (*evil, f"good/{METRICS_FILE}", f"{NAMES[1]}/{RECORD_FILE}"):
            bundle.writestr(name, "x")
        bundle.writestr(f"{NAMES[0]}/{RECORD_FILE}", record)  # whole, but without its metrics
    path = named(store.published / "s-1.zip")
    bundles.import_published(store)
    files = {path.relative_to(tmp_path / "results").as_posix() for path in store.results.rglob("*") if path.is_file()}
    assert files == {f"published/{path.name}"}
    assert f"{path}: 3 of its runs are none that this version knows, and not taken" in caplog.text


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, emptied, flipped, a_folder])
@pytest.mark.parametrize("dvc_has_it", [True, False])
def test_a_damaged_bundle_is_named_set_aside_and_ends_one_call_only(damage, dvc_has_it, a_store, tmp_path):
    store, other = a_store(tmp_path / "one"), a_store(tmp_path / "two", [a_run(seed=9, epochs=1)])
    path = bundles.write_bundle(store, "s", NAMES)
    whole = bundles.write_bundle(other, "s", [a_run(seed=9, epochs=1).name("f")])
    if dvc_has_it:
        path.with_name(f"{path.name}.dvc").write_text("outs:")
    carried(other, store.results)
    damage(path)
    left = rf"`dvc pull \S+/{path.name}\.dvc` gets it again" if dvc_has_it else "call again to do without it"
    with pytest.raises(UserError, match=rf"{path.name}: damaged \(.+\), set aside as {path.name}.damaged-1; {left}"):
        bundles.import_published(store)
    bundles.import_published(store)
    assert sorted(entry.name for entry in store.published.glob("*.zip")) == [whole.name]
    assert store.has(a_run(seed=9, epochs=1), "f")


def test_two_bundles_that_are_swapped_are_both_named(a_store, tmp_path):
    store = a_store(tmp_path)
    one, two = bundles.write_bundle(store, "s", NAMES[:1]), bundles.write_bundle(store, "s", NAMES[1:])
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    with pytest.raises(UserError) as told:
        bundles.import_published(store)
    assert all(f"{path}: damaged (its content does not fit its name)" in str(told.value) for path in (one, two))
    assert "\n" not in str(told.value)


def test_an_archive_that_is_none_is_named_though_its_name_fits(tmp_path):
    store = RunStore(tmp_path)
    store.published.mkdir()
    (store.published / "s-1.zip").write_bytes(b"no archive")
    path = named(store.published / "s-1.zip")
    with pytest.raises(UserError, match=rf"{path.name}: damaged \(File is not a zip file\)"):
        bundles.import_published(store)


def test_what_a_killed_process_was_laying_goes(a_store, tmp_path):
    store = a_store(tmp_path)
    for name in (".laid-abcd1234", ".laid-efgh5678", "laid-abcd1234"):
        (store.root / name / "made").mkdir(parents=True)
    os.utime(store.root / ".laid-abcd1234", (time.time() - 7200,) * 2)
    bundles.import_published(store)
    assert set_aside(store) == [".laid-efgh5678", "laid-abcd1234"]


def test_what_is_not_pulled_is_not_published_twice_and_reported_by_who_reads_runs(a_store, tmp_path, caplog):
    """The records of others would count, and whoever has pulled has them."""
    store = a_store(tmp_path)
    path = bundles.write_bundle(store, "s", NAMES)
    bundles.import_published(store)
    assert caplog.text == ""
    path.with_name(f"{path.name}.dvc").write_text("outs:")
    path.unlink()
    with pytest.raises(UserError, match=r"not pulled yet; `dvc pull \S+\.zip\.dvc` gets it"):
        bundles.published(store)
    (store.published / "other-1.zip.dvc").write_text("outs:")
    for look in (bundles.import_published, bundles.records_to_import):
        caplog.clear()
        look(store)
        (line,) = caplog.messages
        folder = store.published
        assert line == (
            f"{folder}: 2 bundles are not pulled yet; `dvc pull -R {folder}` gets them; runs that are published count "
            "before others"
        )
