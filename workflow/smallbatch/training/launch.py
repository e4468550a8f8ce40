"""Training a pack in one process or, through `torchrun`, in several."""

import contextlib
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smallbatch.errors import Stopped, UserError
from smallbatch.files import read_json, write_json
from smallbatch.study import Run
from smallbatch.training import stopping
from smallbatch.word import leaving_word

LIBRARY = Path(__file__).parents[2]
JOB, TRAINED, STOPPED, ERROR, NOISE = "job.json", "trained.json", "stopped.json", "error.txt", "stderr.txt"

log = logging.getLogger(__name__)


@stopping.listening()
def train(
    processes: int,
    runs: Sequence[Run],
    data_folder: Path,
    results: Path,
    *,
    word: Path | None = None,
    log_file: str | None = None,
    **options: Any,
) -> int:
    """Train what is missing of a pack; returns how many runs that was.

    Args:
        processes: that share each mini-batch, on this machine; more machines: call `train_pack` under `torchrun`.
        runs: of one data set.
        data_folder: its prepared arrays.
        results: where runs and checkpoints go.
        word: the file in which word is left of the training; none: nowhere.
        log_file: what the word says where to read on; none: a terminal.
        options: of `smallbatch.training.pack.train_pack`.

    Raises:
        UserError: as `train_pack`; or a process ended early.
        Stopped: a signal asked for it.
    """
    with leaving_word(word, runs, data_folder, log_file):
        return _launch(processes, runs, data_folder, results, word=word and str(word), **options)


def _launch(processes: int, runs: Sequence[Run], data_folder: Path, results: Path, **options: Any) -> int:
    if processes == 1:
        from smallbatch.training.pack import train_pack  # imports torch, which takes seconds

        return train_pack(runs, data_folder, results, **options)
    job = {"runs": [run.settings for run in runs], "data": str(data_folder), "results": str(results)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / JOB, job | {"options": options})
        if _run_all(processes, folder):
            raise _reason(folder)
        return read_json(folder / TRAINED)


def _run_all(processes: int, folder: Path) -> int:
    """Run the processes to their end, passing on the lines they print; returns torchrun's exit code."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *torchrun, "-m", __name__, str(folder)]
    path = os.pathsep.join(filter(None, [str(LIBRARY), os.environ.get("PYTHONPATH")]))
    with (
        open(folder / NOISE, "wb") as noise,
        subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=noise, text=True
        ) as process,
        # Torchrun tells its processes, and gives them half a minute.
        stopping.listening(process.terminate),
    ):
        try:
            # To the end of the last process, which may outlive torchrun.
            for line in process.stdout:
                log.info("%s", line.rstrip())
        except BaseException:
            process.terminate()
            raise
    return process.returncode


def _reason(folder: Path) -> Stopped | UserError:
    """Why the processes ended, in one line: a signal comes first, since it leaves the others without a peer."""
    if (folder / STOPPED).exists():
        name, place = read_json(folder / STOPPED)
        return Stopped(stopping.asked() or name, place)
    noise = (folder / NOISE).read_text(errors="replace")
    signals = re.search(r"Signal \d+ \((?!SIGTERM)(\w+)\)", noise)
    if not signals and (folder / ERROR).exists():
        return UserError((folder / ERROR).read_text())
    if name := stopping.asked():
        return Stopped(name)
    told = f"by {signals[1]}" if signals else next(reversed(noise.split("\n")[:-1]), "without a word")
    return UserError(f"a process of the training ended early ({told}); call again: it goes on from the checkpoint")


@stopping.listening()
def main() -> None:
    """One of the processes: train what the job in the folder of the command line says."""
    folder, leads = Path(sys.argv[1]), os.environ["RANK"] == "0"
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("smallbatch")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        trained = _train(folder)
    except Stopped as stop:
        if leads:
            write_json(folder / STOPPED, stop.args)
        sys.exit(1)
    except UserError as error:
        _tell(folder, str(error))
        sys.exit(1)
    except Exception as error:
        if not stopping.asked():  # else the others have stopped and left this one alone
            text = str(error).partition("\n")[0]
            _tell(folder, f"process {os.environ['RANK']} of the training failed: {type(error).__name__}: {text}")
        raise
    if leads:
        write_json(folder / TRAINED, trained)


def _train(folder: Path) -> int:
    import torch.distributed as dist

    from smallbatch.training.pack import train_pack

    job = read_json(folder / JOB)
    runs = [Run.from_settings(settings) for settings in job["runs"]]
    trained = train_pack(runs, Path(job["data"]), Path(job["results"]), **job["options"])
    dist.destroy_process_group()
    return trained


def _tell(folder: Path, text: str) -> None:
    """Leave word of what went wrong; the first process to do so is the one that knows."""
    with contextlib.suppress(FileExistsError), open(folder / ERROR, "x") as file:
        file.write(text)


if __name__ == "__main__":
    main()
