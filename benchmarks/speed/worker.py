"""One process of a measurement: `python -m speed.worker`, told on its input and answering on its output, in JSON lines.

The first line is a job: `{"task": a function here or a trainer, "cores": [0], "device": "cpu", ...}`. Tasks of this
module answer once or more and end. A trainer answers when it is ready, and then trains an epoch for each line that it
gets and answers when it began and ended and how many images it trained; the end of its input ends it.
"""

import json
import math
import os
import sys
import time
from typing import Any, TextIO

from speed.cells import GROUPS, Cell


class Laps:
    """Between two epochs: answers what the last one took and waits for the word to begin the next, and the first.

    Args:
        answers: where answers go.
        images: of an epoch, of all lanes together.
    """

    def __init__(self, answers: TextIO, images: float) -> None:
        self.answers, self.images = answers, images
        answer(answers, ready=True)
        self._wait()

    def __call__(self, loss: float, amount: float | None = None) -> None:
        """An epoch ended with this mean loss; `amount` is what it did where that is no images."""
        ended = time.time()
        if not math.isfinite(loss):
            raise ArithmeticError("the loss is not finite, so speed means nothing")
        answer(self.answers, began=self.began, ended=ended, amount=amount or self.images, loss=loss)
        self._wait()

    def _wait(self) -> None:
        if not sys.stdin.readline():
            sys.exit()
        self.began = time.time()


def answer(to: TextIO, **values: Any) -> None:
    """Write one line of JSON."""
    print(json.dumps(values), file=to, flush=True)


def device(job: dict[str, Any], answers: TextIO) -> None:
    """Answers which device `auto`, `cpu` or `cuda` is, and what it is called."""
    from smallbatch.training.resources import device as devices

    chosen = devices.pick(job["device"])
    answer(answers, device=chosen.type, words=devices.describe(chosen))


def plan(job: dict[str, Any], answers: TextIO) -> None:
    """Answers what has to be known before a cell is measured: lanes, images of an epoch, operations an image."""
    from speed import trainers

    cell, seconds = Cell(*job["cell"]), job["seconds"]
    m, shape = cell.batch_size, GROUPS[cell.group].shape
    images = trainers.usual_speed(cell, job["device"], min(1.0, seconds)) * seconds
    (run,) = trainers.lane_runs(trainers.Work(cell, m))
    answer(
        answers,
        lanes=trainers.lanes_chosen(run, shape, job["device"]),
        images=m * max(4, round(images / m)),
        flops=trainers.flops_of_step(trainers.model_of(cell, 1), shape, m) / m,
    )


def figure1(job: dict[str, Any], answers: TextIO) -> None:
    """Answers for each row of Figure 1 how fast it is trained and tested."""
    from speed.figure1 import speeds

    for row in speeds(job["device"], job["seconds"]):
        answer(answers, **row)


def train(job: dict[str, Any], answers: TextIO) -> None:
    """Trains by the trainer that the job names."""
    from speed import trainers

    work = trainers.Work(Cell(*job["cell"]), job["images"], job["seed"], job["lanes"], job["device"])
    getattr(trainers, job["task"])(work, Laps(answers, work.images * work.lanes), **job["options"])


TASKS = {"device": device, "plan": plan, "figure1": figure1}


def serve(job: dict[str, Any], answers: TextIO) -> None:
    """Do what the job says."""
    import torch

    torch.set_num_threads(len(job["cores"]))
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, for all
    TASKS.get(job["task"], train)(job, answers)


def main() -> None:
    """Take a job and do it; what goes wrong is answered too."""
    job = json.loads(sys.stdin.readline())
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cores"])  # before torch starts its threads
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints does not disturb the answers
    try:
        serve(job, answers)
    except ModuleNotFoundError as error:
        answer(answers, error=f"{error.name} is not installed" if error.name else str(error))
    except Exception as error:
        answer(answers, error=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        raise


if __name__ == "__main__":
    main()
