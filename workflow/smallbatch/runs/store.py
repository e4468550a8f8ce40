"""The run store: one folder per run, found by its name, checked by its content.

A run's folder `runs/NAME`, which is complete or absent, holds `metrics.csv` (one row per epoch), `scores.csv` and
`variance.csv` if the run measures them, and `run.json`: settings, outcome, environment and the SHA-256 of the other
files, with a digest over all of these. Its final weights, which are large and not always kept, published or pulled, lie
elsewhere, as `weights/NAME.HASH.safetensors` with the first digits of their SHA-256, which the record holds in full. A
machine that rounds differently gives another record and other weights, so each record finds its own.
"""

import csv
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

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
from smallbatch.study.experiments import PROTOCOL, Run
from smallbatch.study.settings import suggestion

T = TypeVar("T")

RECORD, METRICS, SCORES, VARIANCE = "run.json", "metrics.csv", "scores.csv", "variance.csv"

HASH_DIGITS = 12
"""The number of digits of a SHA-256 in a file's name."""

READERS = 16
"""The number of records that are read at the same time."""


class Epoch(NamedTuple):
    """The metrics after one epoch, counted from 1. Losses are means, in nats; accuracies are fractions.

    validation_accuracy: NaN if the run holds out no validation split.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    test_loss: float
    test_accuracy: float
    validation_accuracy: float


class Score(NamedTuple):
    """The value of one of `Setting.metrics` after `epoch`, a fraction.

    error: its standard error, as another sample of images would give another value.
    validation, validation_error: the same of the held-out images; NaN if there are none.
    """

    epoch: int
    metric: str
    test: float
    error: float
    validation: float
    validation_error: float


class Variance(NamedTuple):
    """The variance of one update of `batch_size` examples at the weights after `epoch` (0: the initial ones).

    trace: the trace of the covariance of the update at the run's base learning rate.
    draws: the number of mini-batches that the trace was estimated from.
    """

    epoch: int
    batch_size: int
    trace: float
    draws: int


Row = TypeVar("Row", Epoch, Score, Variance)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    diverged_at: the update, counted from 1, whose loss was not finite; None if all were finite.
    seconds: the run's share of the wall time of the lanes that it was trained with.
    images: the number of training images seen.
    lanes: the number of runs that were trained as lanes, this one included.
    peak_memory: bytes, the most that the process (on a GPU: the device) held while these lanes were trained.
    variance: the measured variances, see `Setting.variance_batch_sizes`.
    scores: the values of `Setting.metrics`, by epoch.
    """

    epochs: list[Epoch]
    diverged_at: int | None
    seconds: float
    images: int
    lanes: int
    peak_memory: int
    variance: list[Variance]
    scores: list[Score] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """The record of a run in the store.

    fingerprint: the fingerprint of the data it was trained on.
    environment: versions, commit, device.
    ended: the time at which the record was written, ISO 8601 in UTC.
    weights: the SHA-256 of its final weights; None if they were not kept.
    digest: the SHA-256 over all of the record.
    """

    run: Run
    outcome: Outcome
    fingerprint: str
    environment: dict[str, Any]
    ended: str
    weights: str | None
    digest: str


class Damaged(Exception):
    """A run's record is damaged; the message says why."""


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
        if line := self.not_pulled():
            raise UserError(line)

    def not_pulled(self) -> str:
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
            raise UserError(f"{file}: damaged: it does not fit its digest in {RECORD}; set aside as {aside}; {left}")
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
        found = dict(_at_once(self._end, self._there(names)))
        damaged = {name: end for name, end in found.items() if isinstance(end, str)}
        return {name: end[0] for name, end in found.items() if isinstance(end, tuple)}, damaged

    def fingerprints(self, data: str) -> set[str]:
        """The fingerprints of the data with this label that existing runs were trained on."""
        if not self.root.is_dir():
            return set()
        names = [entry.name for entry in os.scandir(self.root) if entry.name.startswith(f"{data}_")]
        return {found for _, found in _at_once(self.fingerprint, names) if found}

    def fingerprint(self, name: str) -> str | None:
        """The fingerprint of the data that the run of this name was trained on; None if its record is missing."""
        try:
            return str(parse_sealed(self._reader(name)(RECORD))["data_fingerprint"])
        except (Damaged, UserError, ValueError, KeyError):
            return None

    def _end(self, name: str) -> tuple[int | None] | str:
        try:
            return (read_verified(name, self._reader(name))[0]["outcome"]["diverged_at"],)
        except (Damaged, UserError) as damage:
            return str(damage)

    def _there(self, names: Set[str]) -> list[str]:
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
        contents = {METRICS: _csv(Epoch, outcome.epochs)}
        if outcome.scores:
            contents[SCORES] = _csv(Score, outcome.scores)
        if outcome.variance:
            contents[VARIANCE] = _csv(Variance, outcome.variance)
        values: dict[str, Any] = {
            "settings": run.settings,
            "data_fingerprint": fingerprint,
            "protocol": PROTOCOL,
            "outcome": {key: getattr(outcome, key) for key in _PLAIN},
            "environment": environment,
            "ended": now().isoformat(timespec="seconds"),
            "files": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
            "weights": hashlib.sha256(weights).hexdigest() if weights is not None else None,
        }
        contents[RECORD] = sealed_bytes(values)
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


def _at_once(of: Callable[[str], T], names: Sequence[str]) -> list[tuple[str, T]]:
    """Each name with the result of `of`, computed in threads: reading from a shared file system is mostly waiting."""

    def some(part: Sequence[str]) -> list[tuple[str, T]]:
        return [(name, of(name)) for name in part]

    with ThreadPoolExecutor(READERS) as readers:
        return [pair for part in readers.map(some, [names[i::READERS] for i in range(READERS)]) for pair in part]


def digest_of(digests: Iterable[str]) -> str:
    """One digest over the digests of several records, independent of their order."""
    return hashlib.sha256("\n".join(sorted(set(digests))).encode()).hexdigest()


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
    files, known = ", ".join(str(pointer.with_suffix("")) for pointer in pointers), " ".join(map(str, pointers))
    return f"{files}: not pulled yet; `dvc pull {known}` gets {'it' if len(pointers) == 1 else 'them'}"


_PLAIN = ("diverged_at", "seconds", "images", "lanes", "peak_memory")
"""Fields of an outcome that are in `run.json`; the others have files of their own."""


class Content(TypedDict):
    """The content of `run.json`.

    settings: the settings of the run, see `Run.settings`.
    outcome: the fields of an outcome that are not tables.
    files: name -> SHA-256 of each table.
    The other fields are those of `Record`; `data_fingerprint` is its `fingerprint`.
    """

    settings: dict[str, Any]
    data_fingerprint: str
    protocol: int
    outcome: dict[str, Any]
    environment: dict[str, str]
    ended: str
    files: dict[str, str]
    weights: str | None
    digest: str


def _csv(kind: type[Row], rows: Sequence[Row]) -> bytes:
    """Rows with their header as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(kind._fields)
    writer.writerows([value if isinstance(value, str) else repr(value) for value in row] for row in rows)
    return text.getvalue().encode()


def read_verified(name: str, read: Callable[[str], bytes]) -> tuple[Content, dict[str, bytes]]:
    """The content of a run's `run.json`, and of the files that it names; each is read once.

    Args:
        name: the name of the run.
        read: reads one of the run's files, given the file's name.

    Raises:
        Damaged: a file is missing, or was changed since it was written.
    """
    try:
        values = _content(parse_sealed(read(RECORD)))
        run = Run.from_settings(values["settings"])
        if values["protocol"] != PROTOCOL or run.name(values["data_fingerprint"]) != name:
            raise Damaged("its settings do not fit its name")
        _check(values)
        files = values["files"]
        contents = {file: read(file) for file in files if file in (METRICS, SCORES, VARIANCE)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise Damaged(f"{RECORD} is damaged ({reason})") from error
    for file, content in contents.items():
        if hashlib.sha256(content).hexdigest() != files[file]:
            raise Damaged(f"{file} does not fit its digest in {RECORD}")
    return values, contents


def _content(values: Mapping[str, Any]) -> Content:
    """The values under the keys that `write` writes.

    Raises:
        KeyError: a key is missing.
    """
    return Content(
        settings=values["settings"],
        data_fingerprint=values["data_fingerprint"],
        protocol=values["protocol"],
        outcome=values["outcome"],
        environment=values["environment"],
        ended=values["ended"],
        files=values["files"],
        weights=values["weights"],
        digest=values[DIGEST],
    )


def _check(values: Content) -> None:
    """Check that the values in `run.json` beside the settings are such as `write` writes.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: a value is not.
    """
    outcome, end, environment = values["outcome"], values["outcome"]["diverged_at"], values["environment"]
    counts = {"images": 0, "lanes": 1, "peak_memory": 0, **({} if end is None else {"diverged_at": 1})}
    for key, least in counts.items():
        if type(outcome[key]) is not int or outcome[key] < least:
            raise ValueError(f"{key} is {outcome[key]!r}")
    if type(outcome["seconds"]) not in (int, float) or not 0 <= outcome["seconds"] < math.inf:
        raise ValueError(f"seconds is {outcome['seconds']!r}")
    if not all(isinstance(text, str) for pair in environment.items() for text in pair):
        raise ValueError("environment is not text")
    weights = values["weights"]
    if weights is not None and (end is not None or len(bytes.fromhex(weights)) != 32):
        raise ValueError(f"weights is {weights!r}")
    if METRICS not in values["files"] or datetime.fromisoformat(values["ended"]).tzinfo is None:
        raise ValueError(f"ended is {values['ended']!r}")


def record_of(name: str, read: Callable[[str], bytes]) -> Record:
    """A run's record, from its files; the arguments are those of `read_verified`.

    Raises:
        Damaged: a file is missing, was changed since it was written, or holds an impossible outcome.
    """
    values, contents = read_verified(name, read)
    run = Run.from_settings(values["settings"])
    try:
        epochs = _rows(contents[METRICS], Epoch)
        variance = _rows(contents[VARIANCE], Variance) if VARIANCE in contents else []
        scores = _rows(contents[SCORES], Score) if SCORES in contents else []
        outcome = Outcome(epochs=epochs, variance=variance, scores=scores, **values["outcome"])
        _check_rows(outcome, run)
    except (ValueError, TypeError) as error:
        raise Damaged(f"{METRICS}, {SCORES} or {VARIANCE} is damaged ({error})") from error
    return Record(
        run,
        outcome,
        values["data_fingerprint"],
        values["environment"],
        values["ended"],
        values["weights"],
        values[DIGEST],
    )


def _rows(content: bytes, kind: type[Row]) -> list[Row]:
    """The rows of a CSV file; the type of each field is that of its annotation."""
    head, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
    # Converted by columns, for speed: a study of 10,000 runs has a million rows.
    columns = zip(*rows, strict=True) if rows else [()] * len(head)
    typed = [map(of, column) for of, column in zip(kind.__annotations__.values(), columns, strict=True)]
    return list(map(kind._make, zip(*typed, strict=True)))


def _check_rows(outcome: Outcome, run: Run) -> None:
    """Check that the run can have these epochs and variances.

    Raises:
        ValueError: it cannot; the message says why.
    """
    count, diverged = len(outcome.epochs), outcome.diverged_at is not None
    if run.setting.epochs:
        if count > run.setting.epochs or (count < run.setting.epochs and not diverged):
            raise ValueError(f"{count} epochs of {run.setting.epochs}")
    elif not diverged and (not count or outcome.images != run.setting.images_and_epochs(run.batch_size, 0)[0]):
        raise ValueError(
            f"{count} epochs, {outcome.images} images of {run.setting.images_and_epochs(run.batch_size, 0)[0]}"
        )
    columns = zip(*outcome.epochs, strict=True) if count else [()] * len(Epoch._fields)
    epoch, rates, train_losses, test_losses, accuracies, validation_accuracies = columns
    if epoch != tuple(range(1, count + 1)):
        raise ValueError("the epochs are not in order")
    # If the last update of an epoch overflows, the test after it is the first to notice.
    finite = (*rates, *train_losses, *test_losses[: -1 if diverged else None])
    if not all(map(math.isfinite, finite)):
        raise ValueError("a loss or a rate is not finite")
    if not all(0 <= accuracy <= 1 for accuracy in accuracies):
        raise ValueError("an accuracy is not from 0 to 1")
    if not all(0 <= accuracy <= 1 or math.isnan(accuracy) for accuracy in validation_accuracies):
        raise ValueError("an accuracy is not from 0 to 1")
    if not all(0 <= row.epoch <= run.setting.epochs and row.draws > 1 for row in outcome.variance):
        raise ValueError("a variance is of no epoch, or of one draw")
    _check_scores(outcome, run)


def _check_scores(outcome: Outcome, run: Run) -> None:
    """Check that each epoch has each of the run's metrics, with a possible value.

    Raises:
        ValueError: it has not.
    """
    expected = [(epoch.epoch, metric) for epoch in outcome.epochs for metric in run.setting.metrics]
    if [(score.epoch, score.metric) for score in outcome.scores] != expected:
        raise ValueError("a score is missing, or of no epoch")
    certain = [score for score in outcome.scores if outcome.diverged_at is None or score.epoch < len(outcome.epochs)]
    if not all(0 <= score.test <= 1 and 0 <= score.error < math.inf for score in certain):
        raise ValueError("a score is not from 0 to 1")
