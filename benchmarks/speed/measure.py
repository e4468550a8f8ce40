"""Measures cells: starts the processes of each method, and lets the methods train in turn, round after round."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import smallbatch
from smallbatch.core.environment import processors
from speed.cells import Cell, Method

SOURCES = [str(Path(__file__).parents[1]), str(Path(smallbatch.__file__).parents[1])]
"""Where processes find this and the library."""


class Failed(Exception):
    """A process could not do its part; says why."""


def cores() -> list[int]:
    """The processors at hand."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(processors()))


def environment(threads: int, device: str, cache: str) -> dict[str, str]:
    """What must be set before torch is imported.

    Args:
        threads: of the process.
        device: cpu or cuda. On the CPU threads are bound; beside a GPU, processes that load data would inherit that.
        cache: a folder for torch.compile, so that each process compiles for itself.
    """
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, [*SOURCES, os.environ.get("PYTHONPATH")])),
        "TORCHINDUCTOR_CACHE_DIR": cache,
    }
    if device == "cpu":
        own |= dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"], str(threads))
        own |= {"OMP_PROC_BIND": "true"}  # within the cores that the process has
    else:
        own |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # other methods' processes are on the same GPU
    return own


class Process:
    """One process of a measurement.

    Args:
        job: as `speed.worker` takes it.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.noise = tempfile.TemporaryFile()  # noqa: SIM115
        self.cache = tempfile.TemporaryDirectory()
        own = environment(len(job["cores"]), job["device"], self.cache.name)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "speed.worker"], env=os.environ | own, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.noise,
        )  # fmt: skip
        self.say(json.dumps(job))

    def say(self, line: str) -> None:
        """Give it a line. That it has died is found out when its answer is read."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")

    def hear(self, within: float | None = None) -> dict[str, Any] | None:
        """Its next answer, to a question that has one; none when it has done its task.

        Raises:
            Failed: the answer is an error, or it has died, or does not answer within so many seconds.
        """
        if within and not select.select([self.process.stdout], [], [], within)[0]:
            raise Failed(f"no answer within {within:g} s")
        line = self.process.stdout.readline()
        if not line and self.process.wait() == 0:
            return None
        found = json.loads(line) if line else {"error": self._last_words()}
        if "error" in found:
            raise Failed(found["error"])
        return found

    def _last_words(self) -> str:
        code = self.process.wait()
        self.noise.seek(0)
        lines = self.noise.read().decode(errors="replace").strip().splitlines()
        return f"ended with {code}: {lines[-1] if lines else 'without a word'}"

    def end(self) -> None:
        """End it, if it has not ended."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.noise):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.cache.cleanup()


class Lap(NamedTuple):
    """One epoch of all processes of a method.

    rate: images, or for matrix products floating-point operations, a second.
    seconds: from the first's begin to the last's end.
    """

    rate: float
    seconds: float


def lap(answers: Sequence[Mapping[str, float]]) -> Lap:
    """The lap that processes made together, from their answers."""
    seconds = max(a["ended"] for a in answers) - min(a["began"] for a in answers)
    return Lap(sum(a["amount"] for a in answers) / seconds, seconds)


class Team:
    """The processes of one method. They live for all rounds of a cell, and rest while others have their turn."""

    def __init__(self, method: Method, job: Mapping[str, Any]) -> None:
        places = [[core] for core in cores()] if method.each_core else [cores()]
        own = {"task": method.trainer, "options": method.options, "lanes": job["lanes"] if method.lanes else 1}
        # Seeds far enough apart that no lane of one process is a lane of another.
        self.processes = [Process({**job, **own, "cores": p, "seed": 1 + 100 * i}) for i, p in enumerate(places)]
        self.ready = False

    def lap(self, patience: float | None) -> Lap:
        """Let all processes train an epoch at the same time, as soon as all are ready.

        Raises:
            Failed: one of the processes, or one does not answer within `patience` seconds.
        """
        if not self.ready:
            self._hear(patience)
            self.ready = True
        for process in self.processes:
            process.say("go")
        return lap(self._hear(patience))

    def _hear(self, patience: float | None) -> list[dict[str, Any]]:
        return [process.hear(patience) for process in self.processes]

    def end(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.end()


class Contest:
    """All methods on one cell.

    Args:
        methods: by name.
        job: what all of them train.
        tell: takes a line on a method that fails, which the others go on without.
        patience: seconds after which a method has failed that has not trained an epoch, the first one with compiling.

    Attributes:
        found: for each method its laps' rates and seconds and the first one's seconds, or an error.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        job: Mapping[str, Any],
        tell: Callable[[str], None],
        patience: float | None = None,
    ) -> None:
        self.methods, self.job, self.tell, self.patience = methods, job, tell, patience
        self.teams: dict[str, Team] = {}
        self.found: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "Contest":
        return self

    def __exit__(self, *_: object) -> None:
        for team in self.teams.values():
            team.end()

    def warm_up(self) -> None:
        """Every method trains an epoch that does not count; one after the other, so that none disturbs another."""
        self.teams = {name: Team(method, self.job) for name, method in self.methods.items()}
        for name in self.methods:
            first = self._lap(name)
            if first:
                self.found[name] = {"rates": [], "seconds": [], "first_seconds": first.seconds}

    def round(self) -> None:
        """Every method trains one epoch."""
        for name in list(self.teams):
            turn = self._lap(name)
            if turn:
                self.found[name]["rates"].append(turn.rate)
                self.found[name]["seconds"].append(turn.seconds)

    def _lap(self, name: str) -> Lap | None:
        try:
            return self.teams[name].lap(self.patience)
        except Failed as error:
            self.tell(f"{self.methods[name].title}: {error}")
            self.found[name] = {"error": str(error)}
            self.teams.pop(name).end()
            return None


def ask(task: str, device: str, **job: Any) -> Iterator[dict[str, Any]]:
    """What a process answers that does one of the tasks of `speed.worker`, on one core or beside a GPU on all.

    Raises:
        Failed: it could not.
    """
    process = Process({"task": task, "device": device, "cores": cores()[:1] if device == "cpu" else cores(), **job})
    try:
        while answer := process.hear():
            yield answer
    finally:
        process.end()


def measure(
    cell: Cell,
    methods: Mapping[str, Method],
    *,
    device: str,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
    patience: float | None = None,
) -> dict[str, Any]:
    """Measure one cell: after a first epoch that is not counted, every method in turn trains an epoch a round.

    Args:
        cell: what to train.
        methods: by name.
        device: cpu or cuda.
        rounds: that count.
        seconds: that an epoch lasts when one process trains it by the usual loop: all train as many images.
        tell: takes lines on methods that fail.
        patience: as in `Contest`.

    Returns:
        The cell, how it was trained, and what `Contest` found of each method.
    """
    (plan,) = ask("plan", device, cell=list(cell), seconds=seconds)
    job = {"cell": list(cell), "device": device, "images": plan["images"], "lanes": plan["lanes"]}
    with Contest(methods, job, lambda line: tell(f"{cell.name}: {line}"), patience) as contest:
        contest.warm_up()
        for _ in range(rounds):
            contest.round()
    target = {"target": cell.target(device)._asdict()}
    return {"cell": cell.name, **cell._asdict(), **plan, **target, "methods": contest.found}
