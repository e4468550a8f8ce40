"""SIGKILL at random moments: `python tests/faults/kills.py` kills 100 trainings and 20 workflows, says what was lost.

What is trained in the end is compared, bit for bit, with what was trained undisturbed; no temporary file may stay. A
training is a fork of this process, which has loaded the library, so that kills hit training and not loading; some kill
themselves in the midst of writing a checkpoint or a record.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # what pytest does for its own tests

import torch
from helpers import a_run, made_data
from matrix import ALL, call, finished, outcome, scaffold

from smallbatch.runs.bundles import import_published
from smallbatch.runs.records import METRICS_FILE, VARIANCE_FILE
from smallbatch.runs.store import RunStore
from smallbatch.training import checkpoints
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.engines.native.engine import NativeEngine
from smallbatch.training.pack import train_pack
from smallbatch.training.resources import processor_binding

INTERVAL = 0.05
"""Seconds between checkpoints of the trainings that are killed; in real ones `checkpoints.INTERVAL`, 45."""

GRACE = 15.0
"""Seconds beyond the interval that may be lost: a minute in all, with the real one."""

FOLDERS = ("data", "results", "paper_figures")
"""Where a workflow makes files."""

RUNS = [
    *(a_run(model="resnet8", norm="batch", b=2, warmup=True, epochs=6, base_lr=2**-9, seed=seed) for seed in (1, 2)),
    *(a_run(momentum=0.5, variance_batch_sizes=(2, 8), epochs=6, base_lr=2**-9, seed=seed) for seed in (1, 2)),
    a_run(epochs=6, base_lr=2.0**40),
]
"""Batch normalisation in sub-batches, with warm-up; momentum, with the variance measured; one that diverges."""


@dataclass
class Tally:
    """What came of killing.

    kills: processes that were killed before their end.
    lost: the most seconds of work that a kill took.
    wrong: what was other in the end than where nothing was killed, or was left behind.
    """

    kills: int = 0
    lost: float = 0.0
    wrong: list[str] = field(default_factory=list)


def files(results: Path) -> dict[Path, bytes]:
    """What a training is for, by its path: metrics, variances and weights."""
    kinds = METRICS_FILE, VARIANCE_FILE, "*.safetensors"
    found = [path for kind in kinds for path in results.rglob(kind) if not _temporary(path.relative_to(results))]
    return {path.relative_to(results): path.read_bytes() for path in found}


def _temporary(path: Path) -> bool:
    return any(part.startswith(".") or ".damaged-" in part for part in path.parts)


def a_day_later(folder: Path) -> None:
    """Let temporary files be so old that nobody can still be writing them."""
    for path in folder.rglob(".*"):
        os.utime(path, (time.time() - 86_400,) * 2)


def left_over(*folders: Path) -> list[str]:
    """Temporary, damaged and half-written files, and checkpoints of what is finished."""
    found = [path for folder in folders for path in folder.rglob("*")]
    return [str(path) for path in found if _temporary(Path(path.name)) or path.suffix == ".pt"]


# Trainings


def train(data: Path, results: Path) -> None:
    """Train all runs with checkpoints in quick succession."""
    torch.set_num_threads(1)
    checkpoints.INTERVAL = INTERVAL
    EagerEngine.steps = NativeEngine.steps = 4  # updates between looks at the clock
    processor_binding.bound_processor = contextlib.nullcontext  # a killed sibling's processor is no matter here
    import_published(RunStore(results))  # as each call does first, which also clears up
    train_pack(RUNS, data, results, device="cpu", lanes=2, keep_weights="all")


def forked(work: Callable[[], None]) -> int:
    """Begin some work in a fork of this process; returns that."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        work()
        status = 0
    finally:
        os._exit(status)


def dies_while_writing(at: int) -> None:
    """Let this process kill itself at its `at`-th step of making a file last: before it is whole, named, or seen."""
    count = iter(range(at, -1, -1))
    for name in ("fsync", "replace"):
        own = getattr(os, name)

        def instead(*arguments: object, own: Callable = own) -> object:
            if next(count, 0) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return own(*arguments)

        setattr(os, name, instead)


def train_and_kill(data: Path, results: Path, seconds: float, draws: random.Random) -> tuple[int, float]:
    """Train to the end, killed again and again; returns how often, and the most seconds that were lost."""
    kills, lost = 0, 0.0
    while True:
        writing = draws.random() < 0.3
        # Ever later, as what was begun must get to its next checkpoint some time.
        at, moment = draws.randrange(2 + 4 * kills, 40 + 4 * kills), draws.uniform(0.02, seconds * (0.5 + kills / 4))
        began = time.time()

        def work(writing: bool = writing, at: int = at) -> None:
            if writing:
                dies_while_writing(at)
            train(data, results)

        child = forked(work)
        if not writing:
            deadline = time.monotonic() + moment
            while time.monotonic() < deadline and not _ended(child):
                time.sleep(0.002)
            if not _ended(child):
                os.kill(child, signal.SIGKILL)
        died = time.time()
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise AssertionError("a training that was called again failed")
            return kills, lost
        kills += 1
        lost = max(lost, died - max([began, *saved(results)]))


def _ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def saved(results: Path) -> Iterator[float]:
    """When each checkpoint and record that is there was written."""
    for kind in ("checkpoints/*/*.pt", "runs/*/run.json"):
        for path in results.glob(kind):
            with contextlib.suppress(FileNotFoundError):
                yield path.stat().st_mtime


def kill_trainings(folder: Path, kills: int, seed: int = 0) -> Tally:
    """Kill trainings until there were so many kills, each training trained to its end."""
    data, draws, tally = made_data(folder / "data" / "made", train=80), random.Random(seed), Tally()
    began = time.monotonic()
    os.waitpid(forked(lambda: train(data, folder / "whole")), 0)
    seconds, whole = time.monotonic() - began, files(folder / "whole")
    assert len(whole) == 11, "five runs, of which two have measured variances and one has no weights"
    while tally.kills < kills:
        results = folder / "killed"
        made, lost = train_and_kill(data, results, seconds, draws)
        tally.kills, tally.lost = tally.kills + made, max(tally.lost, lost)
        if files(results) != whole:
            tally.wrong.append(f"other bits after {made} kills")
        a_day_later(results)
        os.waitpid(forked(lambda results=results: train(data, results)), 0)
        if left := left_over(results):
            tally.wrong.append(f"left behind: {', '.join(left)}")
        lost = f"at most {tally.lost:.1f} s lost with checkpoints {INTERVAL} s apart"
        print(f"{tally.kills} kills of trainings, {lost}, wrong: {tally.wrong or 'nothing'}", flush=True)
        shutil.rmtree(results)
    return tally


# Workflows


def kill_workflows(folder: Path, kills: int, seed: int = 0) -> Tally:
    """Kill `snakemake all`, with all its processes, until there were so many kills."""
    draws, tally = random.Random(seed), Tally()
    began = time.monotonic()
    whole = outcome(finished(folder / "whole"))
    seconds = (time.monotonic() - began) / 2  # the rest is another call
    while tally.kills < kills:
        project, made = folder / "killed", 0
        scaffold(project)
        shutil.copytree(folder / "whole" / ".cache", project / ".cache")
        while killed_within(project, draws.uniform(2, seconds)):
            made += 1
            unlock(project)
        tally.kills += made
        found = outcome(project)
        different = [name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name)]
        if different:
            tally.wrong.append(f"other bytes after {made} kills: {', '.join(different[:3])}")
        for name in FOLDERS:
            a_day_later(project / name)
        call(project, *ALL)
        if left := left_over(*map(project.joinpath, FOLDERS)):
            tally.wrong.append(f"left behind after {made} kills: {', '.join(left)}")
        print(f"{tally.kills} kills of workflows, wrong: {tally.wrong or 'nothing'}", flush=True)
        shutil.rmtree(project)
    return tally


def killed_within(project: Path, seconds: float) -> bool:
    """Call the workflow and kill all its processes after some seconds; false if it had ended by then."""
    places = os.environ | {"XDG_CACHE_HOME": str(project / ".cache"), "PYTHONPATH": str(project / "workflow")}
    with open(project / "said.txt", "wb") as said:
        workflow = subprocess.Popen(
            [sys.executable, *ALL], cwd=project, env=places, stdout=said, stderr=said, start_new_session=True
        )
    try:
        status = workflow.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(workflow.pid, signal.SIGKILL)
        workflow.wait()
        return True
    assert status == 0, (project / "said.txt").read_text()
    return False


def unlock(project: Path) -> None:
    """Do what Snakemake says of a folder whose last call was killed."""
    call(project, *ALL[:-2], "--unlock")


def main() -> None:
    """Kill as the command line says; fails if anything was lost for good."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, default=100, help="kills of trainings")
    parser.add_argument("--workflows", type=int, default=20, help="kills of workflows")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        if arguments.trainings:
            tally = kill_trainings(Path(folder), arguments.trainings, arguments.seed)
            print(
                f"{tally.kills} kills of trainings, at most {tally.lost:.1f} s lost; checkpoints are {INTERVAL} s apart"
            )
            wrong += tally.wrong + ["more than a minute can be lost"] * (tally.lost > INTERVAL + GRACE)
        if arguments.workflows:
            wrong += kill_workflows(Path(folder), arguments.workflows, arguments.seed).wrong
    print("\n".join(wrong) or "The same bits as without kills, and nothing left behind.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
