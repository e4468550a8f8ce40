"""Memory, time and priority that a training job requests, from the timings of `snakemake cost` where they exist."""

import math
from collections.abc import Sequence

from smallbatch.core.console import clock
from smallbatch.estimate.timings import Timings
from smallbatch.runs.packs import relative_cost
from smallbatch.study.experiments import Run

MINUTES = (10, 20, 30, 60, 120, 240, 480, 960, 1440)
"""Time limits that jobs may request: few, so that many packs share one kind of request. A day at most: a longer
training continues in another job."""

UNMEASURED = 240
"""Minutes that a job requests where speeds were not measured."""


def memory_mb(runs: Sequence[Run], timings: Timings, side_by_side: int, attempt: int) -> int:
    """MB (10^6 bytes) that a job requests, doubled at each attempt, since the previous request was too small.

    A quarter more than was measured, in steps of 500; if nothing was, 2,000 for each 256 examples of the largest m,
    which is enough for ResNet-32 on CIFAR.

    Args:
        runs: the runs that the job trains, of one experiment.
        timings: the measured timings.
        side_by_side: the number of parts of the runs that are trained at the same time.
        attempt: the number of the attempt, from 1.
    """
    known = timings.memory(runs) if timings.know(runs) else 0
    one = 500 * math.ceil(1.25 * known / 500e6) or 2000 * max(1, max(run.batch_size for run in runs) // 256)
    doublings: int = 2 ** (attempt - 1)
    return one * side_by_side * doublings


def minutes(runs: Sequence[Run], timings: Timings, side_by_side: int, attempt: int) -> int:
    """Minutes that a job requests: five plus twice the measured time, rounded up to `MINUTES`, times the attempt.

    Args:
        runs: the runs that the job trains, of one experiment.
        timings: the measured timings.
        side_by_side: the number of parts of the runs that are trained at the same time.
        attempt: the number of the attempt, from 1.
    """
    needed = 5 + 2 * timings.seconds(runs) / 60 / side_by_side if timings.know(runs) else UNMEASURED
    return min(MINUTES[-1], attempt * next((step for step in MINUTES if step >= needed), MINUTES[-1]))


def work_in_words(runs: Sequence[Run], timings: Timings, side_by_side: int) -> str:
    """The work of a job in words: the number of runs and, where speeds were measured, the time that they take.

    Args:
        runs: the runs that the job trains, of one experiment.
        timings: the measured timings.
        side_by_side: the number of parts of the runs that are trained at the same time.
    """
    count = f"{len(runs)} run{'s' * (len(runs) > 1)}"
    return f"{count}, about {clock(timings.seconds(runs) / side_by_side)}" if timings.know(runs) else count


def priority(runs: Sequence[Run], timings: Timings, *, awaited: bool) -> float:
    """A job's priority, highest first: runs that other trainings wait for, then long jobs before short ones, so that
    the last ones end together.

    Below zero, the priority of all other jobs: tables and figures are made as soon as possible.

    Args:
        runs: the runs that the job trains, of one experiment.
        timings: the measured timings.
        awaited: whether other experiments take their rates from these runs.
    """
    load = timings.seconds(runs) if timings.know(runs) else sum(map(relative_cost, runs))
    return -1 / (1 + load) - (not awaited)
