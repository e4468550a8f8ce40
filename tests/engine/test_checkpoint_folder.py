"""Checkpoints are found by row: by whoever wants one of their runs, whatever else he wants and however he cuts."""

import contextlib
import errno
import fcntl
import logging
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import a_run

from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.runs.records import METRICS_FILE, Epoch
from smallbatch.runs.store import RunStore
from smallbatch.training import checkpoints
from smallbatch.training.checkpoint_folder import CheckpointFolder, EpochsReader
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.pack import train_pack
from smallbatch.training.trainer import LaneTrainer

ONE, TWO, THREE = (a_run(seed=seed, model="resnet8", norm="batch", b=2) for seed in (1, 2, 3))


def stored(results: Path, data_folder: Path, run):
    return RunStore(results).find(run, prepared.read(data_folder).meta.fingerprint)


def metrics(results: Path, data_folder: Path, run) -> bytes:
    store = RunStore(results)
    return (store.folder(run, prepared.read(data_folder).meta.fingerprint) / METRICS_FILE).read_bytes()


def checkpoint_files(results: Path) -> list[Path]:
    return list(results.glob("checkpoints/*/*.pt*"))


def begin(folder: CheckpointFolder, *runs) -> Path:
    return folder.create({"runs": [run.settings for run in runs]})


def stopped(runs, data_folder, results, monkeypatch):
    """Train in groups of two lanes until the first state of a group that has begun is saved."""
    save = Checkpoint.save

    def stopping(self, state):
        save(self, state)
        if "model" in state:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "save", stopping)
        train_pack(runs, data_folder, results, lanes=2)


@pytest.fixture
def interrupted(data_folder, tmp_path, monkeypatch):
    """A folder of results where a job for runs ONE and TWO, in lanes, was stopped in the middle."""
    results = tmp_path / "interrupted"
    stopped([ONE, TWO], data_folder, results, monkeypatch)
    (path,) = checkpoint_files(results)
    assert Checkpoint(path).load()["step"] > 0
    return results


@pytest.fixture
def whole(data_folder, tmp_path):
    """The same, not stopped."""
    train_pack([ONE, TWO], data_folder, tmp_path / "whole", lanes=2)
    return tmp_path / "whole"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "lanes", "trained"),
    [
        ([ONE, TWO, THREE], 2, {ONE: 2, TWO: 2, THREE: 1}),  # a seed more
        ([ONE, TWO], 1, {ONE: 2, TWO: 2}),  # another number of lanes
        ([TWO, THREE], 1, {ONE: 2, TWO: 2, THREE: 1}),  # another study, which shares a run
    ],
)
def test_what_was_begun_is_gone_on_with(wanted, lanes, trained, interrupted, whole, data_folder, monkeypatch):
    (path,) = checkpoint_files(interrupted)
    resumed = []
    monkeypatch.setattr("smallbatch.training.trainer.LaneTrainer.restore", restoring(resumed))
    train_pack(wanted, data_folder, interrupted, lanes=lanes)
    assert resumed == [[ONE, TWO]]
    assert {run: stored(interrupted, data_folder, run).outcome.lanes for run in trained} == trained
    for run in (ONE, TWO):
        assert metrics(interrupted, data_folder, run) == metrics(whole, data_folder, run)
    assert not checkpoint_files(interrupted) and not path.parent.exists()


def restoring(resumed: list):
    restore = LaneTrainer.restore

    def noting(self, state):
        restore(self, state)
        resumed.append(list(self.state.runs))

    return noting


def test_the_rest_of_a_row_keeps_its_company_too(data_folder, tmp_path, monkeypatch):
    """A job that was stopped in its first group had cut the second as well."""
    runs = [replace(ONE, seed=seed) for seed in range(4)]
    stopped(runs, data_folder, tmp_path, monkeypatch)
    train_pack(runs, data_folder, tmp_path, lanes=3)
    assert [stored(tmp_path, data_folder, run).outcome.lanes for run in runs] == [2, 2, 2, 2]


def test_a_checkpoint_of_stored_runs_is_removed_and_one_of_others_left_alone(interrupted, whole, data_folder):
    fingerprint = prepared.read(data_folder).meta.fingerprint
    folder = CheckpointFolder(whole / "checkpoints", ONE, fingerprint)
    stale, other = begin(folder, ONE, TWO), begin(folder, replace(ONE, seed=8), replace(ONE, seed=9))
    assert train_pack([ONE, TWO], data_folder, whole) == 0
    assert not stale.exists() and other.exists()
    assert train_pack([THREE], data_folder, whole) == 1
    assert other.exists() and stored(whole, data_folder, replace(ONE, seed=8)) is None


def test_a_damaged_checkpoint_is_set_aside_and_its_runs_begin_again(interrupted, whole, data_folder, caplog):
    (path,) = checkpoint_files(interrupted)
    path.write_bytes(path.read_bytes()[:1000])
    assert train_pack([ONE, TWO], data_folder, interrupted, lanes=2) == 2
    assert "damaged checkpoint" in caplog.text
    assert [file.name for file in checkpoint_files(interrupted)] == [f"{path.name}.damaged-1"]
    assert metrics(interrupted, data_folder, TWO) == metrics(whole, data_folder, TWO)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def flipped_digest(path):
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def emptied(path):
    path.write_bytes(b"")


def a_folder(path):
    path.unlink()
    path.mkdir()


def anothers(path):
    """A whole checkpoint of the same row, which was saved under another name."""
    other = path.with_name("other.pt")
    Checkpoint(other).save(Checkpoint(path).load())
    other.replace(path)


@pytest.mark.parametrize("damage", [flipped, flipped_digest, emptied, a_folder, anothers])
def test_no_damage_of_a_checkpoint_goes_unnoticed(damage, tmp_path, caplog):
    path = begin(CheckpointFolder(tmp_path, ONE, "f"), ONE, TWO)
    assert Checkpoint(path).load() == {"runs": [ONE.settings, TWO.settings]}
    damage(path)
    assert Checkpoint(path).load() is None
    assert f"{path}: damaged checkpoint (" in caplog.text
    assert path.with_name(f"{path.name}.damaged-1").exists() and not path.exists()


def test_no_flip_of_a_bit_and_no_cut_goes_unnoticed(tmp_path):
    path = begin(CheckpointFolder(tmp_path, ONE, "f"), ONE)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        assert Checkpoint(path).load() is None
        path.write_bytes(content[:place])
        assert Checkpoint(path).load() is None
    path.write_bytes(content)
    assert Checkpoint(path).load() == {"runs": [ONE.settings]}


@pytest.mark.parametrize(
    "state",
    [
        {"runs": [replace(ONE, batch_size=8).settings]},
        {"runs": [ONE.settings, replace(ONE, setting=replace(ONE.setting, epochs=3)).settings]},
        {"runs": [{"seed": 1}]},
        {"runs": []},
        {},
        ["runs"],
    ],
)
def test_a_checkpoint_that_is_not_of_its_row_is_set_aside(state, tmp_path, caplog):
    folder = CheckpointFolder(tmp_path, ONE, "f")
    path = folder.path / "0.pt"
    Checkpoint(path).save(state)
    assert folder.unfinished(lambda run: True) == {}
    assert f"{path}: damaged checkpoint (it holds other runs), set aside as {path}.damaged-1" in caplog.text


def without_velocity(state):
    state["velocity"] = []


def with_other_shapes(state):
    state["model"] = {name: tensor[..., :1].clone() for name, tensor in state["model"].items()}


def without(key):
    return lambda state: state.pop(key)


def changed(key, value):
    return lambda state: state.update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        without_velocity,
        with_other_shapes,
        *map(
            without,
            (
                "lanes",
                "part",
                "model",
                "velocity",
                "epoch",
                "step",
                "history",
                "variance",
                "seconds",
                "loss_sum",
                "environments",
            ),
        ),
        *(changed(key, None) for key in ("lanes", "part", "model", "velocity", "epoch", "step", "history", "loss_sum")),
        changed("epoch", 1),
        changed("step", 10**6),
        changed("seconds", [0.0]),
        changed("environments", [{"torch": 2}]),
        changed("model", {"a": "b"}),
    ],
)
def test_a_state_that_does_not_fit_is_reported_before_anything_is_restored(change, data_folder):
    runs = [replace(run, setting=replace(run.setting, momentum=0.9)) for run in (ONE, TWO)]
    training = LaneTrainer(runs, prepared.read(data_folder), torch.device("cpu"))
    state = training.state.state_dict()
    assert training.state.why_incompatible(state) is None
    change(state)
    assert training.state.why_incompatible(state)


def test_a_whole_checkpoint_of_another_model_is_set_aside_and_its_runs_begin_again(
    interrupted, whole, data_folder, caplog
):
    (path,) = checkpoint_files(interrupted)
    state = Checkpoint(path).load()
    with_other_shapes(state)
    Checkpoint(path).save(state)
    assert train_pack([ONE, TWO], data_folder, interrupted, lanes=2) == 2
    assert f"{path}: damaged checkpoint (its model is of other tensors than this training's), set aside" in caplog.text
    assert metrics(interrupted, data_folder, TWO) == metrics(whole, data_folder, TWO)


def test_what_a_kill_left_of_a_checkpoint_goes_with_the_next_training(interrupted, data_folder):
    (path,) = checkpoint_files(interrupted)
    left = path.with_name(f".{path.name}.abcd1234")
    left.write_bytes(b"half")
    train_pack([ONE, TWO], data_folder, interrupted, lanes=2)
    assert not left.exists() and not path.parent.exists()


def test_a_row_is_known_by_all_but_rate_and_seed(tmp_path):
    def key(run, fingerprint="f"):
        return CheckpointFolder(tmp_path, run, fingerprint).key

    assert key(ONE) == key(TWO) == key(replace(ONE, base_lr=2.0**-3))
    others = [
        key(replace(ONE, batch_size=8)),
        key(replace(ONE, bn_batch_size=4)),
        key(replace(ONE, setting=replace(ONE.setting, epochs=3))),
        key(ONE, "other data"),
    ]
    assert len({key(ONE), *others}) == 5


@contextlib.contextmanager
def held_by_another(root: Path, run=ONE):
    """Another process that holds a row's lock until it is killed."""
    fork = multiprocessing.get_context("fork")
    has_it = fork.Event()

    def hold():
        with CheckpointFolder(root, run, "f").locked("a row", lambda title: None):
            has_it.set()
            time.sleep(60)

    owner = fork.Process(target=hold)
    owner.start()
    assert has_it.wait(10)
    try:
        yield owner
    finally:
        owner.kill()
        owner.join()


def test_a_row_waits_for_its_owner_and_goes_on_when_that_is_killed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with (
        held_by_another(tmp_path) as owner,
        CheckpointFolder(tmp_path, replace(ONE, batch_size=8), "f").locked("another row", lambda title: None),
    ):
        assert not caplog.text

        def kill(seconds):
            assert owner.is_alive()
            owner.kill()
            owner.join()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("smallbatch.training.checkpoint_folder.time.sleep", kill)
            with CheckpointFolder(tmp_path, ONE, "f").locked("this row", lambda title: None):
                assert "another job trains this row; waiting for it" in caplog.text and not owner.is_alive()


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks_is_reported_in_one_line(reason, data_folder, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(UserError) as told:
        train_pack([ONE], data_folder, tmp_path / "results")
    assert str(told.value).startswith(f"{tmp_path}/results/checkpoints: its file system does not lock files (")
    assert "\n" not in str(told.value) and not list(tmp_path.glob("results/runs/*"))


def test_epochs_of_unfinished_runs_are_read_and_nothing_is_changed(tmp_path):
    data = ONE.setting.data
    folder = CheckpointFolder(tmp_path, ONE, "f")
    path = begin(folder, ONE, TWO)
    reader = EpochsReader(tmp_path)
    assert reader({data: "f"}) == {}, "before the first update"
    rows = [[1, 0.1, 2.0, 1.5, 0.5, 0.25]], [[1, 0.1, 2.0, 1.5, 0.75, 0.25]]
    Checkpoint(path).save({"runs": [ONE.settings, TWO.settings], "history": list(rows), "model": {}})
    names = {run: run.name("f") for run in (ONE, TWO)}
    read = {names[ONE]: [Epoch(*rows[0][0])], names[TWO]: [Epoch(*rows[1][0])]}
    assert reader({data: "f"}) == read
    assert reader({data: "g"}) == {}, "of other data"
    path.write_bytes(path.read_bytes()[:-1])
    os.utime(path, (1, 1))
    assert reader({data: "f"}) == {}
    assert list(folder.path.iterdir()) == [path], "who only reads sets nothing aside"
