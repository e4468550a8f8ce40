"""Export the runs of a study: each finished one once, and running ones while they train."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from smallbatch.core import signals
from smallbatch.core.files import atomic
from smallbatch.data.prepared import META, read_meta
from smallbatch.export.trackers import RunLog, Tracker, metrics_of, time_of
from smallbatch.runs.chosen_rates import chosen_file, read_chosen
from smallbatch.runs.records import Epoch, Record
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Run, Study

POLL = 10.0
"""Seconds between looks at what has trained since."""


class Exporter:
    """The files of a study's runs for one program.

    A file for each finished run says which record is exported, so that the next call writes what is new.

    Args:
        tracker: opens the files of a run.
        folder: the folder of all that is written.
        study: the study's name.
    """

    def __init__(self, tracker: Tracker, folder: Path, study: str) -> None:
        self._tracker, self._folder, self._study = tracker, folder, study
        self._open: dict[str, tuple[RunLog, list[Epoch]]] = {}

    def update(self, name: str, run: Run, epochs: Sequence[Epoch], record: Record | None = None) -> bool:
        """Write the epochs of a run that are new; with its record, also its outcome. Returns whether it wrote.

        Args:
            name: the run's name.
            run: the run.
            epochs: its epochs so far.
            record: its record, if it is finished.
        """
        mark = self._folder / "exported" / name
        if record and mark.exists() and mark.read_text() == record.digest:
            return False
        if name in self._open and str(self._open[name][1]) != str(list(epochs[: len(self._open[name][1])])):
            self._open.pop(name)[0].close(None)  # it was trained anew, and rounded otherwise
        if name not in self._open:
            self._open[name] = self._tracker(self._folder, self._study, name, run.settings), []
        log, written = self._open[name]
        at = time_of(record) if record else time.time()
        for epoch in epochs[len(written) :]:
            scores = record.outcome.scores if record else ()
            log.add(epoch.epoch, metrics_of(epoch, run.setting.primary_metric, scores), at)
            written.append(epoch)
        if record:
            self._open.pop(name)[0].close(record)
            with atomic(mark, "w") as file:
                file.write(record.digest)
        return True

    def close(self) -> None:
        """End the files of runs that are not finished; the next call writes them anew."""
        while self._open:
            self._open.popitem()[1][0].close(None)


def export(
    study: Study,
    tracker: Tracker,
    folder: Path,
    data: Path,
    results: Path,
    running: Callable[[Mapping[str, str]], Mapping[str, Sequence[Epoch]]] | None = None,
) -> tuple[int, int]:
    """Export what a study has trained; returns the numbers of its finished runs and of those that were written.

    Args:
        study: the study.
        tracker: opens the files of a run.
        folder: the folder of all that is written.
        data: the folder of prepared data sets.
        results: the folder of the run store and of chosen rates.
        running: reads the epochs so far of unfinished runs, by name, given the fingerprint of each data set. Then this
            goes on until all runs are finished, or a signal asks for a stop. None: finished runs only, once.

    Raises:
        Stopped: a signal asked for it.
        UserError: a file cannot be read or written.
    """
    exporter, store = Exporter(tracker, folder, study.name), RunStore(results)
    finished: set[str] = set()
    written = 0
    try:
        while True:
            prints = _fingerprints(study, data)
            runs = _planned(study, results)
            known = {run.name(prints[run.setting.data]): run for run in runs if _is_known(run, prints)}
            for name in sorted(known.keys() - finished):
                signals.raise_if_signalled()
                if record := store.find(known[name], prints[known[name].setting.data]):
                    written += exporter.update(name, known[name], record.outcome.epochs, record)
                    finished.add(name)
            for name, epochs in running(prints).items() if running else ():
                if name in known.keys() - finished:
                    exporter.update(name, known[name], epochs)
            if not running or len(finished) >= len(runs):
                return len(finished), written
            _wait()
    finally:
        exporter.close()


def _fingerprints(study: Study, data: Path) -> dict[str, str]:
    """Label of each prepared data set of a study -> its fingerprint."""
    metas = {label: data / label / META for label in study.labels}
    return {label: read_meta(meta).fingerprint for label, meta in metas.items() if meta.exists()}


def _planned(study: Study, results: Path) -> set[Run]:
    """The runs of a study; their rate is None as long as it is not chosen."""
    files = {name: chosen_file(results, study.name, name) for name in study.experiments}
    return {
        run for name, file in files.items() for run in study.runs_of(name, read_chosen(file) if file.exists() else None)
    }


def _is_known(run: Run, fingerprints: Mapping[str, str]) -> bool:
    return run.base_lr is not None and run.setting.data in fingerprints


def _wait() -> None:
    """Wait for `POLL` seconds, or until a signal asks for a stop."""
    end = time.monotonic() + POLL
    while time.monotonic() < end:
        signals.raise_if_signalled()
        time.sleep(0.2)
