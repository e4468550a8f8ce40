"""Stopping by a signal: at once, with nothing lost, and what is resumed is bit-identical to what was not stopped."""

import contextlib
import functools
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import PROJECT, a_run, made_data, training_settings, write_study
from helpers.processes import in_processes

from smallbatch.core import environment, signals
from smallbatch.core.console import log_and_exit_on_error
from smallbatch.core.errors import Stopped
from smallbatch.data import prepared
from smallbatch.runs.records import METRICS_FILE, VARIANCE_FILE
from smallbatch.training import launch, variance
from smallbatch.training.checkpoint_folder import CheckpointFolder
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.engines.native.engine import NativeEngine
from smallbatch.training.pack import train_pack
from smallbatch.training.resources import lane_count
from smallbatch.training.trainer import LaneTrainer


def hear(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_is_noted_and_obeyed_where_it_is_asked_for():
    before = signal.getsignal(signal.SIGTERM)
    with signals.catching_signals():
        signals.raise_if_signalled()
        hear()
        hear(signal.SIGINT)  # within seconds: the same, by another way
        assert signals.signal_received() == "SIGTERM"
        with pytest.raises(Stopped, match=r"^stopped by SIGTERM; call again to resume from there$"):
            signals.raise_if_signalled()
    assert signals.signal_received() == "" and signal.getsignal(signal.SIGTERM) == before


def test_blocks_within_blocks_hear_the_same():
    told = []
    with signals.catching_signals():
        with signals.catching_signals(lambda: told.append("first")):
            hear()
        with signals.catching_signals(lambda: told.append("second")):
            assert signals.signal_received() == "SIGTERM"
        assert signals.signal_received() == "SIGTERM"
    assert told == ["first", "second"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["in the background", "nohup"])
def test_a_signal_that_is_ignored_stays_so(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with signals.catching_signals():
            hear(number)
            assert not signals.signal_received()
    finally:
        signal.signal(number, before)


def test_a_terminal_that_closes_asks_for_a_stop():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with signals.catching_signals():
            hear(signal.SIGHUP)
            with pytest.raises(Stopped, match=r"^stopped by SIGHUP; call again to resume from there$"):
                signals.raise_if_signalled()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_train_without_listening():
    heard = []

    def listen():
        with signals.catching_signals():
            heard.append(signals.signal_received())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [""]


def test_a_second_signal_ends_the_process_at_once():
    code = "\n".join(
        [
            "import time",
            "from smallbatch.core import signals",
            "signals.REPEATED_WITHIN_S = 0.2",
            "with signals.catching_signals():",
            "    print('listening', flush=True)",
            "    time.sleep(60)",
        ]
    )
    path = {"PYTHONPATH": str(PROJECT / "workflow")}
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | path, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
        assert process.wait(5) == -signal.SIGTERM


def test_a_person_sees_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as end, log_and_exit_on_error(tmp_path / "log"):
        raise Stopped("SIGINT", "epoch 3, step 7")
    line = "stopped by SIGINT at epoch 3, step 7; call again to resume from there"
    assert end.value.code == line and (tmp_path / "log").read_text().splitlines()[0].endswith(f" {line}")


def test_ctrl_c_on_what_does_not_listen_is_one_line(capsys):
    with pytest.raises(SystemExit) as end, log_and_exit_on_error():
        raise KeyboardInterrupt
    assert end.value.code == 130 and capsys.readouterr().err[9:] == "stopped by SIGINT\n"


def several_kinds():
    """Pairs of lanes: BN in sub-batches with warm-up and held-out images; and one whose variance is measured."""
    bn = {"model": "resnet8", "norm": "batch", "b": 2, "warmup": True, "augment_pad": 1, "selection": "validation"}
    plain = {"model": "alexnet", "momentum": 0.5, "variance_batch_sizes": (4, 8)}
    pairs = [a_run(**kind, epochs=4, base_lr=2**-9, seed=seed) for kind in (bn, plain) for seed in (1, 2)]
    return [*pairs, a_run(**plain, epochs=4, base_lr=2.0**40)]


def files(results: Path) -> dict[Path, bytes]:
    paths = itertools.chain.from_iterable(
        results.rglob(name) for name in (METRICS_FILE, VARIANCE_FILE, "*.safetensors")
    )
    return {path.relative_to(results): path.read_bytes() for path in paths}


@contextlib.contextmanager
def a_signal_after(seconds: float):
    timer = threading.Timer(seconds, hear)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def count_updates(monkeypatch, during_a_block=lambda: None) -> list[int]:
    """Counts the updates of each block that is trained from now on."""
    made, train = [], LaneTrainer.train_block

    def counting(self, plan, end):
        during_a_block()
        losses = train(self, plan, end)
        made.append(losses.numel())
        return losses

    monkeypatch.setattr(LaneTrainer, "train_block", counting)
    return made


@pytest.mark.slow
def test_signals_at_any_moment_lose_nothing(tmp_path, monkeypatch, either_way):
    """Whatever the moment: no block is trained twice, no file damaged, and all bits are those of a whole training."""
    for updates in (EagerEngine, NativeEngine):
        monkeypatch.setattr(updates, "steps", 4)
    monkeypatch.setattr(variance, "MIN_MINI_BATCHES", 4)
    monkeypatch.setattr(environment, "commit", functools.cache(environment.commit))
    data, draws = made_data(tmp_path / "data" / "made", train=80), random.Random(0)
    options = {"lanes": 2, "keep_weights": "all", "device": "cpu"}
    with monkeypatch.context() as counted:
        whole = count_updates(counted)
        train_pack(several_kinds(), data, tmp_path / "whole", **options)
    made, places = count_updates(monkeypatch, lambda: hear() if draws.random() < 0.2 else None), []
    for attempt in range(200):
        # Ever later, as some measurements begin again; one that comes too late is heard outside.
        with signals.catching_signals(), a_signal_after(draws.uniform(0, 0.3 + 0.04 * attempt)):
            try:
                train_pack(several_kinds(), data, tmp_path / "stopped", **options)
                break
            except Stopped as stop:
                places.append(stop.args[1])
    assert sorted(made) == sorted(whole)  # which group of lanes comes first is as names are sorted
    assert len({place for place in places if place}) >= 5, "hardly stopped in the middle"
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert not list((tmp_path / "stopped").rglob("*damaged*")) and not list((tmp_path / "stopped").rglob(".*"))
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["lock"]


def test_it_stops_while_it_tests_measures_probes_or_waits(data_folder, monkeypatch, tmp_path):
    data, run = prepared.read(data_folder), a_run(variance_batch_sizes=(2, 4))
    training = LaneTrainer([run], data, torch.device("cpu"))
    with signals.catching_signals():
        folder = CheckpointFolder(tmp_path, run, "fingerprint")
        with folder.locked("a row", lambda title: None):
            hear()
            with pytest.raises(Stopped):
                training.test_split(training.loader.test_batches)
            with pytest.raises(Stopped):
                training.measure_variance()
            with pytest.raises(Stopped):
                lane_count._search([1, 2], {}, 4, lambda lanes: 1.0)
            monkeypatch.setattr(CheckpointFolder, "_try_lock", lambda *_: False)
            with pytest.raises(Stopped), folder.locked("a row", lambda title: None):
                pass


def test_stopped_before_it_trains_it_says_so(data_folder, tmp_path):
    with signals.catching_signals():
        hear()
        with pytest.raises(Stopped, match=r"^stopped by SIGTERM; call again"):
            launch.train([a_run()], data_folder, tmp_path, training_settings())
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow
def test_several_processes_stop_together(data_folder, tmp_path):
    """The signal reaches this process alone, as Ctrl-C would not: it is passed on."""
    runs = [a_run(model="resnet8", norm="batch", batch_size=8, b=4, epochs=25, seed=seed) for seed in (1, 2)]
    options = {"lanes": 2, "keep_weights": "all", "device": "cpu"}
    in_processes(2, lambda: train_pack(runs, data_folder, tmp_path / "whole", **options))
    checkpoints = tmp_path / "stopped" / "checkpoints"
    threading.Thread(target=_when_begun, args=(checkpoints,), daemon=True).start()
    with pytest.raises(Stopped, match=r"^stopped by SIGTERM at epoch \d+, step \d; call again") as stop:
        launch.train(runs, data_folder, tmp_path / "stopped", training_settings(processes=2, lanes=2))
    assert "epoch 0, step 0" not in str(stop.value)
    in_processes(2, lambda: train_pack(runs, data_folder, tmp_path / "stopped", **options))
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def _when_begun(checkpoints: Path) -> None:
    wait_for(lambda: list(checkpoints.glob("*/*.pt")))
    time.sleep(1)
    hear()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_on_a_workflow(project):
    """Reaches snakemake and what it started alike, as a cluster's SIGTERM does, and SIGHUP when a terminal closes; then
    the same call goes on."""
    setting = {"data": "digits", "model": "resnet8", "norm": "batch", "weight_decay": 1e-4, "epochs": 400}
    experiment = setting | {"batch_sizes": [4], "base_lrs": ["2^-8"]}
    figure = {"kind": "accuracy", "title": "A", "experiments": ["long"]}
    study = {"title": "Long", "seeds": [1], "experiments": {"long": experiment}, "figures": {"fig01": figure}}
    write_study(project, "long", study)
    numbers = signal.SIGINT, signal.SIGHUP, signal.SIGTERM
    logs = [stop_workflow(project, number) for number in numbers]
    assert all(f"stopped by {number.name} at epoch " in log for number, log in zip(numbers, logs, strict=True))
    for before, after in itertools.pairwise(logs):
        assert re.search(r"at (epoch .*); call again", before)[1] == re.search(r"resumed at (epoch .*)", after)[1]


def _hear_all() -> None:
    for number in signals.SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def stop_workflow(project: Path, number: signal.Signals) -> str:
    """Call it, and send a signal to all its processes once it has trained for a second; returns the job's log."""
    logs = project / "logs/train"
    shutil.rmtree(logs, ignore_errors=True)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "study=long", "--", "figures"]
    # Who starts these tests in the background may have left Ctrl-C ignored.
    heard = {"start_new_session": True, "preexec_fn": _hear_all}
    with subprocess.Popen(command, cwd=project, stderr=subprocess.DEVNULL, **heard) as workflow:
        wait_for(lambda: any("begins" in log.read_text() for log in logs.glob("*.log")))
        time.sleep(1)
        # A terminal that closes tells the one that leads its session alone.
        (os.kill if number == signal.SIGHUP else os.killpg)(workflow.pid, number)
        assert workflow.wait(60) == 1
    (log,) = logs.glob("*.log")
    return log.read_text()
