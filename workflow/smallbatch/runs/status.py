"""The status of a study: runs by figure, speed, time left, and which logs to read.

Files are only read: the status is available at any time, on any host that sees the files, during trainings. Finished
runs are known from the run store, running ones from the heartbeats of the jobs (`runs.heartbeat`).
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
from smallbatch.runs.chosen_rates import chosen_file, read_chosen
from smallbatch.runs.heartbeat import BLOCKED, DONE, FAILED, RUNNING, Heartbeat, read_heartbeats
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Run, Study

T = TypeVar("T")

DIVERGED, WAITING, SILENT = "diverged", "waiting", "silent"

COLUMNS = ("runs", DONE, DIVERGED, RUNNING, WAITING, FAILED)
"""Columns of the table. Diverged runs also count as done."""

SHOWN = 3
"""The largest number of damaged files that are named."""

WIDTH = 100
"""The largest number of characters in a line; fewer in a narrower terminal."""


@dataclass(frozen=True)
class Status:
    """The progress of a study.

    study: the study's name.
    now: the time of this status, in seconds since 1970.
    counts: figure -> column -> number of runs that the figure shows or takes its rates from. A run of several figures
        counts in each, a run of no figure in `none`, and every run once in the last line, `all`.
    unprepared: labels of data sets that are not prepared yet, for which all their runs wait.
    heartbeats: pack -> heartbeat of its job, if it runs, is blocked or failed, and has unfinished runs of the study.
    speed: images/s of all running jobs; None if no job reports a speed.
    left: seconds until the running and waiting runs are trained, at this speed: later models and batch sizes may be
        slower or faster, jobs more or fewer, and runs that diverge end early. None: unknown.
    wrong: errors of the files of data and rates and of heartbeats, which count as missing, and of runs, which count as
        not trained.
    begun: the number of checkpoints of groups of runs, of any study, that the next call resumes from.
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


def study_status(study: Study, data: Path, results: Path) -> Status:
    """The current status of a study.

    Args:
        study: the study, with the seeds and the scale that it is trained with.
        data: the folder of prepared data sets.
        results: the folder of the run store `runs/`, the heartbeats in `packs/` and the study's chosen rates.
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
    wrong = [*unread, *jobs.wrong, *wrong, *filter(None, [store.not_pulled_message()])]
    return Status(study.name, jobs.now, counts, unprepared, heartbeats, speed or None, left, wrong, begun, images)


def _read(reader: Callable[[Path], T], path: Path, unread: list[str]) -> T | None:
    """The content of a file; None if it is missing, or unreadable, which is added to `unread`."""
    try:
        return reader(path) if path.exists() else None
    except UserError as error:
        unread.append(str(error))
        return None


def _named(runs: Iterable[Run], meta: Meta | None) -> dict[str, Run]:
    """Run name -> run; while the data or a rate are unknown, the name is one that no trained run has."""
    return {run.name(meta.fingerprint if meta else "unknown"): run for run in runs}


def _images(run: Run, metas: Mapping[str, Meta]) -> int:
    return run.setting.images_and_epochs(run.batch_size, run.setting.train_images or metas[run.setting.data].train)[0]


def _of_figures(study: Study, planned: Mapping[str, Mapping[str, Run]]) -> Iterator[tuple[str, Collection[str]]]:
    """Each figure with its runs, then `none` with the runs of no figure, if any, then `all`."""
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
    """A job's state, or `SILENT`."""
    return SILENT if heartbeat.silent(now) else heartbeat.state


class _Jobs:
    """The jobs of all studies, from their heartbeats.

    Args:
        folder: the folder of the heartbeats.
    """

    def __init__(self, folder: Path) -> None:
        self.now, (self.heartbeats, self.wrong) = time.time(), read_heartbeats(folder)
        self._last = {run: heartbeat for heartbeat in self.heartbeats.values() for run in heartbeat.runs}

    def state(self, run: str) -> str:
        """Whether an unfinished run is running, failed or waiting, by the latest heartbeat that names it."""
        heartbeat = self._last.get(run)
        if heartbeat is None:
            return WAITING
        kind = _kind(heartbeat, self.now)
        return RUNNING if kind == RUNNING and run in heartbeat.group else FAILED if kind == FAILED else WAITING

    def left(self, run: str) -> float:
        """The fraction of a run's epochs that is still to be trained."""
        heartbeat = self._last.get(run)
        return 1 - heartbeat.epoch / heartbeat.epochs if heartbeat and self.state(run) == RUNNING else 1.0

    def heartbeats_of(self, runs: Collection[str]) -> dict[str, Heartbeat]:
        """Pack -> heartbeat of each running, blocked or failed job that was the last to name one of these runs."""
        theirs = {id(self._last[run]) for run in runs if run in self._last}
        found = {pack: heartbeat for pack, heartbeat in self.heartbeats.items() if id(heartbeat) in theirs}
        return {pack: heartbeat for pack, heartbeat in found.items() if heartbeat.state in (RUNNING, BLOCKED, FAILED)}


def format_status(status: Status) -> str:
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
    """What the table does not show: data, speed, time left."""
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


def format_line(status: Status, width: int | None = None, *, beside: str = "") -> str:
    """A status in one line: runs, speed, time left, and what is being trained.

    Args:
        status: the status of the study.
        beside: other work in progress, shown when nothing is being trained.
        width: the largest number of characters; None: unlimited.
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
    """A message on what is saved of a stopped study, and how to continue."""
    of_all = status.counts["all"]
    begun = f" and {status.begun} checkpoint{'s' * (status.begun > 1)}" if status.begun else ""
    return f"Stopped: {of_all[DONE]:,} of {of_all['runs']:,} runs{begun} are saved; the same command goes on."


_HEADS = {
    FAILED: "failed at {updated}",
    SILENT: "silent since {updated}",
    BLOCKED: "waits for another job",
    RUNNING: "running since {since}",
}
"""Kind of a job -> the beginning of its text, in the order in which jobs are shown."""


def _job(pack: str, heartbeat: Heartbeat, now: float, width: int) -> Iterator[str]:
    """The lines about a job: where it runs and how fast; its log; what it is doing, or why it failed."""
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
    """A time of day, with the date if that is not today."""
    day, today = (time.strftime("%d %b", time.localtime(seconds)) for seconds in (then, now))
    return ("" if day == today else f"{day} ") + time.strftime("%H:%M", time.localtime(then))
