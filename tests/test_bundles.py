"""Bundles of published runs: the same bytes each time, laid beside what is there, harmless whatever is in them."""

import zipfile

import pytest
from conftest import a_run

from smallbatch import bundles
from smallbatch.errors import UserError
from smallbatch.store import METRICS, RECORD, Epoch, Outcome, RunStore

RUNS = [a_run(seed=seed) for seed in (1, 2, 3)]
NAMES = [run.name("f") for run in RUNS]
OUTCOME = Outcome([Epoch(1, 0.1, 2.0, 1.5, 0.5, float("nan"))], None, 1.0, 64, 1, 10**6, [])


def a_store(folder, runs=RUNS):
    store = RunStore(folder)
    for run in runs:
        store.write(run, "f", OUTCOME, {"torch": "2"}, b"weights")
    return store


def carried(store, to):
    """Another store, to which the bundles of one have come."""
    other = RunStore(to)
    other.published.mkdir(parents=True)
    for path in store.published.glob("*.zip"):
        (other.published / path.name).write_bytes(path.read_bytes())
    return other


def test_runs_arrive_whole_without_their_weights_and_those_there_stay(tmp_path):
    store = a_store(tmp_path / "one")
    path = bundles.write(store, "s", NAMES)
    assert bundles.published(store) == dict.fromkeys(NAMES, path)
    other = carried(store, tmp_path / "other")
    own = a_store(tmp_path / "other", RUNS[:1]).root / NAMES[0] / RECORD
    before = own.read_bytes()
    for _ in range(2):
        bundles.take_in(other)
        assert all(other.has(run, "f") for run in RUNS) and own.read_bytes() == before
    assert sorted(entry.name for entry in other.root.iterdir()) == sorted(NAMES)
    assert [file.exists() for file in map(other.weights, NAMES)] == [True, False, False]


def test_the_same_runs_give_the_same_bundle_and_others_another(tmp_path):
    store = a_store(tmp_path)
    path = bundles.write(store, "s", NAMES)
    before = path.read_bytes()
    assert bundles.write(store, "s", NAMES[::-1]) == path and path.read_bytes() == before
    assert bundles.write(store, "s", NAMES[:2]) != path


def test_only_files_of_runs_are_taken_in(tmp_path):
    store = RunStore(tmp_path / "results")
    store.published.mkdir(parents=True)
    with zipfile.ZipFile(store.published / "s-1.zip", "w") as bundle:
        for name in (
            f"../{RECORD}",
            f"../../evil/{RECORD}",
            f"/x/{RECORD}",
            "a/evil.py",
            f"a/b/{RECORD}",
            f"good/{METRICS}",
        ):
            bundle.writestr(name, "x")
    bundles.take_in(store)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"results/published/s-1.zip", f"results/runs/good/{METRICS}"}


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_bundle_is_named(damage, tmp_path):
    store = a_store(tmp_path / "one")
    path = bundles.write(store, "s", NAMES)
    other = carried(store, tmp_path / "other")
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    (other.published / path.name).write_bytes(content if damage == "changed" else content[:-30])
    with pytest.raises(UserError, match=rf"published/{path.name}: damaged \(.*\); delete it and call `dvc pull` again"):
        bundles.take_in(other)


def test_what_is_not_pulled_is_not_published_twice(tmp_path):
    store = a_store(tmp_path)
    path = bundles.write(store, "s", NAMES)
    path.with_name(f"{path.name}.dvc").write_text("outs:")
    path.unlink()
    with pytest.raises(UserError, match=r"not pulled yet; `dvc pull \S+\.zip\.dvc` gets it"):
        bundles.published(store)
