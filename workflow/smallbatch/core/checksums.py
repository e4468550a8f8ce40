"""Checksums of the files that a job made, so that files edited or damaged since are found and made again."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smallbatch.core.errors import UserError
from smallbatch.core.files import read_regular, read_sealed, sha256, write_sealed


def settings_digest(*values: Any) -> str:
    """A short digest of the settings and code that decide what a job makes, given as JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def write(
    path: Path, files: Iterable[Path], made_from: str = "", *, made_by: str = "", inputs: Iterable[str | Path] = ()
) -> None:
    """Record the SHA-256 of finished files.

    Args:
        path: the file to write the checksums to; if it is among `files`, it is left out.
        files: the files that the job made.
        made_from: the digest of the data that they were made from, if those are not a file of the workflow.
        made_by: the digest of the settings and the code that made them, see `settings_digest`.
        inputs: the files of the workflow that they were made from.
    """
    sums = _sums(file for file in files if Path(file) != Path(path))
    write_sealed(path, {"files": sums, "made_from": made_from, "recipe": made_by, "inputs": _sums(inputs)})


def _sums(files: Iterable[str | Path]) -> dict[str, str]:
    return {Path(file).as_posix(): sha256(Path(file)) for file in files}


def why_outdated(path: Path, made_by: str, inputs: Iterable[str | Path] = ()) -> str | None:
    """Why a job's undamaged files have to be made again; None if they would be made the same way now.

    Modification times are not reliable: restored files look new, and Snakemake's record of settings is not copied with
    them.

    Args:
        path: the file of checksums that `write` wrote.
        made_by: the digest of the settings and the code that would make the files now.
        inputs: the files that they would be made from now, as `write` is given them.
    """
    try:
        values = read_sealed(path)
        if values.get("recipe") != made_by:
            return "made by other settings or another version of the code"
        noted = dict(values["inputs"])
    except (UserError, KeyError, TypeError, ValueError):
        return None  # damaged, which `damaged` reports
    others = noted.keys() != _names(inputs) or any(_differs(Path(file), checksum) for file, checksum in noted.items())
    return "made from other inputs" if others else None


def made_from(path: Path) -> str | None:
    """The `made_from` that `write` was given; None if it is unknown."""
    try:
        return str(read_sealed(path)["made_from"])
    except (UserError, KeyError):
        return None


def damaged(path: Path, files: Iterable[str | Path]) -> list[Path]:
    """Those of a job's files that have changed since it wrote them, `path` among them; missing files do not count.

    If the list names other files (another job, a renamed study), only `path` is reported. A job now running in another
    process has already deleted `path`, so nothing is reported.

    Args:
        path: the file of checksums.
        files: the files that the job makes, as `write` is given them.
    """
    if not os.path.lexists(path):
        return []
    before = _content(path)
    try:
        values = read_sealed(path)
        sums, _inputs = dict(values["files"]), dict(values["inputs"])
        whose = sums.keys() == _names(file for file in files if Path(file) != path)
        found = [Path(file) for file, checksum in sums.items() if _differs(Path(file), checksum)] if whose else [path]
    except (UserError, KeyError, TypeError, ValueError):
        found = [path]
    return found if os.path.lexists(path) and _content(path) == before else []


def _names(files: Iterable[str | Path]) -> set[str]:
    return {Path(file).as_posix() for file in files}


def _content(path: Path) -> bytes | None:
    """The bytes of a file; None if it is not a regular file or cannot be read."""
    try:
        return read_regular(path)
    except OSError:
        return None


def _differs(file: Path, checksum: str) -> bool:
    try:
        return sha256(file) != checksum
    except FileNotFoundError:
        return os.path.lexists(file)  # a link to nothing
    except OSError:  # a folder in its place, or unreadable
        return True
