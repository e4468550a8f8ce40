"""Packs: which runs one job trains. Knows nothing of training; the cut depends on the study alone."""

import hashlib
import heapq
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from smallbatch.study import Run


@dataclass(frozen=True)
class Pack:
    """Runs of one data set that one job trains, and a name made from them."""

    data: str
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The data set, the range of m, and a hash over the runs."""
        sizes = sorted({run.batch_size for run in self.runs})
        span = f"m{sizes[0]}" if len(sizes) == 1 else f"m{sizes[0]}to{sizes[-1]}"
        text = json.dumps([run.settings for run in self.runs], sort_keys=True)
        return f"{self.data}_{span}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def row(run: Run) -> tuple:
    """What runs must share to be lanes of one group: all but base learning rate and seed. Sortable."""
    return (run.batch_size, run.bn_batch_size, json.dumps(run.settings | {"base_lr": 0, "seed": 0}, sort_keys=True))


def cost(run: Run, images: int = 1) -> float:
    """A run's cost in arbitrary units: small batches cost more an image (measured on digits: 1 + 8/m).

    Args:
        run: a run.
        images: stands for the training images of a run that takes them all.
    """
    return run.setting.epochs * (run.setting.train_images or images) * (1 + 8 / run.batch_size)


def make_packs(runs: Sequence[Run], runs_per_pack: int) -> list[Pack]:
    """Cut runs into packs of about `runs_per_pack` and about equal cost; the rows of lanes stay whole.

    The costliest row goes to the cheapest pack so far (longest processing time first), so that the last jobs of a study
    end together.
    """
    packs = []
    for data, members in itertools.groupby(
        sorted(runs, key=lambda run: run.setting.data), lambda run: run.setting.data
    ):
        rows = [list(group) for _, group in itertools.groupby(sorted(members, key=row), key=row)]
        # How many images there are in all is not known yet; no part is larger.
        images = max(run.setting.train_images or 1 for group in rows for run in group)
        loads = {id(group): sum(cost(run, images) for run in group) for group in rows}
        rows.sort(key=lambda group: -loads[id(group)])
        count = min(len(rows), math.ceil(sum(map(len, rows)) / runs_per_pack))
        heap: list[tuple[float, int, list[Run]]] = [(0.0, i, []) for i in range(count)]
        for group in rows:
            load, i, taken = heapq.heappop(heap)
            heapq.heappush(heap, (load + loads[id(group)], i, taken + group))
        packs += [Pack(data, tuple(taken)) for _, _, taken in sorted(heap, key=lambda entry: entry[1])]
    return packs
