"""The run store: one folder a run, found by its name, checked by its content.

A run's folder `runs/NAME` holds `metrics.csv` (a row an epoch), `variance.csv` where the run measures it, and
`run.json` (settings, outcome, environment, checksums), which is written last and so says that the run is whole. Its
final weights, which are large and not always kept, published or pulled, lie apart, as `weights/NAME.safetensors`.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from smallbatch.errors import UserError
from smallbatch.files import atomic, set_aside, sha256, write_json
from smallbatch.settings import likely
from smallbatch.study import PROTOCOL, Run

RECORD, METRICS, VARIANCE = "run.json", "metrics.csv", "variance.csv"

WEIGHTS = "weights.safetensors"
"""Under which `run.json` has the checksum of the weights."""

READERS = 16
"""Records that are read at the same time where many are."""


class Epoch(NamedTuple):
    """What was seen after one epoch, counted from 1. Losses are means, in nats; accuracies are fractions.

    validation_accuracy: not a number where the run holds out no validation split.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    test_loss: float
    test_accuracy: float
    validation_accuracy: float


class Variance(NamedTuple):
    """The variance of one update of `batch_size` examples at the weights after `epoch` (0: the initial ones).

    trace: of the covariance of the update at the run's base learning rate.
    draws: mini-batches that it was estimated from.
    """

    epoch: int
    batch_size: int
    trace: float
    draws: int


@dataclass(frozen=True)
class Outcome:
    """What came out of a run.

    diverged_at: the update, counted from 1, whose loss was not finite; none if all were.
    seconds: the run's share of the wall time of the lanes that it was trained with.
    images: training images seen.
    lanes: runs that were trained in lock-step with it, itself included.
    peak_memory: bytes, the most that the process (on a GPU: the device) held while these lanes were trained.
    variance: what was measured of it, see `Setting.variance_batch_sizes`.
    """

    epochs: list[Epoch]
    diverged_at: int | None
    seconds: float
    images: int
    lanes: int
    peak_memory: int
    variance: list[Variance]


@dataclass(frozen=True)
class Record:
    """A run as the store has it.

    fingerprint: of the data it was trained on.
    environment: versions, commit, device.
    ended: when it was written, ISO 8601 in UTC; none in records that do not say so.
    weights: the SHA-256 of its final weights; none where none were kept.
    """

    run: Run
    outcome: Outcome
    fingerprint: str
    environment: dict[str, Any]
    ended: str | None
    weights: str | None


class RunStore:
    """The runs of all studies.

    Args:
        results: the folder in which `runs`, `weights` and, in bundles, published runs lie.
    """

    def __init__(self, results: Path) -> None:
        self.results = Path(results)
        self.root, self.published = self.results / "runs", self.results / "published"

    def folder(self, run: Run, fingerprint: str) -> Path:
        """Where a run's files lie."""
        return self.root / run.name(fingerprint)

    def weights(self, name: str) -> Path:
        """Where the final weights of the run with this folder name lie, if they are kept and here."""
        return self.results / "weights" / f"{name}.safetensors"

    def pulled(self) -> None:
        """Make sure that all published runs that DVC knows are here.

        Raises:
            UserError: some have not been pulled.
        """
        for pointer in sorted(self.published.glob("*.dvc")):
            _pulled(pointer.with_suffix(""))

    def has(self, run: Run, fingerprint: str) -> bool:
        """Whether the run is there and whole; its weights, which are large, are not read."""
        return self.damage(self.folder(run, fingerprint), weights=False) is None

    def digest(self, run: Run, fingerprint: str) -> str | None:
        """The SHA-256 of a run's record, which has those of its other files; none where it is missing or damaged."""
        folder = self.folder(run, fingerprint)
        try:
            _whole(folder, None)
            return sha256(folder / RECORD)
        except (_Damaged, OSError):
            return None

    def find(self, run: Run, fingerprint: str) -> Record | None:
        """The run's record; none where it is missing or damaged."""
        try:
            return _record(*_whole(self.folder(run, fingerprint), None))
        except _Damaged:
            return None

    def read(self, name: str) -> Record:
        """The record of the run of this name.

        Raises:
            UserError: it is missing or damaged.
        """
        folder = self.root / name
        if not folder.is_dir():
            self.pulled()
            known = [entry.name for entry in os.scandir(self.root) if entry.is_dir()] if self.root.is_dir() else []
            raise UserError(f"{folder}: there is no such run{likely(name, known)}")
        try:
            return _record(*_whole(folder, None))
        except _Damaged as damage:
            raise UserError(f"{folder}: damaged: {damage}; the next training sets it aside") from damage

    def read_weights(self, name: str) -> bytes:
        """The final weights of a run, a safetensors file's content.

        Raises:
            UserError: they are missing or damaged.
        """
        checksum, file = self.read(name).weights, self.weights(name)
        if checksum is None:
            raise UserError(f"{self.root / name}: it has no weights: none were kept, or it diverged")
        _pulled(file)
        if not file.exists():
            raise UserError(f"{file}: these weights were not kept; see training.keep_weights in config/README.md")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != checksum:
            raise UserError(f"{file}: damaged: it does not fit its checksum in {RECORD}; delete it and pull it again")
        return content

    def damage(self, folder: Path, *, weights: bool = True) -> str | None:
        """What is wrong with a run's folder, in words; none if it is whole."""
        try:
            _whole(folder, self.weights(folder.name) if weights else None)
        except _Damaged as damage:
            return str(damage)
        return None

    def ends(self, names: Set[str]) -> dict[str, int | None]:
        """Of the runs with these folder names those that are there, each with its `diverged_at`.

        For who only looks: nothing is read but `run.json`, and no checksum is compared.
        """
        there = [entry.name for entry in os.scandir(self.root) if entry.name in names] if self.root.is_dir() else []
        # On a shared file system reading is waiting, and many wait no longer than one.
        with ThreadPoolExecutor(READERS) as readers:
            parts = readers.map(self._ends, [there[reader::READERS] for reader in range(READERS)])
            return {name: diverged_at for part in parts for name, diverged_at in part}

    def _ends(self, names: Sequence[str]) -> list[tuple[str, int | None]]:
        found = []
        for name in names:
            try:
                with open(os.path.join(self.root, name, RECORD), "rb") as file:  # a `Path` takes longer to make
                    found.append((name, json.loads(file.read())["outcome"]["diverged_at"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not there, or damaged
        return found

    def clear(self, run: Run, fingerprint: str) -> Path | None:
        """Make room for a run: set a damaged folder aside, and its weights; returns where to, if there was one."""
        folder = self.folder(run, fingerprint)
        has_files = folder.is_dir() and any(folder.iterdir())
        if not has_files or not self.damage(folder):
            return None
        if self.weights(folder.name).exists():
            set_aside(self.weights(folder.name))
        return set_aside(folder)

    def write(
        self, run: Run, fingerprint: str, outcome: Outcome, environment: dict[str, Any], weights: bytes | None
    ) -> None:
        """Write a finished run; it counts from the moment that `run.json` is there.

        Args:
            run: the run.
            fingerprint: of the data it was trained on.
            outcome: what came out.
            environment: versions, commit, device.
            weights: a safetensors file's content, or none.
        """
        folder = self.folder(run, fingerprint)
        checksums = {METRICS: _write_rows(folder / METRICS, Epoch, outcome.epochs)}
        if outcome.variance:
            checksums[VARIANCE] = _write_rows(folder / VARIANCE, Variance, outcome.variance)
        if weights is not None:
            with atomic(self.weights(folder.name)) as file:
                file.write(weights)
            checksums[WEIGHTS] = hashlib.sha256(weights).hexdigest()
        record = {
            "settings": run.settings,
            "data_fingerprint": fingerprint,
            "protocol": PROTOCOL,
            "outcome": {key: getattr(outcome, key) for key in _PLAIN},
            "environment": environment,
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": checksums,
        }
        write_json(folder / RECORD, record)

    def drop_weights(self, run: Run, fingerprint: str) -> None:
        """Delete the final weights of a run; its record stays valid without them."""
        self.weights(run.name(fingerprint)).unlink(missing_ok=True)


def digest_of(digests: Iterable[str]) -> str:
    """One digest for those of several records, whatever their order."""
    return hashlib.sha256("\n".join(sorted(set(digests))).encode()).hexdigest()


def _pulled(path: Path) -> None:
    """Make sure that what DVC knows is there.

    Raises:
        UserError: it has not been pulled.
    """
    pointer = path.with_name(f"{path.name}.dvc")
    if pointer.exists() and not path.exists():
        raise UserError(f"{path}: not pulled yet; `dvc pull {pointer}` gets it")


_PLAIN = ("diverged_at", "seconds", "images", "lanes", "peak_memory")
"""Fields of an outcome that stand in `run.json`; the others have files of their own."""


def _write_rows(path: Path, kind: type[NamedTuple], rows: Sequence[NamedTuple]) -> str:
    """Write rows with their head as CSV; returns the file's SHA-256."""
    with atomic(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(kind._fields)
        writer.writerows([repr(value) for value in row] for row in rows)
    return sha256(path)


class _Damaged(Exception):
    """A run's folder is not whole; says why."""


def _whole(folder: Path, weights: Path | None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What stands in `run.json`, and the content of the other files that it names but for weights; each is read once.

    Args:
        folder: of a run.
        weights: the file of weights, if it is to be checked as well.

    Raises:
        _Damaged: something is missing or not as it was written.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        run = Run.from_settings(record["settings"])
        if record["protocol"] != PROTOCOL or run.name(record["data_fingerprint"]) != folder.name:
            raise _Damaged("its settings do not fit its name")
        if lacking := {"outcome", "environment"} - record.keys():
            raise _Damaged(f"{RECORD} is damaged (no {', '.join(sorted(lacking))})")
        contents = {name: (folder / name).read_bytes() for name in record["files"].keys() - {WEIGHTS}}
        found = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        # Weights may be left out of what is kept or pulled; what is there must be right.
        if weights and weights.exists():
            found[WEIGHTS] = sha256(weights)
        for name, checksum in found.items():
            if checksum != record["files"][name]:
                raise _Damaged(f"{name} does not fit its checksum")
    except FileNotFoundError as error:
        raise _Damaged(f"{Path(error.filename).name} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged(f"{RECORD} is damaged ({type(error).__name__}: {error})") from error
    return record, contents


def _record(record: dict[str, Any], contents: dict[str, bytes]) -> Record:
    rows = {name: _rows(contents[name], kind) for name, kind in _TABLES.items() if name in contents}
    outcome = Outcome(epochs=rows[METRICS], variance=rows.get(VARIANCE, []), **record["outcome"])
    run = Run.from_settings(record["settings"])
    weights, ended = record["files"].get(WEIGHTS), record.get("ended")
    return Record(run, outcome, record["data_fingerprint"], record["environment"], ended, weights)


_TABLES = {METRICS: Epoch, VARIANCE: Variance}


def _rows(content: bytes, kind: type[NamedTuple]) -> list:
    """Rows as they were written; a field's type is that of its annotation."""
    head, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
    # By columns: a study of 10,000 runs has a million rows.
    columns = zip(*rows, strict=True) if rows else [()] * len(head)
    typed = [map(of, column) for of, column in zip(kind.__annotations__.values(), columns, strict=True)]
    return list(map(kind._make, zip(*typed, strict=True)))
