"""Bundles: the records of runs that were published together, one zip file, `results/published/STUDY-HASH.zip`.

DVC tracks bundles instead of runs, which are thousands of small files. A bundle never changes, and HASH begins the
SHA-256 of its bytes, so that those of colleagues lie side by side in git, and damage is noticed.

Where several bundles have a run, since two people trained it before they heard of each other, the record that ended
first counts, for everybody; so whoever has the same bundles has the same records. What is published counts before what
is not: a run of one's own is set aside for the published one, and keeps its weights.
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
from smallbatch.runs.store import HASH_DIGITS, METRICS, RECORD, VARIANCE, Damaged, Record, RunStore, record_of

FILES = (RECORD, METRICS, VARIANCE)

_MEMBER = re.compile(rf"(\w[\w.+=-]*)/({'|'.join(map(re.escape, FILES))})")
"""A file in a bundle: of a run, by its name. Others are left where they are."""

_WEIGHTS = re.compile(rf"(.*?)(?:\.([0-9a-f]{{{HASH_DIGITS}}}))?(?:\.safetensors)?", re.DOTALL)
"""A run's name, and the digits of its weights, in the name of a run or of a file of weights."""

_KILLED = 3600.0
"""Seconds after which who began to lay a run, which takes milliseconds, is taken for killed."""

_BROKEN = (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError, OSError, struct.error)
"""What is raised for archives that are none, or of kinds that are not read."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose bytes fit its name."""

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
        """The checksum of a run's record, as archives have it; None if the archive lacks the run."""
        record = self.members.get(name, {}).get(RECORD)
        return record.CRC if record else None

    def files(self, name: str) -> dict[str, bytes]:
        """The files of a run; none where the archive does not give them back."""
        try:
            return {file: self.archive.read(entry) for file, entry in self.members[name].items()}
        except _BROKEN:
            return {}

    def record(self, name: str) -> Record | None:
        """The record of a run; None if this version of the code knows no such run."""
        files = self.files(name)
        try:
            return record_of(name, lambda file: files[file])
        except (Damaged, KeyError):
            return None

    def ended(self, name: str) -> tuple[str, str]:
        """When the record of a run ended, and its digest: the order of records. What says neither comes last."""
        try:
            values = parse_sealed(self.files(name)[RECORD])
            return str(values["ended"]), values[DIGEST]
        except (KeyError, ValueError):
            return "~", ""


def write_bundle(store: RunStore, study: str, names: Sequence[str]) -> Path:
    """Bundle the records of runs, all of which are there; returns the bundle. The same records give the same bytes.

    Args:
        store: the runs.
        study: whose they are.
        names: theirs.
    """
    files = [store.root / name / file for name in sorted(names) for file in sorted(FILES)]
    content = io.BytesIO()
    zip_files(content, {path.relative_to(store.root).as_posix(): path.read_bytes() for path in files if path.exists()})
    path = store.published / f"{study}-{_hash(content.getvalue())}.zip"
    with atomic(path) as bundle:
        bundle.write(content.getbuffer())
    return path


def published(store: RunStore) -> dict[str, Path]:
    """Run name -> the bundle with the record that counts, of all runs that were published.

    Raises:
        UserError: a bundle has not been pulled, or is damaged.
    """
    store.pulled()
    return {name: bundle.path for name, bundle in _counting(_opened(store)).items()}


def import_published(store: RunStore) -> None:
    """Lay the published runs in the store: those that it lacks, and those of which it has another record.

    Raises:
        UserError: a bundle is damaged, and then set aside; or the run store cannot be written.
    """
    remove_temporaries(store.root, TEMPORARY, _KILLED)
    bundles = _opened(store)
    for bundle, name, _ in _arriving(store, bundles):
        folder = store.root / name
        if os.path.lexists(folder) and _checksum(folder) not in {other.checksum(name) for other in bundles}:
            _make_room(store, folder, bundle)
        write_folder(folder, bundle.files(name), flush=False)


def unpacked_records(store: RunStore) -> dict[str, Record]:
    """The records of the runs that `import_published` would lay in the store, by the run's name. Nothing is written.

    Raises:
        UserError: a bundle is damaged.
    """
    return {name: record for _, name, record in _arriving(store, _opened(store, only_look=True))}


def _arriving(store: RunStore, bundles: Sequence[Bundle]) -> Iterator[tuple[Bundle, str, Record]]:
    """The runs whose published record is not the one in the store; tells of bundles that are not here, and at last of
    runs that are not known."""
    if line := store.not_pulled():
        log.warning("%s; runs that are published count before others", line)
    unknown: Counter[Path] = Counter()
    for name, bundle in _counting(bundles).items():
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
    """The record of a run, or the one, here or in a bundle, that names certain weights.

    Args:
        store: of the run.
        name: the run's, or that of a file of weights, with its ending or without.

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


def _make_room(store: RunStore, folder: Path, bundle: Bundle) -> None:
    """Set aside a run that was never published."""
    damage = store.damage(folder)
    aside = set_aside(folder, "damaged" if damage else "replaced")
    reason = f"damaged: {damage}" if damage else "trained here, and published by others"
    log.warning("%s: %s; set aside as %s, and taken from %s", folder, reason, aside, bundle.path)


def _checksum(folder: Path) -> int | None:
    """Of the record in a run's folder, as archives have it."""
    try:
        return zlib.crc32(read_regular(folder / RECORD))
    except OSError:
        return None


def _counting(bundles: Iterable[Bundle]) -> dict[str, Bundle]:
    """Run name -> of the bundles that have it the one whose record counts."""
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
        UserError: some are damaged, and now set aside, unless we only look, so that the next call does without them.
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
