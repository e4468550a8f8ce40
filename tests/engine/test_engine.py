"""The engine: recorded numbers, resume after SIGKILL, checkpoints, kept weights, runs without company."""

import contextlib
import math
import os
import signal
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import a_run, made_data
from helpers.processes import forked
from safetensors.torch import load_file

from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.runs.records import METRICS_FILE, RECORD_FILE
from smallbatch.runs.store import RunStore
from smallbatch.training import checkpoints, network
from smallbatch.training.batches import BatchLoader
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.pack import train_pack
from smallbatch.training.resources import device as devices
from smallbatch.training.schedule import Schedule
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")


def test_numbers_are_as_recorded(data_folder, tmp_path, either_way):
    """Fails when the engine's numbers change: then PROTOCOL in study.py must be raised, and these values renewed."""
    recorded = {
        "alexnet": (1.03705, 0.84277),
        "resnet8": (0.75195, 1.5163),
    }
    alexnet = a_run(model="alexnet", warmup=True, augment_pad=1, augment_flip=True, base_lr=2**-9)
    resnet = a_run(model="resnet8", norm="batch", batch_size=8, b=4, base_lr=2**-8)
    train_pack([alexnet, resnet], data_folder, tmp_path)
    store, fingerprint = RunStore(tmp_path), prepared.read(data_folder).meta.fingerprint
    for run in (alexnet, resnet):
        last = store.find(run, fingerprint).outcome.epochs[-1]
        # Other processors round otherwise; a change of the numbers is larger than this.
        assert (last.train_loss, last.test_loss) == pytest.approx(recorded[run.setting.model], rel=2e-3)


EPOCHS, STEPS = 24, 16


def train_to_the_end(data_folder: Path, results: Path) -> None:
    """With a checkpoint after each block of updates."""
    torch.rand(os.getpid() % 100)  # what the process drew before is nothing to it
    kind = {"model": "resnet8", "norm": "batch", "b": 2, "momentum": 0.5, "epochs": EPOCHS, "augment_pad": 1}
    kind |= {"augment_cutmix": 1.0, "augment_cutout": 2, "augment_contrast": 0.5}
    runs = [a_run(base_lr=lr, seed=seed, **kind) for lr in (2**-9, 2**-8, 2**20) for seed in (1, 2)]
    checkpoints.INTERVAL = 0.0
    train_pack(runs, data_folder, results, keep_weights="all")


def exit_codes(*processes: ForkProcess) -> list[int | None]:
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def in_the_middle(results: Path) -> bool:
    """Whether a group of lanes is between its first update and its last."""
    with contextlib.suppress(FileNotFoundError):
        states = filter(None, [Checkpoint(path).load() for path in results.glob("checkpoints/*/*.pt")])
        return any(0 < state["epoch"] * STEPS + state["step"] < EPOCHS * STEPS for state in states if "model" in state)
    return False


@pytest.mark.slow
def test_killed_and_resumed_is_bit_identical(data_folder, tmp_path, either_way):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert exit_codes(forked(train_to_the_end, data_folder, whole)) == [0]
    process = forked(train_to_the_end, data_folder, killed)
    deadline = time.monotonic() + 60
    while not in_the_middle(killed) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert exit_codes(process) == [-signal.SIGKILL]
    assert in_the_middle(killed), "the training was not killed in the middle"
    assert exit_codes(forked(train_to_the_end, data_folder, killed)) == [0]
    names = sorted(folder.name for folder in (whole / "runs").iterdir())
    assert len(names) == 6 and names == sorted(folder.name for folder in (killed / "runs").iterdir())
    for name in names:
        ours, theirs = (folder / "runs" / name / METRICS_FILE for folder in (whole, killed))
        assert ours.read_bytes() == theirs.read_bytes(), f"{name} differs"
    ours, theirs = ({path.name for path in folder.glob("weights/*")} for folder in (whole, killed))
    assert ours == theirs, "weights are named by their content"
    assert not list(killed.glob("checkpoints/*/*.pt"))


def test_stopped_between_two_runs_of_a_group_it_goes_on_with_the_same_company(data_folder, tmp_path, monkeypatch):
    runs = [a_run(seed=seed, base_lr=lr, norm="batch") for lr in (2**-8, 2**-7) for seed in (1, 2)]
    train_pack(runs, data_folder, tmp_path / "whole", lanes=4)
    with monkeypatch.context() as stopping:
        stopping.setattr(RunStore, "write", stop_at_the_second(RunStore.write))
        with pytest.raises(KeyboardInterrupt):
            train_pack(runs, data_folder, tmp_path / "stopped", lanes=4)
    assert len(list(tmp_path.glob("stopped/runs/*"))) == 1
    assert train_pack(runs, data_folder, tmp_path / "stopped", lanes=4) == 3
    for whole in tmp_path.glob(f"whole/runs/*/{METRICS_FILE}"):
        assert whole.read_bytes() == (tmp_path / "stopped" / "runs" / whole.parent.name / METRICS_FILE).read_bytes()


def test_a_training_that_other_code_began_says_so(data_folder, tmp_path, monkeypatch, caplog):
    runs = [a_run(seed=seed) for seed in (1, 2, 3)]
    with monkeypatch.context() as before:
        before.setattr("smallbatch.core.environment.commit", lambda: "1" * 40 + "+changes")
        before.setattr("smallbatch.training.checkpoints.INTERVAL", 0.0)
        before.setattr(RunStore, "write", stop_at_the_second(RunStore.write))
        with pytest.raises(KeyboardInterrupt):
            train_pack(runs, data_folder, tmp_path, lanes=3)
    monkeypatch.setattr("smallbatch.core.environment.commit", lambda: "2" * 40)
    assert train_pack(runs, data_folder, tmp_path, lanes=3) == 2
    store, meta = RunStore(tmp_path), prepared.read(data_folder).meta
    recorded = {store.find(run, meta.fingerprint).environment["commit"] for run in runs}
    assert recorded == {"1" * 40 + "+changes", "1" * 40 + "+changes then " + "2" * 40}
    assert "resumed elsewhere than it began: commit 1111" in caplog.text


def stop_at_the_second(write):
    calls = []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*arguments)

    return stopping


@pytest.mark.parametrize("name", ["cosine", "linear", "one-cycle"])
def test_the_rate_of_an_epoch_is_that_of_its_last_update(name, data_folder, tmp_path):
    run = a_run(lr_schedule=name, lr_drops=(), epochs=3)
    train_pack([run], data_folder, tmp_path)
    (record,) = (RunStore(tmp_path).read(path.name) for path in (tmp_path / "runs").iterdir())
    factor, steps = Schedule(3 * 16, run.setting), (15, 31, 47)
    assert [epoch.learning_rate for epoch in record.outcome.epochs] == pytest.approx(
        [run.learning_rate * factor(step) for step in steps]
    )


@pytest.mark.slow
def test_two_jobs_with_the_same_runs_do_not_meddle(data_folder, tmp_path):
    assert exit_codes(*(forked(train_to_the_end, data_folder, tmp_path) for _ in range(2))) == [0, 0]
    assert len(list(tmp_path.glob("runs/*/run.json"))) == 6 and not list(tmp_path.glob("runs/*damaged*"))


def test_a_damaged_checkpoint_is_set_aside_and_named(tmp_path, caplog):
    path = tmp_path / "c.pt"
    path.write_bytes(b"not a checkpoint")
    assert Checkpoint(path).load() is None
    assert "c.pt: damaged checkpoint" in caplog.text
    assert (tmp_path / "c.pt.damaged-1").read_bytes() == b"not a checkpoint"


def test_checkpoints_execute_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"state": Evil()}, tmp_path / "c.pt")
    assert Checkpoint(tmp_path / "c.pt").load() is None
    assert not (tmp_path / "executed").exists()


def test_only_what_is_missing_is_trained(data_folder, tmp_path):
    one, two = a_run(seed=1), a_run(seed=2)
    assert train_pack([one], data_folder, tmp_path) == 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*")}
    assert train_pack([one, two], data_folder, tmp_path) == 1
    assert train_pack([one, two], data_folder, tmp_path) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


@pytest.mark.parametrize("damage", ["truncate metrics", "garble record", "delete metrics", "rename"])
def test_a_damaged_run_is_set_aside_and_redone(damage, data_folder, tmp_path, caplog):
    run = a_run()
    train_pack([run], data_folder, tmp_path)
    store, fingerprint = RunStore(tmp_path), prepared.read(data_folder).meta.fingerprint
    folder = store.folder(run, fingerprint)
    metrics = (folder / METRICS_FILE).read_bytes()
    if damage == "truncate metrics":
        (folder / METRICS_FILE).write_bytes(metrics[:-10])
    elif damage == "garble record":
        (folder / RECORD_FILE).write_text("{")
    elif damage == "delete metrics":
        (folder / METRICS_FILE).unlink()
    else:  # the content of another run under this name
        other = a_run(seed=9)
        train_pack([other], data_folder, tmp_path)
        (folder / RECORD_FILE).write_text((store.folder(other, fingerprint) / RECORD_FILE).read_text())
    assert not store.has(run, fingerprint)
    assert train_pack([run], data_folder, tmp_path) == 1
    assert f"{folder.name}: damaged" in caplog.text
    assert folder.with_name(f"{folder.name}.damaged-1").is_dir()
    assert (folder / METRICS_FILE).read_bytes() == metrics


@pytest.mark.parametrize(("keep", "count"), [("all", 2), ("best", 1), ("none", 0)])
def test_final_weights_are_kept_as_the_config_says(keep, count, data_folder, tmp_path):
    runs = [a_run(seed=seed, base_lr=2**-9) for seed in (1, 2)]
    train_pack(runs, data_folder, tmp_path, keep_weights=keep)
    kept = list(tmp_path.glob("weights/*"))
    assert len(kept) == count
    store, fingerprint = RunStore(tmp_path), prepared.read(data_folder).meta.fingerprint
    assert all(store.has(run, fingerprint) for run in runs)
    assert all(load_file(path)["0.weight"].shape == (16, 1, 5, 5) for path in kept)
    train_pack([*runs, a_run(seed=3, base_lr=2**-9)], data_folder, tmp_path, keep_weights=keep)
    assert len(list(tmp_path.glob("weights/*"))) == {"all": 3, "best": 1, "none": 0}[keep]


def test_an_epoch_shows_each_image_once_in_an_order_of_its_own(data_folder):
    loader = BatchLoader(prepared.read(data_folder), a_run().setting, 4, CPU)
    first, second = (loader.plan([1, 2], epoch).order for epoch in (0, 1))
    assert first.shape == (16, 4, 2)
    for lane in range(2):
        assert sorted(first[:, :, lane].flatten().tolist()) == list(range(64))
    assert not torch.equal(first[:, :, 0], first[:, :, 1]) and not torch.equal(first, second)
    assert torch.equal(first, loader.plan([1, 2], 0).order)


def test_images_are_normalised_with_the_training_splits_statistics(data_folder):
    data = prepared.read(data_folder)
    loader = BatchLoader(data, a_run().setting, 64, CPU)
    images = loader.batches(loader.plan([1], 0), 0, 1).images
    assert images.mean().item() == pytest.approx(0, abs=1e-5) and images.std().item() == pytest.approx(1, abs=1e-3)


def test_floats_are_normalised_in_their_own_units(tmp_path):
    draws = np.random.default_rng(0)
    features = draws.normal([[[[5000]], [[1e-3]]]], [[[[300]], [[1e-4]]]], (64, 2, 1, 1)).astype(np.float32)
    split = prepared.Split(features, np.arange(64) % 2)
    prepared.write(tmp_path, "made", ["a", "b"], split, split)
    loader = BatchLoader(prepared.read(tmp_path), a_run().setting, 64, CPU)
    images = loader.batches(loader.plan([1], 0), 0, 1).images[0]
    assert images.mean(0).flatten().tolist() == pytest.approx([0, 0], abs=1e-4)
    assert images.std(0, correction=0).flatten().tolist() == pytest.approx([1, 1], abs=1e-3)
    ((tested, _),) = loader.test_batches(64)
    whole = (features - features.mean(0)) / features.std(0)
    np.testing.assert_allclose(tested.numpy(), whole, atol=1e-3)
    assert np.array_equal(loader.test_images.images.numpy(), features), "the data themselves are left as they are"


def test_a_part_of_the_training_images_is_the_same_for_every_seed(data_folder):
    loader = BatchLoader(prepared.read(data_folder), a_run(train_images=20).setting, 4, CPU)
    one, two = (set(loader.plan([seed], 0).order.flatten().tolist()) for seed in (1, 2))
    assert one == two and len(one) == 20 and one != set(range(20))


def test_what_was_learnt_is_better_than_chance(tmp_path):
    folder = made_data(tmp_path / "made", train=256, test=64)
    run = a_run(epochs=6, batch_size=8)
    train_pack([run], folder, tmp_path)
    outcome = RunStore(tmp_path).find(run, prepared.read(folder).meta.fingerprint).outcome
    assert outcome.epochs[-1].test_accuracy > 0.9
    assert outcome.images == 6 * 256 and outcome.seconds > 0


def test_rates_can_be_chosen_on_images_that_are_held_out(tmp_path):
    folder = made_data(tmp_path / "made", train=200)
    runs = [a_run(batch_size=8, selection="validation", seed=seed) for seed in (1, 2)]
    loader = BatchLoader(prepared.read(folder), runs[0].setting, 8, CPU)
    seen, held_out = set(loader.plan([1], 0).order.flatten().tolist()), set(loader.held_out.tolist())
    assert len(held_out) == 20 and len(seen) == 176 and not seen & held_out
    assert sum(len(labels) for _, labels in loader.validation_batches(8)) == 20
    train_pack([*runs, a_run(batch_size=8)], folder, tmp_path)
    store, fingerprint = RunStore(tmp_path), prepared.read(folder).meta.fingerprint
    for run in runs:
        for epoch in store.find(run, fingerprint).outcome.epochs:
            assert (20 * epoch.validation_accuracy) == pytest.approx(round(20 * epoch.validation_accuracy))
    assert math.isnan(store.find(a_run(batch_size=8), fingerprint).outcome.epochs[-1].validation_accuracy)


def test_a_record_says_lanes_and_memory(data_folder, tmp_path):
    runs = [a_run(seed=seed, base_lr=lr) for seed, lr in ((1, 2**-9), (2, 2**-9), (3, 2.0**40))]
    train_pack(runs, data_folder, tmp_path, lanes=3)
    store, fingerprint = RunStore(tmp_path), prepared.read(data_folder).meta.fingerprint
    outcomes = [store.find(run, fingerprint).outcome for run in runs]
    assert [outcome.lanes for outcome in outcomes] == [3, 3, 3] and outcomes[2].diverged_at
    assert all(10 * 2**20 < outcome.peak_memory < 2**40 for outcome in outcomes)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_the_peak_of_memory_is_that_since_it_was_forgotten():
    devices.reset_peak_memory(CPU)
    before = devices.peak_memory(CPU)
    block = bytearray(b"x" * (200 * 2**20))
    assert devices.peak_memory(CPU) - before > 150 * 2**20
    del block
    devices.reset_peak_memory(CPU)
    assert devices.peak_memory(CPU) - before < 100 * 2**20


@pytest.mark.parametrize(("fits", "found"), [(9, 8), (4, 4), (3, 2), (1, 0)])
def test_micro_batches_are_halved_until_they_fit(fits, found):
    tried = []

    def attempt(size):
        tried.append(size)
        if size > fits:
            raise torch.OutOfMemoryError

    assert network.halved_until_it_fits(attempt, 8, 2) == found
    assert tried == [size for size in (8, 4, 2) if size >= (found or 2)]


def test_micro_batches_stay_multiples_of_a_sub_batch():
    tried = []

    def attempt(size):
        tried.append(size)
        raise torch.OutOfMemoryError

    assert network.halved_until_it_fits(attempt, 30, 6) == 0 and tried == [30, 12, 6]


def test_trying_what_fits_changes_nothing(data_folder):
    run = a_run(model="resnet8", norm="batch", batch_size=8, b=2)
    training = LaneTrainer([run], prepared.read(data_folder), CPU)
    before = {name: value.clone() for name, value in training.state.model.state_dict().items()}
    images, labels = training.loader.batches(training.plan(), 0, 1)
    training.state.network.shrink_micro_batch(images[0], labels[0])
    assert training.state.network.micro_batch == 8
    assert all(torch.equal(value, before[name]) for name, value in training.state.model.state_dict().items())


def test_a_device_that_is_too_small_is_reported_in_one_line(data_folder, monkeypatch):
    def too_much(*arguments, alone):
        raise torch.OutOfMemoryError

    training = LaneTrainer([a_run(norm="batch", batch_size=8, b=4)], prepared.read(data_folder), CPU)
    monkeypatch.setattr(training.state.network, "gradients", too_much)
    images, labels = training.loader.batches(training.plan(), 0, 1)
    with pytest.raises(UserError, match="out of memory on the device: 4 examples of each of 1 lanes"):
        training.state.network.shrink_micro_batch(images[0], labels[0])
