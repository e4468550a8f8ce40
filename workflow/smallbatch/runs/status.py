"""What a study has come to: runs by figure, speed, time left, and which logs to read.

Only files are read, and none is written: it may be asked at any time, on any host that sees them, while others train.
The run store says which runs are there; what is trained the heartbeats of the jobs say (`runs.heartbeat`).
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
from smallbatch.runs.heartbeat import BLOCKED, DONE, FAILED, RUNNING, Heartbeat, read_heartbeats
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Run, Study

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
    heartbeats: pack -> that of its job, if that runs or has failed and runs of the study are lacking for it.
    speed: images/s of all jobs that run; none where none says one.
    left: seconds until the running and waiting runs are trained, if their images pass at this speed: models and batch
        sizes to come may be slower or faster, jobs more or fewer, and runs that diverge end early. None: unknown.
    wrong: what is wrong with files of data and of rates and with heartbeats, which count as not there, and with runs,
        which count as not trained.
    begun: checkpoints of groups of runs, of any study, that the next call goes on from.
    images: training images that the running and waiting runs still need. None: unknown.
    """

    study: str
    now: float
    counts: dict[str, Mapping[str, int]]
    unprepared: list[str]
    heartbeats: dict[str, Heartbeat]
    speed: float | None
    left: float | None
    wrong: list[str]
    begun: int = 0
    images: float | None = None


def look(study: Study, data: Path, results: Path) -> Status:
    """See how far a study is.

    Args:
        study: with the seeds and the scale that it is trained with.
        data: the folder of prepared data sets.
        results: the folder with the run store `runs/`, heartbeats in `packs/` and the rates that the study has chosen.
    """
    unread: list[str] = []
    metas = {label: meta for label in study.labels if (meta := _read(read_meta, data / label / META, unread))}
    planned = {
        name: _named(
            study.runs_of(name, _read(read_chosen, chosen_file(results, study.name, name), unread)),
            metas.get(e.setting.data),
        )
        for name, e in study.experiments.items()
    }
    runs = {name: run for named in planned.values() for name, run in named.items()}
    store, jobs = RunStore(results), _Jobs(results / "packs")
    ends, damaged = store.ends(runs.keys())
    lacking = runs.keys() - ends.keys()
    states = {name: DIVERGED if diverged_at else DONE for name, diverged_at in ends.items()}
    states |= {name: jobs.state(name) for name in lacking}
    heartbeats, unprepared = jobs.heartbeats_of(lacking), [label for label in study.labels if label not in metas]
    speed = sum(heartbeat.speed or 0 for heartbeat in heartbeats.values() if _kind(heartbeat, jobs.now) == RUNNING)
    images = None
    if not unprepared:
        unfinished = [name for name in lacking if states[name] != FAILED]
        images = sum(_images(runs[name], metas) * jobs.left(name) for name in unfinished)
    left = images / speed if images is not None and speed else None
    counts = {figure: _counts(states[name] for name in names) for figure, names in _of_figures(study, planned)}
    begun = len(list((results / "checkpoints").glob("*/*.pt")))
    wrong = [f"{store.root / name}: damaged: {damage}; to be made again" for name, damage in sorted(damaged.items())]
    wrong = [*unread, *jobs.wrong, *wrong, *filter(None, [store.not_pulled()])]
    return Status(study.name, jobs.now, counts, unprepared, heartbeats, speed or None, left, wrong, begun, images)


def _read(reader: Callable[[Path], T], path: Path, unread: list[str]) -> T | None:
    """What a file says; none where it is not there, or cannot be read, and then `unread` says why."""
    try:
        return reader(path) if path.exists() else None
    except UserError as error:
        unread.append(str(error))
        return None


def _named(runs: Iterable[Run], meta: Meta | None) -> dict[str, Run]:
    """Run by name; where the data or a rate are not known yet that is a name which no trained run has."""
    return {run.name(meta.fingerprint if meta else "unknown"): run for run in runs}


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


def _kind(heartbeat: Heartbeat, now: float) -> str:
    """A job's state, or that it is silent."""
    return SILENT if heartbeat.silent(now) else heartbeat.state


class _Jobs:
    """What jobs say, of any study.

    Args:
        folder: of their heartbeats.
    """

    def __init__(self, folder: Path) -> None:
        self.now, (self.heartbeats, self.wrong) = time.time(), read_heartbeats(folder)
        self._last = {run: heartbeat for heartbeat in self.heartbeats.values() for run in heartbeat.runs}

    def state(self, run: str) -> str:
        """Whether a run that is not there is running, failed or waiting, by the latest heartbeat that names it."""
        heartbeat = self._last.get(run)
        if heartbeat is None:
            return WAITING
        kind = _kind(heartbeat, self.now)
        return RUNNING if kind == RUNNING and run in heartbeat.group else FAILED if kind == FAILED else WAITING

    def left(self, run: str) -> float:
        """The part of a run's epochs that is still to be trained."""
        heartbeat = self._last.get(run)
        return 1 - heartbeat.epoch / heartbeat.epochs if heartbeat and self.state(run) == RUNNING else 1.0

    def heartbeats_of(self, runs: Collection[str]) -> dict[str, Heartbeat]:
        """Pack -> heartbeat of those that run or failed and were the last to name one of these runs."""
        theirs = {id(self._last[run]) for run in runs if run in self._last}
        found = {pack: heartbeat for pack, heartbeat in self.heartbeats.items() if id(heartbeat) in theirs}
        return {pack: heartbeat for pack, heartbeat in found.items() if heartbeat.state in (RUNNING, BLOCKED, FAILED)}


def screen(status: Status) -> str:
    """A status as text for a terminal."""
    width = min(WIDTH, shutil.get_terminal_size().columns)
    head = f"Study {status.study}, {time.strftime('%d %b %Y, %H:%M:%S', time.localtime(status.now))}"
    jobs = sorted(status.heartbeats.items(), key=lambda job: (list(_HEADS).index(_kind(job[1], status.now)), job[0]))
    lines = [line for pack, heartbeat in jobs for line in _job(pack, heartbeat, status.now, width)]
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
    of_all, kinds = (
        status.counts["all"],
        Counter(_kind(heartbeat, status.now) for heartbeat in status.heartbeats.values()),
    )
    if of_all[DONE] == of_all["runs"]:
        return "All runs are complete."
    data = f"Runs that wait for data to be prepared: {', '.join(status.unprepared)}. " if status.unprepared else ""
    if not kinds[RUNNING]:
        checkpoints = f"{status.begun} checkpoint{'s' * (status.begun > 1)}"
        begun = f" Trainings that were stopped go on from {checkpoints}." if status.begun else ""
        return f"{data}Nothing is running, so the time left is unknown.{begun}"
    packs = "1 pack" if kinds[RUNNING] == 1 else f"{kinds[RUNNING]} packs"
    speed = f"{status.speed:,.0f} images/s" if status.speed else "speed unknown"
    left = f"about {clock(status.left)} left at this speed" if status.left is not None else "time left unknown"
    return f"{data}Running now: {packs}, {speed}, {left}."


def line(status: Status, width: int | None = None, *, beside: str = "") -> str:
    """A status in one line: runs, speed, time left, and what trains now.

    Args:
        status: of the study.
        beside: what else is being done; it is named where nothing trains.
        width: characters that it may have; None: as many as it needs.
    """
    of_all = status.counts["all"]
    parts = [f"{status.study}: {of_all[DONE]:,} of {of_all['runs']:,} runs"]
    parts += [f"{status.speed:,.0f} images/s"] if status.speed else []
    parts += [f"{clock(status.left)} left"] if status.speed and status.left is not None else []
    running = [heartbeat for heartbeat in status.heartbeats.values() if _kind(heartbeat, status.now) == RUNNING]
    titles = " | ".join(sorted({heartbeat.title for heartbeat in running if heartbeat.title})) or beside
    text = ", ".join(parts) + (f"; {titles}" if titles else "")
    return text if width is None or len(text) <= width else text[: max(0, width - 1)] + "…"


def stopped_message(status: Status) -> str:
    """What is saved of a study that was stopped, and how it goes on."""
    of_all = status.counts["all"]
    begun = f" and {status.begun} checkpoint{'s' * (status.begun > 1)}" if status.begun else ""
    return f"Stopped: {of_all[DONE]:,} of {of_all['runs']:,} runs{begun} are saved; the same command goes on."


_HEADS = {
    FAILED: "failed at {updated}",
    SILENT: "silent since {updated}",
    BLOCKED: "waits for another job",
    RUNNING: "running since {since}",
}
"""What is said first of a job, by kind; in the order in which they are to be looked at."""


def _job(pack: str, heartbeat: Heartbeat, now: float, width: int) -> Iterator[str]:
    """Some lines on a job: where and how fast; its log; what it is at, or why it failed."""
    kind = _kind(heartbeat, now)
    said = [
        _HEADS[kind].format(since=_time(heartbeat.since, now), updated=_time(heartbeat.updated, now)),
        f"on {heartbeat.host}",
    ]
    said.append(f"job {heartbeat.job}" if heartbeat.job else f"process {heartbeat.process}")
    if kind == RUNNING:
        said += [f"{heartbeat.speed:,.0f} images/s"] if heartbeat.speed else []
        said += [f"{clock(heartbeat.left)} left"] if heartbeat.left is not None else []
    epochs = f": {heartbeat.epoch} of {heartbeat.epochs} epochs" if heartbeat.group else ""
    at = f"{heartbeat.title or 'starting'}{epochs}"
    yield ", ".join(said)
    for text in (heartbeat.log or f"{pack}: its log is its terminal", heartbeat.reason if kind == FAILED else at):
        yield from textwrap.wrap(text or "", width, initial_indent="    ", subsequent_indent="    ")


def _time(then: float, now: float) -> str:
    """A time of day, with the day where that is not today's."""
    day, today = (time.strftime("%d %b", time.localtime(seconds)) for seconds in (then, now))
    return ("" if day == today else f"{day} ") + time.strftime("%H:%M", time.localtime(then))
