"""The run store: one folder per run, found by its name, checked by its content.

A run's folder `runs/NAME`, which is complete or absent, holds its record, see `smallbatch.runs.records`. Its final
weights, which are large and not always kept, published or pulled, lie elsewhere, as
`weights/NAME.HASH.safetensors` with the first digits of their SHA-256, which the record holds in full. A machine that
rounds differently gives another record and other weights, so each record finds its own.
"""

import hashlib
import os
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from smallbatch.core.errors import UserError
from smallbatch.core.files import (
    DIGEST,
    NotRegular,
    atomic,
    parse_sealed,
    read_regular,
    remove_temporaries,
    sealed_bytes,
    set_aside,
    write_folder,
)
from smallbatch.runs.records import (
    METRICS_FILE,
    PLAIN_FIELDS,
    RECORD_FILE,
    SCORES_FILE,
    VARIANCE_FILE,
    Damaged,
    Epoch,
    Outcome,
    Record,
    Score,
    Variance,
    csv_bytes,
    read_verified,
    record_of,
)
from smallbatch.study.experiments import PROTOCOL, Run
from smallbatch.study.yaml_validation import suggestion

T = TypeVar("T")

HASH_DIGITS = 12
"""The number of digits of a SHA-256 in a file's name."""

READERS = 16
"""The number of records that are read at the same time."""


class RunStore:
    """The runs of all studies.

    Args:
        results: the folder that contains `runs`, `weights` and `published`, the bundles.
    """

    def __init__(self, results: Path) -> None:
        self.results = Path(results)
        self.root, self.published = self.results / "runs", self.results / "published"

    def folder(self, run: Run, fingerprint: str) -> Path:
        """The path of a run's folder."""
        return self.root / run.name(fingerprint)

    def weights(self, record: Record) -> Path | None:
        """The path of the final weights that a record names, whether or not they exist; None if it names none."""
        return self._weights(record.run.name(record.fingerprint), record.weights) if record.weights else None

    def _weights(self, name: str, digest: str) -> Path:
        return self.results / "weights" / f"{name}.{digest[:HASH_DIGITS]}.safetensors"

    def pulled(self) -> None:
        """Check that all published runs that DVC tracks have been pulled.

        Raises:
            UserError: some have not been pulled.
        """
        if line := self.not_pulled_message():
            raise UserError(line)

    def not_pulled_message(self) -> str:
        """A message on published runs tracked by DVC that have not been pulled; empty if there are none."""
        pointers = [path for path in sorted(self.published.glob("*.dvc")) if not path.with_suffix("").exists()]
        return _not_pulled(*pointers) if pointers else ""

    def has(self, run: Run, fingerprint: str) -> bool:
        """Whether the run exists and is undamaged; its weights, which are large, are not read."""
        return self.digest(run, fingerprint) is not None

    def digest(self, run: Run, fingerprint: str) -> str | None:
        """The digest over all of a run's record; None if the record is missing or damaged."""
        name = run.name(fingerprint)
        try:
            return read_verified(name, self._reader(name))[0][DIGEST]
        except Damaged:
            return None

    def find(self, run: Run, fingerprint: str) -> Record | None:
        """The run's record; None if the record is missing or damaged."""
        name = run.name(fingerprint)
        try:
            return record_of(name, self._reader(name))
        except Damaged:
            return None

    def read(self, name: str) -> Record:
        """The record of the run with this name.

        Raises:
            UserError: the run is missing or damaged.
        """
        folder = self.root / name
        if not folder.is_dir():
            self.pulled()
            known = [entry.name for entry in os.scandir(self.root) if entry.is_dir()] if self.root.is_dir() else []
            raise UserError(f"{folder}: there is no such run{suggestion(name, known)}")
        try:
            return record_of(name, self._reader(name))
        except Damaged as damage:
            raise UserError(f"{folder}: damaged: {damage}; the next training sets it aside") from damage

    def read_weights(self, record: Record) -> bytes:
        """The final weights that a record names, as the content of a safetensors file.

        Raises:
            UserError: the weights are missing, or damaged, and then set aside; the run is valid without them.
        """
        name, file = record.run.name(record.fingerprint), self.weights(record)
        if file is None:
            raise UserError(f"{self.root / name}: it has no weights: none were kept, or it diverged")
        _pulled(file)
        if not os.path.lexists(file):
            raise UserError(f"{file}: {self._why_gone(name, file)}")
        try:
            content = read_regular(file)
        except (IsADirectoryError, NotRegular):
            content = b""
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != record.weights:
            pointer = _pointer(file)
            left = f"`dvc pull {pointer}` gets it again" if pointer.exists() else "the run is whole without it"
            aside = set_aside(file)
            raise UserError(
                f"{file}: damaged: it does not fit its digest in {RECORD_FILE}; set aside as {aside}; {left}"
            )
        return content

    def _why_gone(self, name: str, file: Path) -> str:
        aside = sorted(file.parent.glob(f"{file.name}.damaged-*"))
        if not aside:
            return "these weights were not kept; see training.keep_weights in config/README.md; or they were deleted"
        run = self.root / name
        return f"damaged, and set aside as {aside[-1].name}; with {run} deleted the run is trained again"

    def damage(self, folder: Path) -> str | None:
        """The damage of a run's folder, in words; None if it is undamaged."""
        try:
            record_of(folder.name, self._reader(folder.name))
        except Damaged as damage:
            return str(damage)
        return None

    def ends(self, names: Set[str]) -> tuple[dict[str, int | None], dict[str, str]]:
        """How the existing runs among those with these folder names ended.

        Returns:
            Name of each undamaged run -> its `diverged_at`; and name of each damaged run -> the damage, in words.
        """
        found = dict(_in_threads(self._end, self._existing(names)))
        damaged = {name: end for name, end in found.items() if isinstance(end, str)}
        return {name: end[0] for name, end in found.items() if isinstance(end, tuple)}, damaged

    def fingerprints(self, data: str) -> set[str]:
        """The fingerprints of the data with this label that existing runs were trained on."""
        if not self.root.is_dir():
            return set()
        names = [entry.name for entry in os.scandir(self.root) if entry.name.startswith(f"{data}_")]
        return {found for _, found in _in_threads(self.fingerprint, names) if found}

    def fingerprint(self, name: str) -> str | None:
        """The fingerprint of the data that the run of this name was trained on; None if its record is missing."""
        try:
            return str(parse_sealed(self._reader(name)(RECORD_FILE))["data_fingerprint"])
        except (Damaged, UserError, ValueError, KeyError):
            return None

    def _end(self, name: str) -> tuple[int | None] | str:
        try:
            return (read_verified(name, self._reader(name))[0]["outcome"]["diverged_at"],)
        except (Damaged, UserError) as damage:
            return str(damage)

    def _existing(self, names: Set[str]) -> list[str]:
        return [entry.name for entry in os.scandir(self.root) if entry.name in names] if self.root.is_dir() else []

    def _reader(self, name: str) -> Callable[[str], bytes]:
        """A function that reads a file of a run, given the file's name."""

        def read(file: str) -> bytes:
            path = os.path.join(self.root, name, file)  # creating a `Path` takes longer
            try:
                return read_regular(path)
            except FileNotFoundError as error:
                raise Damaged(f"{file} is missing") from error
            except NotADirectoryError as error:
                raise Damaged("a file stands in its place") from error
            except IsADirectoryError as error:
                raise Damaged(f"{file} is a folder") from error
            except NotRegular as error:
                raise Damaged(f"{file} is no file") from error
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from error

        return read

    def clear(self, run: Run, fingerprint: str) -> str | None:
        """Set a run's folder aside if it is damaged; returns a message on the damage and the new name, or None."""
        folder = self.folder(run, fingerprint)
        is_empty = folder.is_dir() and not any(folder.iterdir())
        damage = None if is_empty or not os.path.lexists(folder) else self.damage(folder)
        return damage and f"{folder}: damaged: {damage}; set aside as {set_aside(folder).name}"

    def write(
        self, run: Run, fingerprint: str, outcome: Outcome, environment: dict[str, Any], weights: bytes | None
    ) -> None:
        """Write a finished run; it replaces an earlier one.

        Args:
            run: the run.
            fingerprint: the fingerprint of the data it was trained on.
            outcome: the outcome of the run.
            environment: versions, commit, device.
            weights: the content of a safetensors file; None: no weights are kept.

        Raises:
            UserError: the outcome is impossible for the run, or writing fails.
        """
        name = run.name(fingerprint)
        contents = {METRICS_FILE: csv_bytes(Epoch, outcome.epochs)}
        if outcome.scores:
            contents[SCORES_FILE] = csv_bytes(Score, outcome.scores)
        if outcome.variance:
            contents[VARIANCE_FILE] = csv_bytes(Variance, outcome.variance)
        values: dict[str, Any] = {
            "settings": run.settings,
            "data_fingerprint": fingerprint,
            "protocol": PROTOCOL,
            "outcome": {key: getattr(outcome, key) for key in PLAIN_FIELDS},
            "environment": environment,
            "ended": now().isoformat(timespec="seconds"),
            "files": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
            "weights": hashlib.sha256(weights).hexdigest() if weights is not None else None,
        }
        contents[RECORD_FILE] = sealed_bytes(values)
        try:
            record_of(name, contents.__getitem__)
        except Damaged as damage:
            raise UserError(f"{self.root / name}: not written: {damage}") from damage
        if weights is not None:
            file = self._weights(name, values["weights"])
            remove_temporaries(file.parent, f".{name}.")
            with atomic(file) as opened:
                opened.write(weights)
        write_folder(self.root / name, contents)

    def drop_weights(self, record: Record) -> None:
        """Delete the final weights that a record names; the record stays valid without them."""
        file = self.weights(record)
        if file and file.is_file():
            file.unlink(missing_ok=True)


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def _in_threads(read: Callable[[str], T], names: Sequence[str]) -> list[tuple[str, T]]:
    """Each name with the result of `read`, computed in threads: reading from a shared file system is mostly waiting."""

    def read_some(part: Sequence[str]) -> list[tuple[str, T]]:
        return [(name, read(name)) for name in part]

    with ThreadPoolExecutor(READERS) as readers:
        return [pair for part in readers.map(read_some, [names[i::READERS] for i in range(READERS)]) for pair in part]


def _pointer(path: Path) -> Path:
    """The file by which DVC tracks a path."""
    return path.with_name(f"{path.name}.dvc")


def _pulled(path: Path) -> None:
    """Check that a path has been pulled if DVC tracks it.

    Raises:
        UserError: the path has not been pulled.
    """
    pointer = _pointer(path)
    if pointer.exists() and not path.exists():
        raise UserError(_not_pulled(pointer))


def _not_pulled(*pointers: Path) -> str:
    if len(pointers) == 1:
        return f"{pointers[0].with_suffix('')}: not pulled yet; `dvc pull {pointers[0]}` gets it"
    folder = pointers[0].parent
    return f"{folder}: {len(pointers)} bundles are not pulled yet; `dvc pull -R {folder}` gets them"
