"""Bundles: the records of runs that were published together, one zip file, `results/published/STUDY-HASH.zip`.

DVC tracks bundles instead of runs, which are thousands of small files. A bundle never changes, and its name says which
runs are in it, so that a plain git merge unites what colleagues publish.
"""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from smallbatch.errors import UserError
from smallbatch.files import atomic, writing_errors, zip_files
from smallbatch.store import METRICS, RECORD, VARIANCE, RunStore

_MEMBER = re.compile(rf"(\w[\w.+=-]*)/({RECORD}|{METRICS}|{VARIANCE})")
"""A file in a bundle: of a run, by its name. Others are left where they are."""


def write(store: RunStore, study: str, names: Sequence[str]) -> Path:
    """Bundle the records of runs, all of which are there; returns the bundle. The same runs give the same bytes.

    Args:
        store: the runs.
        study: whose they are.
        names: theirs.
    """
    text = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    path = store.published / f"{study}-{text[:12]}.zip"
    files = [file for name in sorted(names) for file in sorted((store.root / name).iterdir())]
    contents = {file.relative_to(store.root).as_posix(): file.read_bytes() for file in files}
    with atomic(path) as bundle:
        zip_files(bundle, {name: content for name, content in contents.items() if _MEMBER.fullmatch(name)})
    return path


def published(store: RunStore) -> dict[str, Path]:
    """Run name -> the bundle that it is in, of all runs that were published.

    Raises:
        UserError: a bundle has not been pulled, or is damaged.
    """
    store.pulled()
    return {name: path for path in _paths(store) for name in _members(path)}


def take_in(store: RunStore) -> None:
    """Lay the runs of all bundles beside those that are there, which stay as they are.

    Raises:
        UserError: a bundle is damaged, or the run store cannot be written.
    """
    there = set(os.listdir(store.root)) if store.root.is_dir() else set()
    for path in _paths(store):
        lacking = {name: files for name, files in _members(path).items() if name not in there}
        with _opened(path) as bundle:
            for name, files in lacking.items():
                _lay(store.root / name, {file: bundle.read(f"{name}/{file}") for file in files})


def _paths(store: RunStore) -> list[Path]:
    return sorted(store.published.glob("*.zip"))


def _members(path: Path) -> dict[str, list[str]]:
    """Run name -> its files in a bundle."""
    found: dict[str, list[str]] = {}
    with _opened(path) as bundle:
        for member in filter(None, map(_MEMBER.fullmatch, bundle.namelist())):
            found.setdefault(member[1], []).append(member[2])
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as bundle:
            yield bundle
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: damaged ({error}); delete it and call `dvc pull` again") from error


def _lay(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make a folder of these files, whole or not at all, unless another process was faster."""
    with writing_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".", ignore_cleanup_errors=True) as place:
            made = Path(place, folder.name)
            made.mkdir()
            for name, content in contents.items():
                (made / name).write_bytes(content)
            try:
                made.rename(folder)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
