"""Whether the files that a data set was prepared from are still the same, without reading them."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def digest(root: Path, files: Iterable[str | Path]) -> str | None:
    """SHA-256 over names, sizes and times of change of files, in hexadecimal.

    None where there are no files, or one cannot be looked at: they may be on a disk that is not there.

    Args:
        root: the folder that they are named from; where they lie does not matter, how they lie to each other does.
        files: below it, or itself.
    """
    try:
        # Plain text: paths as objects would cost a multiple, and there may be a million.
        seen = sorted((os.fsencode(file[len(str(root)) :]), os.stat(file)) for file in map(os.fspath, files))
    except OSError:
        return None
    rows = [b"%s\0%d %d\0" % (name, status.st_size, status.st_mtime_ns) for name, status in seen]
    return hashlib.sha256(b"".join(rows)).hexdigest() if rows else None
