"""Binds each training process to a processor of its own."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

OBSERVED_S = 0.05
"""Seconds for which processors are observed before one is chosen: five ticks of Linux's clock."""

CLAIM = "smallbatch/processor"
"""Name of a socket, followed by the processor's number, that the process bound to this processor holds."""


@contextlib.contextmanager
def bound_processor() -> Iterator[int | None]:
    """Context that binds this thread to a processor to which no other training is bound; yields its number.

    If all are taken, or the system is not Linux, nothing is bound. Taken processors are marked by names in Linux's
    abstract socket namespace, which are valid for all users of a machine, end with the process and leave nothing on
    disk.
    """
    with contextlib.ExitStack() as claims:
        taken = _claim_processor(claims)
        allowed = os.sched_getaffinity(0) if taken is not None else set()
        if taken is not None:
            os.sched_setaffinity(0, {taken})
        try:
            yield taken
        finally:
            if allowed:
                os.sched_setaffinity(0, allowed)


def _claim_processor(claims: contextlib.ExitStack) -> int | None:
    """The first processor that is free; it is held until `claims` is closed."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    for processor in _idle_first(os.sched_getaffinity(0)):
        claim = claims.enter_context(socket.socket(socket.AF_UNIX))
        with contextlib.suppress(OSError):
            claim.bind(f"\0{CLAIM}/{processor}")
            return processor
    return None


def _idle_first(processors: set[int]) -> list[int]:
    """Processors in the order in which to try them.

    First one of each core, then the other threads of the cores; among equals idle ones come first, as other programs
    may be bound to processors too, or run in a container where our names are not visible.
    """
    before = _busy()
    time.sleep(OBSERVED_S)
    busy = {processor: ticks - before.get(processor, 0) for processor, ticks in _busy().items()}
    return sorted(processors, key=lambda number: (_thread_of_core(number, processors), busy.get(number, 0), number))


def _busy() -> dict[int, int]:
    """Ticks for which each processor has been busy since the system started."""
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    # Fields: user, nice, system, idle, waiting for a disk, ...
    counts = {line[0][3:]: list(map(int, line[1:])) for line in lines if line[0].startswith("cpu")}
    return {int(name): sum(ticks[:3]) for name, ticks in counts.items() if name}


def _thread_of_core(processor: int, allowed: set[int]) -> int:
    """How many of the allowed processors come before this one on its core."""
    path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    try:
        return sum(other < processor for other in _parse_cpu_list(path.read_text(encoding="utf-8")) & allowed)
    except (OSError, ValueError):
        return 0


def _parse_cpu_list(text: str) -> set[int]:
    """The numbers in a list such as 0-2,8."""
    ends = [tuple(map(int, part.split("-"))) for part in text.strip().split(",")]
    return {number for part in ends for number in range(part[0], part[-1] + 1)}
