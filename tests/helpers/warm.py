"""Calls of snakemake without its two seconds of imports: forks of a process that has done them.

For tests that make many calls; those of tests/workflow/test_commands.py start snakemake as users do. As a program this
file is that process, and each line of its standard input a call, as JSON.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def call(folder: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """Call snakemake in a folder, in the environment of this process; returns its exit code and what it printed."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as printed:
        call = {"folder": str(folder), "arguments": arguments, "printed": printed.name, "environment": {**os.environ}}
        process = imported()
        print(json.dumps(call), file=process.stdin, flush=True)
        code = int(process.stdout.readline())
        return code, printed.read()


@functools.cache
def imported() -> subprocess.Popen:
    """The process that has imported snakemake; it ends with this one."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)
    return process


def serve() -> None:
    """Fork for each call, and answer with the exit code."""
    from snakemake.cli import main

    for line in sys.stdin:
        call = json.loads(line)
        if process := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
            continue
        become(call)
        main()  # which ends the fork


def become(call: dict) -> None:
    """Make this process what `python -m snakemake` would be."""
    os.dup2(os.open(call["printed"], os.O_WRONLY), 1)
    os.dup2(1, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(call["folder"])
    os.environ.clear()
    os.environ.update(call["environment"])
    sys.path[0] = call["folder"]
    sys.argv = ["snakemake", *call["arguments"]]


if __name__ == "__main__":
    serve()
