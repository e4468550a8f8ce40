"""Downloads files: resumes after a broken connection, checks a known md5, downloads each file once."""

import contextlib
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import requests
from tqdm import tqdm

from smallbatch.core.errors import UserError
from smallbatch.core.files import check_folder_writable, writing_errors

log = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each new attempt
TIMEOUT = (15, 60)  # seconds to connect, and seconds without data
TRANSIENT = (408, 425, 429)  # status codes of errors that may be temporary
BLOCK = 1 << 14  # bytes; a block that was cut off by a broken connection is discarded


def fetch(url: str, path: Path, md5: str) -> Path:
    """Make sure that `path` holds the file at `url`, whose md5 is known, and return `path`.

    Data received before a connection broke are kept beside `path` in a `.part` file, which the next call completes.

    Raises:
        UserError: the server or the disk fails, or the md5 is wrong; then the file is set aside.
    """
    if path.exists() and md5_of(path) == md5:
        return path
    check_folder_writable(path.parent)
    with _alone(path):
        if path.exists():
            _verify(path, path, md5)
        else:
            part = path.with_name(f"{path.name}.part")
            _download(url, part)
            _verify(part, path, md5)
            os.replace(part, path)
    return path


def md5_of(path: Path) -> str:
    """The md5 of a file's bytes, in hexadecimal, as published with the archives; no protection against forgery.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let only one process at a time download `path`; the others wait and then find the file."""
    with open(path.with_name(f".{path.name}.lock"), "w", encoding="utf-8") as file:
        with contextlib.suppress(OSError):  # some cluster file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _verify(found: Path, path: Path, md5: str) -> None:
    """Set `found` aside as `path`.damaged unless it has this md5."""
    actual = md5_of(found)
    if actual == md5:
        return
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{number}.damaged")
    os.replace(found, aside)
    raise UserError(
        f"{path}: md5 is {actual}, expected {md5}; set aside as {aside.name}; the next call downloads it again"
    )


def _download(url: str, part: Path) -> None:
    """Download the file at `url` into `part` completely, in a few attempts."""
    for wait in (*WAITS, None):
        try:
            return _receive(url, part)
        except requests.RequestException as error:
            reason = " ".join(str(error).split())
            if wait is None or _is_final(error):
                advice = "call again to go on, or give a copy that you have as `archive`"
                raise UserError(f"{url}: cannot be downloaded ({reason}); {advice}") from error
            log.warning("%s: %s; next attempt in %g s", url, reason, wait)
            time.sleep(wait)


def _is_final(error: requests.RequestException) -> bool:
    """Whether the server refused in a way that another attempt will not change."""
    status = 0 if error.response is None else error.response.status_code
    return 400 <= status < 500 and status not in TRANSIENT


def _receive(url: str, part: Path) -> None:
    """Try once to request and append what `part` lacks; start over if the server sends the whole file."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing follows what was received; the md5 shows whether the file is complete
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            have = 0
        _append(answer, part, have)


def _append(answer: requests.Response, part: Path, have: int) -> None:
    """Write the body of `answer` into `part` after its first `have` bytes."""
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length else None
    with writing_errors(part), open(part, "ab") as file:
        file.truncate(have)
        bar = tqdm(desc=part.stem, total=total, initial=have, unit="B", unit_scale=True, disable=None)
        with bar:
            for block in answer.iter_content(BLOCK):
                file.write(block)
                bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
