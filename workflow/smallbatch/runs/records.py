"""The record of a run: what came out of it, and the files that hold that, checked against their digests.

`metrics.csv` has one row per epoch; `scores.csv` and `variance.csv` exist if the run measures them; `run.json` has the
settings, outcome, environment and the SHA-256 of the other files, with a digest over all of these.
"""

import csv
import hashlib
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypedDict, TypeVar

from smallbatch.core.files import DIGEST, parse_sealed
from smallbatch.study.experiments import PROTOCOL, Run

RECORD_FILE, METRICS_FILE, SCORES_FILE, VARIANCE_FILE = "run.json", "metrics.csv", "scores.csv", "variance.csv"


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


def digest_of(digests: Iterable[str]) -> str:
    """One digest over the digests of several records, independent of their order."""
    return hashlib.sha256("\n".join(sorted(set(digests))).encode()).hexdigest()


PLAIN_FIELDS = ("diverged_at", "seconds", "images", "lanes", "peak_memory")
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


def csv_bytes(kind: type[Row], rows: Sequence[Row]) -> bytes:
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
        values = _content(parse_sealed(read(RECORD_FILE)))
        run = Run.from_settings(values["settings"])
        if values["protocol"] != PROTOCOL or run.name(values["data_fingerprint"]) != name:
            raise Damaged("its settings do not fit its name")
        _check(values)
        files = values["files"]
        contents = {file: read(file) for file in files if file in (METRICS_FILE, SCORES_FILE, VARIANCE_FILE)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise Damaged(f"{RECORD_FILE} is damaged ({reason})") from error
    for file, content in contents.items():
        if hashlib.sha256(content).hexdigest() != files[file]:
            raise Damaged(f"{file} does not fit its digest in {RECORD_FILE}")
    return values, contents


def _content(values: Mapping[str, Any]) -> Content:
    """The values under the keys that `RunStore.write` writes.

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
    """Check that the values in `run.json` beside the settings are such as `RunStore.write` writes.

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
    if METRICS_FILE not in values["files"] or datetime.fromisoformat(values["ended"]).tzinfo is None:
        raise ValueError(f"ended is {values['ended']!r}")


def record_of(name: str, read: Callable[[str], bytes]) -> Record:
    """A run's record, from its files; the arguments are those of `read_verified`.

    Raises:
        Damaged: a file is missing, was changed since it was written, or holds an impossible outcome.
    """
    values, contents = read_verified(name, read)
    run = Run.from_settings(values["settings"])
    try:
        epochs = _rows(contents[METRICS_FILE], Epoch)
        variance = _rows(contents[VARIANCE_FILE], Variance) if VARIANCE_FILE in contents else []
        scores = _rows(contents[SCORES_FILE], Score) if SCORES_FILE in contents else []
        outcome = Outcome(epochs=epochs, variance=variance, scores=scores, **values["outcome"])
        _check_rows(outcome, run)
    except (ValueError, TypeError) as error:
        raise Damaged(f"{METRICS_FILE}, {SCORES_FILE} or {VARIANCE_FILE} is damaged ({error})") from error
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
    typed = [map(convert, column) for convert, column in zip(kind.__annotations__.values(), columns, strict=True)]
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
