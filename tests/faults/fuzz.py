"""Mutated files against every reader: `python tests/faults/fuzz.py --count 100000` says what came of each.

Each is refused in the project's own words, taken for damaged, or gives what the whole file gives. A seed makes the same
mutation again: `--kind run.json --seed 17 --keep FILE` leaves it in a file, to be looked at.
"""

import argparse
import collections
import contextlib
import json
import logging
import math
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # what pytest does for its own tests

import yaml
from kinds import KINDS, Kind

from smallbatch.core.errors import UserError
from smallbatch.study import yaml_validation

READER_TIMEOUT_S = 5
"""Seconds of a processor that a reader may take."""

MEMORY = 8 << 30
"""Bytes that a process may take: a length that is believed would ask for more."""

REFUSED, DAMAGED, SAME = "refused", "damaged", "same"


# Mutations of bytes


def _place(draws: random.Random, content: bytes) -> tuple[int, int]:
    """A random part of some content, mostly short."""
    length = min(len(content), int(2 ** draws.uniform(0, 8)))
    start = draws.randrange(len(content) - length + 1)
    return start, start + length


def flip(draws: random.Random, content: bytes) -> bytes:
    out = bytearray(content)
    for _ in range(draws.choice([1, 1, 1, 2, 8])):
        out[draws.randrange(len(out))] ^= 1 << draws.randrange(8)
    return bytes(out)


def truncate(draws: random.Random, content: bytes) -> bytes:
    return content[: draws.randrange(len(content))]


def cut(draws: random.Random, content: bytes) -> bytes:
    start, end = _place(draws, content)
    return content[:start] + content[end:]


def splice(draws: random.Random, content: bytes) -> bytes:
    start, end = _place(draws, content)
    at = draws.randrange(len(content) + 1)
    return content[:at] + content[start:end] + content[at:]


def overwrite(draws: random.Random, content: bytes) -> bytes:
    start, end = _place(draws, content)
    fill = draws.choice([b"\0", b"\xff", b"\x80", b"\x7f", b"\n", b"[", b'"', None])
    new = draws.randbytes(end - start) if fill is None else fill * (end - start)
    return content[:start] + new + content[end:]


def exchange(draws: random.Random, content: bytes) -> bytes:
    (a, b), (c, d) = sorted([_place(draws, content), _place(draws, content)])
    return content if b > c else content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


BYTES: list[Callable[[random.Random, bytes], bytes]] = [flip, truncate, cut, splice, overwrite, exchange]


# Mutations of structure


NESTED = "@nested@"
"""Stands for a list in a list in a list, deeper than any reader of structures goes by itself."""

ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 10**30, -(10**30), 1e308, math.nan, math.inf, -math.inf, 2**63, "", "x", "2^-8",
    "é\u2028", "a" * 10_000, "../x", "\0", "\ud800", [], {}, [[]], {"": {}}, [None], {"a": 1}, NESTED,
]  # fmt: skip


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a structure: its container and key there."""
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _nodes(child)


def restructure(draws: random.Random, value: Any) -> Any:
    """A structure with a place or a few of it changed; may be the same."""
    for _ in range(draws.choice([1, 1, 1, 2, 4])):
        places = list(_nodes(value))
        if not places:
            return draws.choice(ODD)
        container, key = draws.choice(places)
        what = draws.choice(["drop", "replace", "replace", "scale", "swap", "rename", "wrap"])
        if what == "drop":
            del container[key]
        elif what == "replace":
            container[key] = draws.choice(ODD)
        elif what == "scale" and isinstance(container[key], int | float):
            container[key] = container[key] * draws.choice([-1, 2, 1.0, 1e-9, 10**9, 0])
        elif what == "swap":
            other, place = draws.choice(places)
            container[key], other[place] = other[place], container[key]
        elif what == "rename" and isinstance(container, dict):
            container[draws.choice(["", "x", str(key).upper(), f"{key} "])] = container.pop(key)
        elif what == "wrap":
            container[key] = draws.choice([[container[key]], {"value": container[key]}, str(container[key])])
    return value


STRUCTURES: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], str]]] = {
    "json": (json.loads, json.dumps),
    # Flow style, which nests without end; aliases where a swap left one value in two places.
    "yaml": (yaml.safe_load, lambda value: yaml.safe_dump(value, default_flow_style=None, allow_unicode=True)),
}


def mutated(draws: random.Random, content: bytes, text: str) -> bytes:
    """Some content with random damage; not the same as it was."""
    while True:
        out = content
        if text and draws.random() < 0.6:
            load, dump = STRUCTURES[text]
            with contextlib.suppress(
                RecursionError, ValueError, yaml.YAMLError
            ):  # swapped into itself, or no such text
                out = dump(restructure(draws, load(content))).encode("utf-8", "surrogatepass")
            depth = draws.choice([50, 2000, 100_000])
            out = re.sub(f"[\"']?{NESTED}[\"']?".encode(), b"[" * depth + b"]" * depth, out)
        else:
            out = draws.choice(BYTES)(draws, content)
        if out != content:
            return out


# Readers


class Hang(BaseException):
    """A reader did not come back; no reader catches it."""


def _hangs(*_: object) -> None:
    raise Hang(f"not back after {READER_TIMEOUT_S} s")


def outcome(kind: Kind, path: Path, whole: object) -> str:
    """What came of reading a mutated file: one of the words above, or what is wrong."""
    signal.setitimer(signal.ITIMER_PROF, READER_TIMEOUT_S)
    try:
        found = kind.read(path)
    except UserError as error:
        return REFUSED if "\n" not in str(error) else "more than a line"
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "smallbatch" in frame.filename]
        return f"{type(error).__name__} in {Path(frames[-1].filename).name if frames else 'the reader of these tests'}"
    except Hang as error:
        return str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return DAMAGED if found is None else SAME if found == whole else "another outcome was taken"


def fuzz(name: str, seeds: range, folder: Path) -> collections.Counter:
    """What came of a kind's mutations, each with a seed of its own: outcome -> how often and the first seed.

    Args:
        name: of the kind.
        seeds: one mutation each.
        folder: an empty one to work in.
    """
    kind = KINDS[name]
    path = kind.make(folder, 1)
    content, files = path.read_bytes(), _files(folder)
    whole = kind.read(path)
    counts: dict[str, list[int]] = collections.defaultdict(list)
    before = signal.signal(signal.SIGPROF, _hangs)
    try:
        with without_waiting():
            for seed in seeds:
                restore(folder, files)
                path.write_bytes(mutation(name, seed, content))
                counts[outcome(kind, path, whole)].append(seed)
    finally:
        signal.signal(signal.SIGPROF, before)
    return counts


def keep(name: str, seed: int, target: Path) -> None:
    """Write one mutation into a file."""
    with tempfile.TemporaryDirectory() as folder:
        content = KINDS[name].make(Path(folder), 1).read_bytes()
    target.write_bytes(mutation(name, seed, content))


def mutation(name: str, seed: int, content: bytes) -> bytes:
    """The mutation of a kind's content that a seed stands for."""
    return mutated(random.Random(f"{name} {seed}"), content, KINDS[name].text)


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def restore(folder: Path, files: dict[Path, bytes]) -> None:
    """A folder as it was, whatever the last reader did in it."""
    for entry in [*folder.rglob("*")]:
        if entry not in files and not entry.is_dir():
            entry.unlink()
    for path, content in files.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Without what takes time and reads no mutated file: the disk, the log and schemas, which are read once."""
    with (
        mock.patch.object(os, "fsync", lambda _: None),
        mock.patch.object(yaml_validation, "read_yaml", cache(yaml_validation.read_yaml)),
    ):
        logging.disable()
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def faulty(counts: dict[str, list[int]]) -> dict[str, list[int]]:
    """The outcomes that must not be."""
    return {what: seeds for what, seeds in counts.items() if what not in (REFUSED, DAMAGED, SAME)}


def _part(name: str, seeds: range) -> dict[str, list[int]]:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        return dict(fuzz(name, seeds, Path(folder)))


def main() -> None:
    """Fuzz as the command line says; fails if any outcome must not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="mutations of each kind")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these")
    parser.add_argument("--seed", type=int, default=0, help="of the first mutation")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--keep", type=Path, metavar="FILE", help="only write the mutation of this kind and seed there")
    arguments = parser.parse_args()
    if arguments.keep:
        sys.exit(keep(arguments.kind[0], arguments.seed, arguments.keep))
    print("| reader | mutated | refused | damaged | same | wrong | minutes |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    wrong = {}
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for name in arguments.kind or KINDS:
            began, counts = time.monotonic(), collections.defaultdict(list)
            step = math.ceil(arguments.count / arguments.jobs)
            last = arguments.seed + arguments.count
            parts = [range(start, min(start + step, last)) for start in range(arguments.seed, last, step)]
            for part in pool.map(_part, [name] * len(parts), parts):
                for what, seeds in part.items():
                    counts[what] += seeds
            bad = faulty(counts)
            wrong |= {(name, what): seeds for what, seeds in bad.items()}
            numbers = [len(counts.get(what, ())) for what in (REFUSED, DAMAGED, SAME)]
            cells = [arguments.count, *numbers, sum(map(len, bad.values()))]
            minutes = (time.monotonic() - began) / 60
            print(f"| {name} | {' | '.join(f'{cell:,}' for cell in cells)} | {minutes:.1f} |", flush=True)
    for (name, what), seeds in wrong.items():
        print(f"{name}: {what} ({len(seeds)} times, first with --kind {name!r} --seed {seeds[0]})")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
