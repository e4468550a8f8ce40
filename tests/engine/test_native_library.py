"""The library of compiled kernels: made once, checked when it is loaded, and done without where it cannot be had."""

import ctypes
import logging
import os
import shlex

import pytest
import torch
from helpers import a_run

from smallbatch.data import prepared
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.engines.native import library
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(library.compiler() is None, reason="no C++ compiler here"),
]


def test_without_a_compiler_training_goes_on_with_torch(data_folder, no_kernels, caplog):
    with caplog.at_level(logging.INFO):
        training = LaneTrainer([a_run()], prepared.read(data_folder), CPU)
    assert type(training.engine) is EagerEngine and "no C++ compiler here" in caplog.text


def test_a_compiler_that_fails_is_reported_and_done_without(data_folder, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "FLAGS", ("-no-such-flag",))
    library.kernels.cache_clear()
    with caplog.at_level(logging.INFO):
        training = LaneTrainer([a_run()], prepared.read(data_folder), CPU)
    library.kernels.cache_clear()
    assert type(training.engine) is EagerEngine and "no-such-flag" in caplog.text
    assert not list(tmp_path.rglob("*.so"))


def test_kernels_are_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "FLAGS", ("-std=c++17", "-O0", "-fPIC", "-shared"))  # quickly
    for _ in range(2):
        library.kernels.cache_clear()
        assert library.kernels() is not None
        [made] = tmp_path.rglob("*.so")
        stamp = made.stat().st_mtime_ns
    library.kernels.cache_clear()
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")] == [stamp]


class LongerLane(ctypes.Structure):
    _fields_ = (*library.Lane._fields_, ("more", ctypes.c_int32))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"INTERFACE": library.INTERFACE + 1}, f"its interface is number {library.INTERFACE}, that of library.py"),
        ({"STRUCTS": (*library.STRUCTS[:3], LongerLane)}, "LongerLane has 24 bytes, in library.py 32"),
        ({"STRUCTS": (*library.STRUCTS, library.Lane)}, "Lane has -1 bytes, in library.py 24"),
    ],
)
def test_kernels_declared_otherwise_are_refused_in_one_line(changed, reason, data_folder, monkeypatch, caplog):
    for name, value in changed.items():
        monkeypatch.setattr(library, name, value)
    library.kernels.cache_clear()
    training = LaneTrainer([a_run()], prepared.read(data_folder), CPU)
    library.kernels.cache_clear()
    assert type(training.engine) is EagerEngine
    [line] = [record.getMessage() for record in caplog.records if "kernels.cpp" in record.getMessage()]
    assert reason in line and "training goes operation by operation" in line


DAMAGES = {
    "empty": lambda made, seal, whole: made.write_bytes(b""),
    "cut": lambda made, seal, whole: made.write_bytes(whole[:1000]),
    "a bit": lambda made, seal, whole: made.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]),
    "a folder": lambda made, seal, whole: made.mkdir(),
    "a pipe": lambda made, seal, whole: os.mkfifo(made),
    "a link to nothing": lambda made, seal, whole: made.symlink_to("nowhere"),
    "no seal": lambda made, seal, whole: (made.write_bytes(whole), seal.unlink()),
    "a seal that is no text": lambda made, seal, whole: (made.write_bytes(whole), seal.write_bytes(b"\xff")),
    "a seal that is a folder": lambda made, seal, whole: (made.write_bytes(whole), seal.unlink(), seal.mkdir()),
    "another machine's": lambda made, seal, whole: (
        made.write_bytes(whole + b"other"),
        seal.write_bytes(library._seal("kernels-of-another-machine.so", whole + b"other")),
    ),
}


@pytest.fixture(scope="module")
def compiler_that_remembers(tmp_path_factory):
    """A C++ compiler that makes the library once, and from then on, when it is called again, writes the same bytes."""
    script = tmp_path_factory.mktemp("compiler") / "c++"
    script.write_text(
        f"""#!/bin/sh
case $1 in --version) exec {shlex.join(library.compiler())} --version ;; esac
[ -e $0.so ] || {shlex.join(library.compiler())} -std=c++17 -O0 -fPIC -shared -o $0.so {library.SOURCE}
while [ "$1" != -o ]; do shift; done
cp $0.so "$2"
"""
    )
    script.chmod(0o755)
    return script


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_kernels_are_named_set_aside_and_compiled_again(
    damage, compiler_that_remembers, monkeypatch, tmp_path, caplog
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(compiler_that_remembers))
    library.kernels.cache_clear()
    assert library.kernels() is not None
    [made] = tmp_path.rglob("*.so")
    whole, seal = made.read_bytes(), made.with_suffix(".sha256")
    made.unlink()  # not changed in place: it is loaded
    DAMAGES[damage](made, seal, whole)
    library.kernels.cache_clear()
    assert library.kernels() is not None and made.read_bytes() == whole
    assert f"{made}: damaged, set aside as {made}.damaged-1, and made again" in caplog.text
    library.kernels.cache_clear()
