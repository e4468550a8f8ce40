"""What can happen to a file: damage, and changes that are no damage. Each is a function on its path."""

import contextlib
import ctypes
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

OVERRIDES = 1, 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of Linux: what root passes over permissions by."""

HOUR = 3600


def truncated(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path, other: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def unreadable(path: Path, other: Path) -> None:
    path.chmod(0)


def swapped(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def deleted(path: Path) -> None:
    path.unlink()


def older(path: Path) -> None:
    os.utime(path, (time.time() - HOUR,) * 2)


def newer(path: Path) -> None:
    os.utime(path, (time.time() + HOUR,) * 2)


def touched(path: Path) -> None:
    path.touch()


Fault, Change = Callable[[Path, Path], None], Callable[[Path], None]

FAULTS: dict[str, Fault] = {
    "truncated": truncated,
    "emptied": emptied,
    "one bit flipped": flipped,
    "folder in its place": folder,
    "pipe in its place": pipe,
    "unreadable": unreadable,
    "swapped with another": swapped,
}
"""Damage by name; the second path is another whole file of the same kind."""

CHANGES: dict[str, Change] = {"deleted": deleted, "older": older, "newer": newer, "touched": touched}


def damage(fault: Fault, path: Path, other: Path) -> None:
    """Damage a file as a disk would: its times do not tell."""
    times = path.stat()
    fault(path, other)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextlib.contextmanager
def permissions_count() -> Iterator[None]:
    """While the block runs, root may not read either what its permissions forbid."""
    if os.geteuid() or sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, held)
    without = type(held)(*held)
    without[0] &= ~sum(1 << number for number in OVERRIDES)  # of three sets the effective one
    libc.capset(header, without)
    try:
        yield
    finally:
        libc.capset(header, held)


def children_keep_to_permissions() -> None:
    """Between fork and exec: root in the new process may not read either what its permissions forbid."""
    if os.geteuid() == 0 and sys.platform == "linux":
        for number in OVERRIDES:
            ctypes.CDLL(None).prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP
