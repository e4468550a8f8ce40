"""Starts of Python without its seconds of imports: forks of a process that has done them.

For tests that make many calls of snakemake, and for the jobs of those calls; tests of signals, of SLURM and of what is
installed start Python as users do. `python()` is a small program that stands in for Python: it has what it is asked for
run by a fork, which gets its arguments, files, folder, environment and signals. What a fork cannot do, since Python or
a library reads it as it starts, goes to Python itself: other variables of `READ_AT_START`, and other arguments than
`FILE.py ...` and `-m MODULE ...`.

As a program this file is the process that forks.
"""

import atexit
import functools
import gc
import importlib
import marshal
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Sequence
from pathlib import Path

READ_AT_START = (
    "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "DNNL_MAX_CPU_ISA", "LANG", "LC_ALL", "LC_CTYPE", "LD_PRELOAD",
    "MKL_ENABLE_INSTRUCTIONS", "MPLCONFIGDIR", "PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONUTF8",
    "PYTHONWARNINGS", "TZ",
)  # fmt: skip
"""Variables that Python and its libraries look at once."""

IMPORTED = (
    "fontTools.subset", "jinja2", "jsonschema", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg", "nbformat", "pandas", "pyarrow.dataset", "pyarrow.parquet", "requests",
    "rocrate.rocrate", "safetensors.torch", "seaborn", "sklearn.datasets", "smart_open", "snakemake.benchmark",
    "snakemake.cli", "snakemake.script", "torch", "yaml",
)  # fmt: skip
"""What calls of snakemake and their jobs import, or most of them."""

STARTER = """\
#!{python} -IS
import marshal, os, signal, socket, sys
given = sys.argv[1:]
is_module = given[:1] == ["-m"] and len(given) > 1
as_here = all(os.environ.get(name) in values for name, values in {variables!r}.items())
if not as_here or not (is_module or given and given[0].endswith(".py")):
    os.execv({python!r}, [{python!r}, *given])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    start = marshal.dumps([given, os.getcwd(), dict(os.environ)])
    socket.send_fds(server, [b"%12d" % len(start)], [0, 1, 2])
    server.sendall(start)
    process = int(server.recv(12))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: os.kill(process, number))
    code = int(server.recv(12))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def python() -> Path:
    """The program that stands in for Python, beside snakemake and pytest by it; what they need ends as this process."""
    folder = tempfile.TemporaryDirectory()
    address, program = f"{folder.name}/starts", Path(folder.name, "python")
    variables = {name: (os.environ.get(name),) for name in READ_AT_START} | {"MPLBACKEND": (None, "agg")}
    program.write_text(STARTER.format(python=sys.executable, variables=variables, address=address), encoding="utf-8")
    others = [program.with_name(name) for name in ("snakemake", "pytest")]
    for other in others:
        other.write_text(f'#!/bin/sh\nexec {program} -m {other.name} "$@"\n', encoding="utf-8")
    for file in (program, *others):
        file.chmod(0o700)
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"MPLBACKEND": "agg"}
    command, pipes = (
        [sys.executable, __file__, address, str(program)],
        {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE},
    )
    process = subprocess.Popen(command, env=elsewhere, start_new_session=True, **pipes)
    assert process.stdout.readline(), "what it imports is missing"
    for ended in (folder.cleanup, process.communicate):  # the last one first
        atexit.register(ended)
    return program


def serve(address: str) -> None:
    """Fork for each start, until the input ends, as it does with the tests; a fork of its own waits for it."""
    for name in IMPORTED:
        importlib.import_module(name)
    sys.modules["snakemake.cli"].get_argument_parser()  # imports Snakemake's plugins
    for finalizer in weakref.finalize._registry:  # which each fork would call at its end: torch has hundreds
        finalizer.atexit = False
    gc.collect()
    gc.freeze()  # or each fork would touch, and so copy, all of it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                attend(connection)
            connection.close()


def attend(connection: socket.socket) -> None:
    """Read what is to start, start it in a fork, and say which process that is and how it ended. Never returns."""
    length, files, _, _ = socket.recv_fds(connection, 12, 3)
    start = b""
    while len(start) < int(length):
        start += connection.recv(1 << 16)
    if process := os.fork():
        connection.sendall(b"%12d" % process)
        connection.sendall(b"%12d" % os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        os._exit(0)
    connection.close()
    arguments, folder, environment = marshal.loads(start)
    become(folder, environment, files)
    code = exit_code_of(arguments)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)  # to take all of it apart would take longer than most starts


def become(folder: str, environment: dict[str, str], files: Sequence[int]) -> None:
    """Make this process what another start of Python would be, with these three files as its standard ones."""
    import numpy
    import torch

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    numpy.random.seed()
    if "OMP_NUM_THREADS" in environment:
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))


def exit_code_of(arguments: Sequence[str]) -> int:
    """Run `FILE.py ...` or `-m MODULE ...` as Python would; returns its exit code."""
    library = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    is_module = arguments[0] == "-m"
    sys.path[:1] = [
        os.getcwd() if is_module else os.path.dirname(os.path.abspath(arguments[0])),
        *filter(None, library),
    ]
    sys.executable, sys.argv = sys.argv[2], list(arguments[is_module:])
    try:
        if is_module:
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
