"""Each training process has a processor of its own."""

import contextlib
import os
import subprocess
import sys

import pytest
from helpers import PROJECT, a_run

from smallbatch.data import prepared
from smallbatch.training import pack
from smallbatch.training.resources import processor_binding

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes")

HOLD = """
import sys
from smallbatch.training.resources import processor_binding
processor_binding.CLAIM = sys.argv[1]
with processor_binding.bound_processor() as own:
    print(own, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def own_claims(monkeypatch):
    """The trainings of these tests know nothing of others on the machine."""
    monkeypatch.setattr(processor_binding, "CLAIM", f"smallbatch/test/{os.getpid()}")


@contextlib.contextmanager
def another_training():
    """Another process with a processor of its own; gives that."""
    command = [sys.executable, "-c", HOLD, processor_binding.CLAIM]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(PROJECT / "workflow")}, **pipes) as process:
        yield process.stdout.readline().strip()
        process.kill()


@linux
def test_no_two_trainings_share_a_processor_and_the_surplus_one_is_not_bound():
    allowed = os.sched_getaffinity(0)
    with contextlib.ExitStack() as others:
        found = [others.enter_context(another_training()) for _ in allowed]
        assert sorted(found) == sorted(map(str, allowed))
        with processor_binding.bound_processor() as own:
            assert own is None and os.sched_getaffinity(0) == allowed
    with processor_binding.bound_processor() as own:  # the others were killed
        assert os.sched_getaffinity(0) == {own}
    assert os.sched_getaffinity(0) == allowed


@linux
def test_an_error_gives_the_processor_back():
    allowed = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), processor_binding.bound_processor():
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == allowed
    with processor_binding.bound_processor() as own:
        assert own is not None


def test_where_nothing_can_be_bound_nothing_is(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with processor_binding.bound_processor() as own:
        assert own is None


def test_cores_come_before_their_second_threads_and_idle_ones_before_busy_ones(monkeypatch):
    ticks = iter([dict.fromkeys(range(4), 100), {0: 104, 1: 100, 2: 100, 3: 100}])
    monkeypatch.setattr(processor_binding, "_busy", lambda: next(ticks))
    monkeypatch.setattr(processor_binding, "_thread_of_core", lambda own, allowed: {0: 0, 1: 1, 2: 0, 3: 1}[own])
    assert processor_binding._idle_first({0, 1, 2, 3}) == [2, 0, 1, 3]


def test_a_list_of_processors_is_read_as_linux_writes_it():
    assert processor_binding._parse_cpu_list("0-2,8\n") == {0, 1, 2, 8}
    assert processor_binding._parse_cpu_list("3\n") == {3}


@linux
@pytest.mark.parametrize("photos", [None, "where photos lie"])
def test_a_training_is_bound_but_where_photos_are_decoded(photos, data_folder, tmp_path, monkeypatch):
    seen = []
    data = prepared.read(data_folder)
    meta = data.meta if photos is None else prepared.Meta(**vars(data.meta) | {"photos": photos})
    monkeypatch.setattr(pack.prepared, "read", lambda folder: prepared.Prepared(meta, data.train, data.test))
    monkeypatch.setattr(pack._Job, "train_compatible", lambda job, runs: seen.append(os.sched_getaffinity(0)))
    pack.train_pack([a_run()], data_folder, tmp_path, device="cpu")
    assert [len(allowed) for allowed in seen] == [1 if photos is None else len(os.sched_getaffinity(0))]
