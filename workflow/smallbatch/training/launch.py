"""Trains a pack in this process or in others: parts of it side by side, or all of it through `torchrun`."""

import contextlib
import io
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smallbatch.core import signals
from smallbatch.core.errors import Stopped, UserError
from smallbatch.core.files import read_json, write_json
from smallbatch.data.prepared import META, read_meta
from smallbatch.runs.heartbeat import keeping_heartbeat
from smallbatch.runs.packs import relative_cost, split_by_cost
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Run

LIBRARY = Path(__file__).parents[2]
PEERS = {"RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""Environment variables that describe peers of a training; a container on several nodes sets them for any program."""

JOB, TRAINED, STOPPED, ERROR, STDERR = "job.json", "trained.json", "stopped.json", "error.txt", "stderr.txt"

log = logging.getLogger(__name__)


@signals.catching_signals()
def train(
    runs: Sequence[Run],
    data_folder: Path,
    results: Path,
    training: Mapping[str, Any],
    *,
    memory_mb: int | None = None,
    heartbeat: Path | None = None,
    log_file: str | None = None,
) -> int:
    """Train the missing runs of a pack; returns their number.

    Args:
        runs: runs of one data set.
        data_folder: folder of its prepared arrays.
        results: folder for runs and checkpoints.
        training: `training` settings of config/config.yaml. To share mini-batches between machines, call `train_pack`
            under `torchrun`.
        memory_mb: memory limit of all processes together, see `train_pack`.
        heartbeat: heartbeat file; parts of the pack that are trained side by side have files beside it; None: no file.
        log_file: log file that the heartbeat names; None for a terminal.

    Raises:
        UserError: as in `train_pack`, or a process ended early; the other processes complete their part all the same.
        Stopped: a signal requested it.
    """
    _forget_peers()
    sub_packs: list[Sequence[Run]] = [runs]
    if training["side_by_side"] > 1:
        store, fingerprint = RunStore(results), read_meta(data_folder / META).fingerprint
        sub_packs = list(
            split_by_cost(
                runs, training["side_by_side"], lambda run: 0 if store.has(run, fingerprint) else relative_cost(run)
            )
        )
        memory_mb = memory_mb and memory_mb // len(sub_packs)
    options = {key: training[key] for key in ("device", "lanes", "keep_weights", "images_at_once")}
    options |= {"memory_mb": memory_mb}
    heartbeats = [
        heartbeat and (heartbeat if len(sub_packs) == 1 else heartbeat.with_suffix(f".{index}.json"))
        for index in range(len(sub_packs))
    ]
    with contextlib.ExitStack() as heartbeats_kept:
        for sub_pack, path in zip(sub_packs, heartbeats, strict=True):
            heartbeats_kept.enter_context(keeping_heartbeat(path, sub_pack, data_folder, log_file))
        if training["processes"] > 1 or training["side_by_side"] > 1:
            return _train_all(sub_packs, heartbeats, data_folder, results, options, training["processes"])
        from smallbatch.training.pack import train_pack  # imports torch, which takes seconds

        file = None if heartbeat is None else str(heartbeat)
        return train_pack(runs, data_folder, results, heartbeat=file, **options)


def _forget_peers() -> None:
    """Remove variables that describe peers of another training, for which this one would wait, and torchrun's PET_*."""
    for variable in [name for name in os.environ if name in PEERS or name.startswith("PET_")]:
        del os.environ[variable]


def _train_all(
    sub_packs: Sequence[Sequence[Run]],
    heartbeats: Sequence[Path | None],
    data_folder: Path,
    results: Path,
    options: dict[str, Any],
    processes: int,
) -> int:
    """Train each part of a pack in one or several processes of its own; returns how many runs were trained."""
    job = {"data": str(data_folder), "results": str(results)}
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, str(index)) for index in range(len(sub_packs))]
        for folder, runs, heartbeat in zip(folders, sub_packs, heartbeats, strict=True):
            details = {
                "runs": [run.settings for run in runs],
                "options": options | {"heartbeat": heartbeat and str(heartbeat)},
            }
            write_json(folder / JOB, job | details)
        if processes > 1:
            torchrun = ("torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", __name__)
            children = [_Child(folder, torchrun) for folder in folders]
        else:
            # The variables by which torchrun numbers the processes of a machine, which has a GPU for each.
            count = str(len(sub_packs))
            ranks = [{"LOCAL_RANK": str(index), "LOCAL_WORLD_SIZE": count} for index in range(len(sub_packs))]
            children = [_Child(folder, (__name__,), rank) for folder, rank in zip(folders, ranks, strict=True)]
        _run(children)
        return _sum([child.outcome() for child in children])


@dataclass
class _Child:
    """A process that trains the job described in a folder, and writes its result there.

    folder: folder of the job.
    module: module that Python runs, with arguments.
    environment: environment variables added to those of this process.
    """

    folder: Path
    module: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, lines: int) -> subprocess.Popen[bytes]:
        """Start the process, with its output going to the file descriptor `lines`."""
        path = os.pathsep.join(filter(None, [str(LIBRARY), os.environ.get("PYTHONPATH")]))
        variables = os.environ | self.environment | {"PYTHONPATH": path}
        command = [sys.executable, "-m", *self.module, str(self.folder)]
        with open(self.folder / STDERR, "wb") as stderr:
            self.process = subprocess.Popen(command, env=variables, stdout=lines, stderr=stderr)
        return self.process

    def end(self) -> None:
        """Ask the process to stop, if it was started; torchrun gives its own processes half a minute."""
        if self.process:
            self.process.terminate()

    def outcome(self) -> int | Stopped | UserError:
        """The number of runs trained, or the reason for an early end; to be called after the process has ended."""
        code = None if self.process is None else self.process.returncode
        if code == 0:
            return int(read_json(self.folder / TRAINED))
        if (self.folder / STOPPED).exists():
            name, position = read_json(self.folder / STOPPED)
            return Stopped(signals.signal_received() or name, position)
        stderr = (self.folder / STDERR).read_text(encoding="utf-8", errors="replace")
        killed_by = _signal(code or 0, stderr)
        if not killed_by and (self.folder / ERROR).exists():
            return UserError((self.folder / ERROR).read_text(encoding="utf-8"))
        if name := signals.signal_received():
            return Stopped(name)
        reason = f"by {killed_by}" if killed_by else next(reversed(stderr.split("\n")[:-1]), "without a word")
        return UserError(
            f"a process of the training ended early ({reason}); call again: it goes on from the checkpoint"
        )


def _signal(code: int, stderr: str) -> str:
    """The signal that killed a process, or one of torchrun's processes, so that the others lost a peer; else empty."""
    if code < 0 and -code not in signals.SIGNALS:
        return signal.Signals(-code).name
    asking = "|".join(signal.Signals(number).name for number in signals.SIGNALS)
    found = re.search(rf"Signal \d+ \((?!{asking})(\w+)\)", stderr)
    return found[1] if found else ""


def _run(children: Sequence[_Child]) -> None:
    """Run children to their end, logging the lines they print and passing signals on to them."""
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8", errors="replace") as lines, contextlib.ExitStack() as started:

        def end() -> None:
            for child in children:
                child.end()

        try:
            with open(writing, "wb"):
                for child in children:
                    started.enter_context(child.start(writing))
            with signals.catching_signals(end):
                # Until the last process ends, which may outlive torchrun.
                for line in lines:
                    log.info("%s", line.rstrip())
        except BaseException:
            end()
            raise


def _sum(outcomes: Sequence[int | Stopped | UserError]) -> int:
    """The total number of runs trained; raises all reasons for an early end as one line."""
    # Without duplicates, since all may have the same error.
    errors = "; ".join(dict.fromkeys(str(outcome) for outcome in outcomes if isinstance(outcome, UserError)))
    stops = [outcome.args for outcome in outcomes if isinstance(outcome, Stopped)]
    if stops:
        if errors:
            log.error("error: %s", errors)
        raise Stopped(stops[0][0], " and ".join(position for _, position in stops if position))
    if errors:
        raise UserError(errors)
    return sum(outcome for outcome in outcomes if isinstance(outcome, int))


@signals.catching_signals()
def main() -> None:
    """Main function of a process: train the job in the folder given on the command line."""
    folder, rank = Path(sys.argv[1]), os.environ.get("RANK", "0")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # as the parent reads them
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("smallbatch")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        trained = _train(folder)
    except Stopped as stop:
        if rank == "0":
            write_json(folder / STOPPED, stop.args)
        sys.exit(1)
    except UserError as error:
        _write_error(folder, str(error))
        sys.exit(1)
    except Exception as error:
        if not signals.signal_received():  # otherwise the other processes have stopped and left this one alone
            text = str(error).partition("\n")[0]
            _write_error(folder, f"process {rank} of the training failed: {type(error).__name__}: {text}")
        raise
    if rank == "0":
        write_json(folder / TRAINED, trained)


def _train(folder: Path) -> int:
    import torch.distributed as dist

    from smallbatch.training.pack import train_pack

    job = read_json(folder / JOB)
    runs = [Run.from_settings(settings) for settings in job["runs"]]
    trained = train_pack(runs, Path(job["data"]), Path(job["results"]), **job["options"])
    if dist.is_initialized():
        dist.destroy_process_group()
    return trained


def _write_error(folder: Path, text: str) -> None:
    """Write the error; only the first process does so, as its error is the cause."""
    with contextlib.suppress(FileExistsError), open(folder / ERROR, "x", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
