"""A processor of its own for each training process, and memory that stays with the process that had it."""

import contextlib
import ctypes
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

LISTEN = 0.05
"""Seconds for which processors are watched before one is taken: five ticks of Linux's clock."""

CLAIM = "smallbatch/processor"
"""The name, followed by the processor's number, that whoever is bound to it holds."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 1 << 26
"""Bytes of a block, or of free memory at the heap's end, from which the C library gives memory back to the system. With
more, blocks of such a size leave holes in the heap that nothing else fits in: testing took 1.7 times the memory."""


@contextlib.contextmanager
def of_its_own() -> Iterator[int | None]:
    """Bind this thread, while the block runs, to a processor that no other training is bound to; yields which.

    Where all are taken, or the system is not Linux, nothing is bound. Which are taken is said by names in Linux's
    abstract socket namespace: they hold for all users of a machine, end with the process and leave nothing on disk.
    """
    with contextlib.ExitStack() as claims:
        taken = _take(claims)
        allowed = os.sched_getaffinity(0) if taken is not None else set()
        if taken is not None:
            os.sched_setaffinity(0, {taken})
        try:
            yield taken
        finally:
            if allowed:
                os.sched_setaffinity(0, allowed)


def _take(claims: contextlib.ExitStack) -> int | None:
    """The first processor that can be had; it is held until `claims` close."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    for processor in _by_freedom(os.sched_getaffinity(0)):
        claim = claims.enter_context(socket.socket(socket.AF_UNIX))
        with contextlib.suppress(OSError):
            claim.bind(f"\0{CLAIM}/{processor}")
            return processor
    return None


def _by_freedom(processors: set[int]) -> list[int]:
    """Processors in the order in which to try them.

    First one of each core, then the other threads of the cores; among those the idle before such as programs keep busy
    that are bound as well, or run in a container that does not see our names.
    """
    before = _busy()
    time.sleep(LISTEN)
    busy = {processor: ticks - before.get(processor, 0) for processor, ticks in _busy().items()}
    return sorted(processors, key=lambda number: (_thread_of_core(number, processors), busy.get(number, 0), number))


def _busy() -> dict[int, int]:
    """Ticks that each processor has been busy for since the system started."""
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
        return sum(other < processor for other in _listed(path.read_text(encoding="utf-8")) & allowed)
    except (OSError, ValueError):
        return 0


def _listed(text: str) -> set[int]:
    """The numbers of a list such as 0-2,8."""
    ends = [tuple(map(int, part.split("-"))) for part in text.strip().split(",")]
    return {number for part in ends for number in range(part[0], part[-1] + 1)}


def keep_memory() -> None:
    """Let large blocks be taken from the process's own heap again instead of, page by page, from the system.

    At m = 512 on 32x32, ResNet-8 with batch normalisation and the reduced AlexNet both trained 1.15 times as fast with
    it (medians of 7 in turn with and without, on a busy machine whose single values varied by a factor of 1.8). Only
    the GNU C library has this; elsewhere nothing happens.
    """
    # An older one refuses so large a block; the other threshold alone would make things worse.
    if _libc("mallopt", M_MMAP_THRESHOLD, KEPT):
        _libc("mallopt", M_TRIM_THRESHOLD, KEPT)


def give_back_memory(above: int = 0) -> None:
    """Return to the system what `keep_memory` kept and nobody uses, if that is more than `above` bytes."""
    if not above or _unused() > above:
        _libc("malloc_trim", 0)


class _Heap(ctypes.Structure):
    """`struct mallinfo2` of the GNU C library; `fordblks` are the bytes in free blocks."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _unused() -> int:
    """Bytes of free blocks in the C library's heaps; 0 where it does not say."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except (OSError, TypeError, AttributeError):
        return 0
    ask.restype = _Heap
    return int(ask().fordblks)


def _libc(name: str, *arguments: int) -> int:
    """Call a function of the C library; 0 where it has none of this name."""
    try:
        return int(getattr(ctypes.CDLL(None), name)(*arguments))
    except (OSError, TypeError, AttributeError):
        return 0
