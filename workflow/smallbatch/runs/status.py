"""What a study has come to: runs by figure, speed, time left, and which logs to read.

Only files are read, and none is written: it may be asked at any time, on any host that sees them, while others train.
The run store says which runs are there; what is trained the jobs say in words that they leave (`runs.heartbeat`).
"""

import shutil
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from smallbatch.core.console import clock
from smallbatch.core.errors import UserError
from smallbatch.data.prepared import META, Meta, read_meta
from smallbatch.runs.chosen import chosen_file, read_chosen
from smallbatch.runs.heartbeat import BLOCKED, DONE, FAILED, RUNNING, Word, read_words
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Chosen, Experiment, Run, Study

T = TypeVar("T")

DIVERGED, WAITING, SILENT = "diverged", "waiting", "silent"

COLUMNS = ("runs", DONE, DIVERGED, RUNNING, WAITING, FAILED)
"""Of the table. Diverged runs are among those that are done."""

SHOWN = 3
"""Damaged files that are named."""

WIDTH = 100
"""Characters of a line, where the terminal has so many."""


@dataclass(frozen=True)
class Status:
    """How far a study is.

    study: its name.
    now: when it was seen, in seconds since 1970.
    counts: figure -> column -> runs that it shows or takes its rates from. What several figures have counts in each,
        what none has as `none`, and everything once in the last line, `all`.
    unprepared: labels of data sets that are not prepared yet, for which all their runs wait.
    words: pack -> what its job says, if that runs or has failed and runs of the study are lacking for it.
    speed: images/s of all jobs that run; none where none says one.
    left: seconds until the running and waiting runs are trained, if their images pass at this speed: models and batch
        sizes to come may be slower or faster, jobs more or fewer, and runs that diverge end early. None: unknown.
    wrong: what is wrong with files of data, of rates and of jobs' words, which count as not there, and with runs, which
        count as not trained.
    begun: checkpoints of groups of runs, of any study, that the next call goes on from.
    """

    study: str
    now: float
    counts: dict[str, Mapping[str, int]]
    unprepared: list[str]
    words: dict[str, Word]
    speed: float | None
    left: float | None
    wrong: list[str]
    begun: int = 0


def look(study: Study, data: Path, results: Path) -> Status:
    """See how far a study is.

    Args:
        study: with the seeds and the scale that it is trained with.
        data: the folder of prepared data sets.
        results: the folder with the run store `runs/`, the words in `packs/` and the rates that the study has chosen.
    """
    unread: list[str] = []
    metas = {label: meta for label in study.labels if (meta := _read(read_meta, data / label / META, unread))}
    planned = {
        name: _named(e, metas.get(e.setting.data), _read(read_chosen, chosen_file(results, study.name, name), unread))
        for name, e in study.experiments.items()
    }
    runs = {name: run for named in planned.values() for name, run in named.items()}
    store, jobs = RunStore(results), _Jobs(results / "packs")
    ends, damaged = store.ends(runs.keys())
    lacking = runs.keys() - ends.keys()
    states = {name: DIVERGED if diverged_at else DONE for name, diverged_at in ends.items()}
    states |= {name: jobs.state(name) for name in lacking}
    words, unprepared = jobs.lacking(lacking), [label for label in study.labels if label not in metas]
    speed = sum(word.speed or 0 for word in words.values() if _kind(word, jobs.now) == RUNNING)
    left = None
    if speed and not unprepared:
        unfinished = [name for name in lacking if states[name] != FAILED]
        left = sum(_images(runs[name], metas) * jobs.left(name) for name in unfinished) / speed
    counts = {figure: _counts(states[name] for name in names) for figure, names in _of_figures(study, planned)}
    begun = len(list((results / "checkpoints").glob("*/*.pt")))
    wrong = [f"{store.root / name}: damaged: {damage}; to be made again" for name, damage in sorted(damaged.items())]
    wrong = [*unread, *jobs.wrong, *wrong]
    return Status(study.name, jobs.now, counts, unprepared, words, speed or None, left, wrong, begun)


def _read(reader: Callable[[Path], T], path: Path, unread: list[str]) -> T | None:
    """What a file says; none where it is not there, or cannot be read, which `unread` is then told."""
    try:
        return reader(path) if path.exists() else None
    except UserError as error:
        unread.append(str(error))
        return None


def _named(e: Experiment, meta: Meta | None, rates: Chosen | None) -> dict[str, Run]:
    """Run by name; where the data or a rate are not known yet that is a name which no trained run has."""
    return {run.name(meta.fingerprint if meta else "unknown"): run for run in e.runs(rates if e.best_of else None)}


def _images(run: Run, metas: Mapping[str, Meta]) -> int:
    return run.setting.epochs * (run.setting.train_images or metas[run.setting.data].train)


def _of_figures(study: Study, planned: Mapping[str, Mapping[str, Run]]) -> Iterator[tuple[str, Collection[str]]]:
    """Each figure with its runs, then `none`, where there are such, and `all`."""
    everything = {name for named in planned.values() for name in named}
    rest = set(everything)
    for figure, spec in study.figures.items():
        named = {name: run for source in study.sources(figure) for name, run in planned[source].items()}
        own = {name for name, run in named.items() if run.base_lr == spec.get("base_lr", run.base_lr)}
        rest -= own
        yield figure, own
    if rest:
        yield "none", rest
    yield "all", everything


def _counts(states: Iterable[str]) -> Mapping[str, int]:
    counts = Counter(states)
    return counts | {"runs": counts.total(), DONE: counts[DONE] + counts[DIVERGED]}


def _kind(word: Word, now: float) -> str:
    """A job's state, or that it is silent."""
    return SILENT if word.silent(now) else word.state


class _Jobs:
    """What jobs say, of any study.

    Args:
        folder: of their words.
    """

    def __init__(self, folder: Path) -> None:
        self.now, (self.words, self.wrong) = time.time(), read_words(folder)
        self._last = {run: word for word in self.words.values() for run in word.runs}

    def state(self, run: str) -> str:
        """Whether a run that is not there is running, failed or waiting, by the last word that was spoken of it."""
        word = self._last.get(run)
        if word is None:
            return WAITING
        kind = _kind(word, self.now)
        return RUNNING if kind == RUNNING and run in word.group else FAILED if kind == FAILED else WAITING

    def left(self, run: str) -> float:
        """The part of a run's epochs that is still to be trained."""
        word = self._last.get(run)
        return 1 - word.epoch / word.epochs if word and self.state(run) == RUNNING else 1.0

    def lacking(self, runs: Collection[str]) -> dict[str, Word]:
        """Pack -> word of those that run or failed and were the last to speak of one of these runs."""
        theirs = {id(self._last[run]) for run in runs if run in self._last}
        found = {pack: word for pack, word in self.words.items() if id(word) in theirs}
        return {pack: word for pack, word in found.items() if word.state in (RUNNING, BLOCKED, FAILED)}


def told(status: Status) -> str:
    """A status as text for a terminal."""
    width = min(WIDTH, shutil.get_terminal_size().columns)
    head = f"Study {status.study}, {time.strftime('%d %b %Y, %H:%M:%S', time.localtime(status.now))}"
    jobs = sorted(status.words.items(), key=lambda job: (list(_HEADS).index(_kind(job[1], status.now)), job[0]))
    lines = [line for pack, word in jobs for line in _job(pack, word, status.now, width)]
    lines += [*status.wrong[:SHOWN], f"and {len(status.wrong) - SHOWN} more such files"][: len(status.wrong)]
    summary = textwrap.wrap(_summary(status), width)
    return "\n".join([head, "", *_table(status.counts), "", *summary, *[""] * bool(lines), *lines])


def _table(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    first = max(map(len, [*counts, "figure"]))
    yield f"{'figure':<{first}}" + "".join(f"{column:>10}" for column in COLUMNS)
    for figure, of_figure in counts.items():
        yield f"{figure:<{first}}" + "".join(f"{of_figure.get(column, 0) or '-':>10}" for column in COLUMNS)


def _summary(status: Status) -> str:
    """What the table does not say: data, speed, time left."""
    of_all, kinds = status.counts["all"], Counter(_kind(word, status.now) for word in status.words.values())
    if of_all[DONE] == of_all["runs"]:
        return "All runs are there."
    data = f"Not prepared yet, so that its runs wait: {', '.join(status.unprepared)}. " if status.unprepared else ""
    if not kinds[RUNNING]:
        checkpoints = f"{status.begun} checkpoint{'s' * (status.begun > 1)}"
        begun = f" Trainings that were stopped go on from {checkpoints}." if status.begun else ""
        return f"{data}Nothing is running, so the time left is unknown.{begun}"
    packs = "1 pack" if kinds[RUNNING] == 1 else f"{kinds[RUNNING]} packs"
    speed = f"{status.speed:,.0f} images/s" if status.speed else "speed unknown"
    left = f"about {clock(status.left)} left at this speed" if status.left is not None else "time left unknown"
    return f"{data}Running now: {packs}, {speed}, {left}."


_HEADS = {
    FAILED: "failed at {spoken}",
    SILENT: "silent since {spoken}",
    BLOCKED: "waits for another job",
    RUNNING: "running since {since}",
}
"""What is said first of a job, by kind; in the order in which they are to be looked at."""


def _job(pack: str, word: Word, now: float, width: int) -> Iterator[str]:
    """Some lines on a job: where and how fast; its log; what it is at, or why it failed."""
    kind = _kind(word, now)
    said = [_HEADS[kind].format(since=_time(word.since, now), spoken=_time(word.spoken, now)), f"on {word.host}"]
    said.append(f"job {word.job}" if word.job else f"process {word.process}")
    if kind == RUNNING:
        said += [f"{word.speed:,.0f} images/s"] if word.speed else []
        said += [f"{clock(word.left)} left"] if word.left is not None else []
    at = f"{word.title or 'starting'}{f': {word.epoch} of {word.epochs} epochs' if word.group else ''}"
    yield ", ".join(said)
    for text in (word.log or f"{pack}: its log is its terminal", word.reason if kind == FAILED else at):
        yield from textwrap.wrap(text or "", width, initial_indent="    ", subsequent_indent="    ")


def _time(then: float, now: float) -> str:
    """A time of day, with the day where that is not today's."""
    day, today = (time.strftime("%d %b", time.localtime(seconds)) for seconds in (then, now))
    return ("" if day == today else f"{day} ") + time.strftime("%H:%M", time.localtime(then))
