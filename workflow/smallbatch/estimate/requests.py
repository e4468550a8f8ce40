"""What a job that trains a pack asks for: memory, time, and its turn; by what `snakemake cost` measured, if it did."""

import math
from collections.abc import Sequence

from smallbatch.core.console import clock
from smallbatch.estimate.timings import Timings
from smallbatch.runs.packs import relative_cost
from smallbatch.study.experiments import Run

MINUTES = (10, 20, 30, 60, 120, 240, 480, 960, 1440)
"""That a job may ask for: a cluster is not to be asked for as many kinds of jobs as there are packs. A day at most:
what is not through by then goes on in another job."""

UNMEASURED = 240
"""Minutes that a job asks for where speeds were not measured."""


def memory_mb(runs: Sequence[Run], timings: Timings, side_by_side: int, attempt: int) -> int:
    """MB (10^6 bytes) that a job may take, doubled at each attempt, for those before were too few.

    A quarter more than was measured, in steps of 500; else 2,000 for each 256 examples of the largest m, which does for
    ResNet-32 on CIFAR.

    Args:
        runs: of one experiment, that the job trains.
        timings: what was measured.
        side_by_side: parts of the runs that are trained at the same time.
        attempt: counted from 1.
    """
    known = timings.memory(runs) if timings.know(runs) else 0
    one = 500 * math.ceil(1.25 * known / 500e6) or 2000 * max(1, max(run.batch_size for run in runs) // 256)
    doublings: int = 2 ** (attempt - 1)
    return one * side_by_side * doublings


def minutes(runs: Sequence[Run], timings: Timings, side_by_side: int, attempt: int) -> int:
    """Minutes that a job may take, so many times as many as its attempt: five and twice what was measured.

    Args:
        runs: of one experiment, that the job trains.
        timings: what was measured.
        side_by_side: parts of the runs that are trained at the same time.
        attempt: counted from 1.
    """
    needed = 5 + 2 * timings.seconds(runs) / 60 / side_by_side if timings.know(runs) else UNMEASURED
    return min(MINUTES[-1], attempt * next((step for step in MINUTES if step >= needed), MINUTES[-1]))


def estimate(runs: Sequence[Run], timings: Timings, side_by_side: int) -> str:
    """How much a job has to do, in words: runs, and where speeds were measured the time that they take.

    Args:
        runs: of one experiment, that the job trains.
        timings: what was measured.
        side_by_side: parts of the runs that are trained at the same time.
    """
    count = f"{len(runs)} run{'s' * (len(runs) > 1)}"
    return f"{count}, about {clock(timings.seconds(runs) / side_by_side)}" if timings.know(runs) else count


def priority(runs: Sequence[Run], timings: Timings, *, awaited: bool) -> float:
    """A job's turn, the highest first: what other trainings wait for, then long before short, so that the last ones end
    together.

    Below zero, the priority of the rest: tables and figures are made as soon as they can be.

    Args:
        runs: of one experiment, that the job trains.
        timings: what was measured.
        awaited: whether others take their rates from these runs.
    """
    load = timings.seconds(runs) if timings.know(runs) else sum(map(relative_cost, runs))
    return -1 / (1 + load) - (not awaited)
