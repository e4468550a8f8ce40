"""Bundles: the records of runs that were published together, as one zip file, `results/published/STUDY-HASH.zip`.

DVC tracks bundles instead of runs, which are thousands of small files. A bundle never changes, and HASH is the start of
the SHA-256 of its bytes, so that bundles of several people lie side by side in git, and damage is noticed.

If several bundles contain a run, since two people trained it independently, the record that ended first counts, for
everybody; so the same bundles give the same records. Published records count before local ones: a local record is set
aside for the published one, and keeps its weights.
"""

import hashlib
import io
import logging
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from smallbatch.core.errors import UserError
from smallbatch.core.files import (
    DIGEST,
    TEMPORARY,
    NotRegular,
    atomic,
    parse_sealed,
    read_regular,
    remove_temporaries,
    set_aside,
    write_folder,
    zip_files,
)
from smallbatch.runs.records import METRICS_FILE, RECORD_FILE, SCORES_FILE, VARIANCE_FILE, Damaged, Record, record_of
from smallbatch.runs.store import HASH_DIGITS, RunStore

FILES = (RECORD_FILE, METRICS_FILE, SCORES_FILE, VARIANCE_FILE)

_MEMBER = re.compile(rf"(\w[\w.+=-]*)/({'|'.join(map(re.escape, FILES))})")
"""A file of a run in a bundle, by the run's name. Other files are ignored."""

_WEIGHTS = re.compile(rf"(.*?)(?:\.([0-9a-f]{{{HASH_DIGITS}}}))?(?:\.safetensors)?", re.DOTALL)
"""A run's name and the digits of its weights, within the name of a run or of a file of weights."""

_KILLED = 3600.0
"""Seconds after which a process that began to unpack a run, which takes milliseconds, is considered killed."""

_BROKEN = (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError, OSError, struct.error)
"""Exceptions raised for files that are no archives, or archives of unsupported kinds."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose bytes match the hash in its name."""

    path: Path
    archive: zipfile.ZipFile

    @cached_property
    def members(self) -> Mapping[str, Mapping[str, zipfile.ZipInfo]]:
        """Run name -> its files."""
        found: dict[str, dict[str, zipfile.ZipInfo]] = {}
        for entry in self.archive.infolist():
            if member := _MEMBER.fullmatch(entry.filename):
                found.setdefault(member[1], {})[member[2]] = entry
        return found

    def checksum(self, name: str) -> int | None:
        """The CRC-32 of a run's record; None if the bundle lacks the run."""
        record = self.members.get(name, {}).get(RECORD_FILE)
        return record.CRC if record else None

    def files(self, name: str) -> dict[str, bytes]:
        """The contents of a run's files; empty if the archive cannot be read."""
        try:
            return {file: self.archive.read(entry) for file, entry in self.members[name].items()}
        except _BROKEN:
            return {}

    def record(self, name: str) -> Record | None:
        """The record of a run; None if this version of the code does not know such a run."""
        files = self.files(name)
        try:
            return record_of(name, lambda file: files[file])
        except (Damaged, KeyError):
            return None

    def ended(self, name: str) -> tuple[str, str]:
        """The end of a run's training, and its record's digest, by which records are ordered; unreadable ones last."""
        try:
            values = parse_sealed(self.files(name)[RECORD_FILE])
            return str(values["ended"]), values[DIGEST]
        except (KeyError, ValueError):
            return "~", ""


def write_bundle(store: RunStore, study: str, names: Sequence[str]) -> Path:
    """Bundle the records of existing runs; returns the bundle's path. The same records give the same bytes.

    Args:
        store: the run store.
        study: the name of the study.
        names: the names of the runs.
    """
    files = [store.root / name / file for name in sorted(names) for file in sorted(FILES)]
    content = io.BytesIO()
    zip_files(content, {path.relative_to(store.root).as_posix(): path.read_bytes() for path in files if path.exists()})
    path = store.published / f"{study}-{_hash(content.getvalue())}.zip"
    with atomic(path) as bundle:
        bundle.write(content.getbuffer())
    return path


def published(store: RunStore) -> dict[str, Path]:
    """Name of each published run -> the bundle with the record that counts.

    Raises:
        UserError: a bundle has not been pulled, or is damaged.
    """
    store.pulled()
    return {name: bundle.path for name, bundle in _current_bundles(_opened(store)).items()}


def import_published(store: RunStore) -> None:
    """Unpack published runs into the store: those that it lacks, and those of which it has another record.

    Raises:
        UserError: a bundle is damaged, and was set aside; or the run store cannot be written.
    """
    remove_temporaries(store.root, TEMPORARY, _KILLED)
    bundles = _opened(store)
    for bundle, name, _ in _runs_to_unpack(store, bundles):
        folder = store.root / name
        if os.path.lexists(folder) and _checksum(folder) not in {other.checksum(name) for other in bundles}:
            _set_aside_unpublished(store, folder, bundle)
        write_folder(folder, bundle.files(name), flush=False)


def records_to_import(store: RunStore) -> dict[str, Record]:
    """Run name -> record of the runs that `import_published` would unpack. Nothing is written.

    Raises:
        UserError: a bundle is damaged.
    """
    return {name: record for _, name, record in _runs_to_unpack(store, _opened(store, only_look=True))}


def _runs_to_unpack(store: RunStore, bundles: Sequence[Bundle]) -> Iterator[tuple[Bundle, str, Record]]:
    """The runs whose published record is not the one in the store; logs bundles that have not been pulled, and at the
    end runs that this version does not know."""
    if line := store.not_pulled_message():
        log.warning("%s; runs that are published count before others", line)
    unknown: Counter[Path] = Counter()
    for name, bundle in _current_bundles(bundles).items():
        stored = _checksum(store.root / name)
        if stored is not None and stored == bundle.checksum(name):
            continue
        if record := bundle.record(name):
            yield bundle, name, record
        else:
            unknown[bundle.path] += 1
    for path, count in unknown.items():
        log.warning("%s: %d of its runs are none that this version knows, and not taken", path, count)


def record_of_weights(store: RunStore, name: str) -> Record:
    """The record of a run, or the record, in the store or in a bundle, that names certain weights.

    Args:
        store: the run store.
        name: the name of a run, or of a file of weights, with or without its suffix.

    Raises:
        UserError: there is no such record, or a bundle is damaged.
    """
    parts = _WEIGHTS.fullmatch(name)
    assert parts, "the pattern fits any text"
    run, digits = parts.groups()
    if digits is None:
        return store.read(run)
    known = [store.read(run), *(bundle.record(run) for bundle in _opened(store) if run in bundle.members)]
    for record in known:
        if record and record.weights and record.weights.startswith(digits):
            return record
    raise UserError(f"{store.root / run}: no record of it, here or in {store.published}, names weights {digits}")


def _set_aside_unpublished(store: RunStore, folder: Path, bundle: Bundle) -> None:
    """Set aside a run that was never published."""
    damage = store.damage(folder)
    aside = set_aside(folder, "damaged" if damage else "replaced")
    reason = f"damaged: {damage}" if damage else "trained here, and published by others"
    log.warning("%s: %s; set aside as %s, and taken from %s", folder, reason, aside, bundle.path)


def _checksum(folder: Path) -> int | None:
    """The CRC-32 of the record in a run's folder; None if it cannot be read."""
    try:
        return zlib.crc32(read_regular(folder / RECORD_FILE))
    except OSError:
        return None


def _current_bundles(bundles: Iterable[Bundle]) -> dict[str, Bundle]:
    """Run name -> the bundle whose record of the run counts."""
    having: dict[str, list[Bundle]] = {}
    for bundle in bundles:
        for name in bundle.members:
            having.setdefault(name, []).append(bundle)
    return {
        name: min(those, key=lambda bundle: bundle.ended(name)) if len(those) > 1 else those[0]
        for name, those in having.items()
    }


def _opened(store: RunStore, *, only_look: bool = False) -> list[Bundle]:
    """All bundles, in the order of their names.

    Raises:
        UserError: some are damaged; unless `only_look`, they were set aside, and the next call does without them.
    """
    bundles, errors = [], []
    for path in sorted(store.published.glob("*.zip")):
        try:
            bundles.append(_open(path))
        except Damaged as damage:
            pointer = path.with_name(f"{path.name}.dvc")
            left = f"`dvc pull {pointer}` gets it again" if pointer.exists() else "call again to do without it"
            done = "to be set aside by a call without -n" if only_look else f"set aside as {set_aside(path).name}"
            errors.append(f"{path}: damaged ({damage}), {done}; {left}")
    if errors:
        raise UserError(" - ".join(errors))
    return bundles


def _open(path: Path) -> Bundle:
    try:
        content = read_regular(path)
    except IsADirectoryError as error:
        raise Damaged("it is a folder") from error
    except NotRegular as error:
        raise Damaged("it is no file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if _hash(content) != path.stem.rpartition("-")[2]:
        raise Damaged("its content does not fit its name")
    try:
        return Bundle(path, zipfile.ZipFile(io.BytesIO(content)))
    except _BROKEN as error:
        raise Damaged(str(error)) from error


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
