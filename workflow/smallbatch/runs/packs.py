"""Packs: which runs one job trains. Knows nothing of training; the cut depends on the study alone."""

import hashlib
import heapq
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from smallbatch.core.errors import UserError
from smallbatch.runs.store import Record, RunStore, digest_of
from smallbatch.study.experiments import Chosen, Experiment, Run, Study
from smallbatch.study.rates import BaseLr

Arriving = Mapping[str, Record]
"""The runs, by name, that are to be laid in the store before any is trained."""


@dataclass(frozen=True)
class Pack:
    """Runs of one experiment that one job trains, and a name made from them.

    experiment: the first of the study that has these runs.
    """

    experiment: str
    data: str
    runs: tuple[Run, ...]

    @cached_property
    def name(self) -> str:
        """The experiment, the range of m, and a hash over the runs; a rate that is chosen later is not in it."""
        sizes = sorted({run.batch_size for run in self.runs})
        span = f"m{sizes[0]}" if len(sizes) == 1 else f"m{sizes[0]}to{sizes[-1]}"
        text = json.dumps([run.settings for run in self.runs], sort_keys=True)
        return f"{self.experiment}_{span}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def with_rates(runs: Sequence[Run], chosen: Chosen | None) -> list[Run]:
    """The runs with the rates that were chosen for their batch sizes, where they wait for such.

    Raises:
        UserError: no rate was chosen for one of them.
    """
    if chosen is None:
        return list(runs)
    return [replace(run, base_lr=_chosen(run, chosen)) if run.base_lr is None else run for run in runs]


def _chosen(run: Run, chosen: Chosen) -> BaseLr:
    if run.batch_size not in chosen:
        raise UserError(
            f"base_lrs.best_of: no rate is known for m = {run.batch_size}: none that it could be has a result"
        )
    return chosen[run.batch_size]


def lane_key(run: Run) -> tuple[int, int, str]:
    """What compatible runs have in common, which can be lanes of one group: all but base learning rate and seed."""
    return (run.batch_size, run.bn_batch_size, json.dumps(run.settings | {"base_lr": 0, "seed": 0}, sort_keys=True))


def relative_cost(run: Run) -> float:
    """A run's cost in arbitrary units, where speeds were not measured.

    Small batches cost more (on digits 1 + 3/m), and measuring the variance at a batch size about as much as training.
    """
    return run.setting.epochs * (1 + 3 / run.batch_size) * (1 + len(run.setting.variance_batch_sizes))


def cut(study: Study, runs_per_pack: int) -> dict[str, Pack]:
    """Cut a study's runs into packs, by name; a run that experiments share is in a pack of the first of them."""
    packs: dict[str, Pack] = {}
    taken: set[tuple[Run, tuple[str, ...]]] = set()
    for e in study.experiments.values():
        untaken = [run for run in e.runs() if _planned(e, run) not in taken]
        taken.update(_planned(e, run) for run in untaken)
        for runs in split(untaken, math.ceil(len(untaken) / runs_per_pack)):
            pack = Pack(e.name, e.setting.data, runs)
            packs[pack.name] = pack
    return packs


def _planned(e: Experiment, run: Run) -> tuple[Run, tuple[str, ...]]:
    """A run of an experiment as it is planned: with the experiments that its rate is chosen from, if it is, later."""
    return run, tuple(e.best_of) if run.base_lr is None else ()


def split(runs: Sequence[Run], count: int, cost: Callable[[Run], float] = relative_cost) -> list[tuple[Run, ...]]:
    """Split runs into `count` parts of about equal costs, or fewer: compatible runs stay together.

    The costliest group of them goes to the cheapest part so far (longest processing time first), so that the last ones
    end together.
    """
    groups = [list(group) for _, group in itertools.groupby(sorted(runs, key=lane_key), key=lane_key)]
    groups.sort(key=lambda group: -sum(map(cost, group)))
    heap: list[tuple[float, int, list[Run]]] = [(0.0, i, []) for i in range(min(len(groups), count))]
    for group in groups:
        load, i, taken = heapq.heappop(heap)
        heapq.heappush(heap, (load + sum(map(cost, group)), i, taken + group))
    return [tuple(taken) for _, _, taken in sorted(heap, key=lambda entry: entry[1])]


class Pending(NamedTuple):
    """What an experiment still needs.

    packs: that have to train something of it.
    records: the digest of its runs' records, see `store.digest_of`; empty while some are missing.
    damaged: name of each run that is there and has to be trained again -> what is wrong with it, in words.
    """

    packs: list[Pack]
    records: str
    damaged: dict[str, str]

    def outdates(self, shown: str | None) -> bool:
        """Whether tables have to be made again that show records of this digest; None: it is not known which."""
        return bool(self.packs) or self.records != shown


class Plan:
    """What a study still has to train: its packs, against what the run store has.

    Args:
        study: whose packs.
        runs_per_pack: about how many runs one job trains.
        store: the runs that exist.
    """

    def __init__(self, study: Study, runs_per_pack: int, store: RunStore) -> None:
        self.study, self.store = study, store
        self.packs = cut(study, runs_per_pack)
        self._owner = {
            _planned(study.experiments[pack.experiment], run): pack for pack in self.packs.values() for run in pack.runs
        }

    @cached_property
    def rate_sources(self) -> frozenset[str]:
        """Names of the packs with runs that other experiments take their rates from."""
        sources = [self.study.experiments[name] for e in self.study.experiments.values() for name in e.best_of]
        return frozenset(self._owner[_planned(source, run)].name for source in sources for run in source.runs())

    def pending(
        self, experiment: str, fingerprint: str, chosen: Chosen | None = None, arriving: Arriving | None = None
    ) -> Pending:
        """What an experiment still needs.

        A run is there when its folder is whole, whatever its modification time.

        Args:
            experiment: of the study.
            fingerprint: of its data.
            chosen: its rates, where it takes the best of other experiments.
            arriving: the runs that are to be laid in the store before any is trained.
        """
        e = self.study.experiments[experiment]
        planned, runs = list(e.runs()), list(e.runs(chosen))
        coming = {name: record.digest for name, record in (arriving or {}).items()}
        digests = [coming.get(run.name(fingerprint)) or self.store.digest(run, fingerprint) for run in runs]
        missing = [index for index, digest in enumerate(digests) if digest is None]
        packs = self._packs_of(e, [planned[index] for index in missing])
        _, damaged = self.store.ends({runs[index].name(fingerprint) for index in missing})
        return Pending(packs, "" if packs else digest_of(filter(None, digests)), damaged)

    def expected(
        self,
        experiment: str,
        fingerprints: Collection[str],
        chosen: Chosen | None = None,
        arriving: Arriving | None = None,
    ) -> list[Pack]:
        """The packs that will have to train something of an experiment, as far as that is known before data and rates.

        A run counts as there that is there on some such data, and at some rate that it may get.

        Args:
            experiment: of the study.
            fingerprints: of the data that its data set may be.
            chosen: its rates, where it takes the best of other experiments and they are known.
            arriving: the runs that are to be laid in the store before any is trained.
        """
        e, coming = self.study.experiments[experiment], arriving or {}

        def is_there(run: Run) -> bool:
            names = itertools.product(self._at_each_rate(e, run), fingerprints)
            return any(one.name(data) in coming or self.store.has(one, data) for one, data in names)

        pairs = zip(e.runs(), e.runs(chosen), strict=True)
        return self._packs_of(e, [planned for planned, run in pairs if not is_there(run)])

    def _at_each_rate(self, e: Experiment, run: Run) -> list[Run]:
        """A run; where its rate is not chosen yet, one at each of those that it is chosen from."""
        if run.base_lr is not None:
            return [run]
        bases = [self.study.experiments[name] for name in e.best_of]
        rates = dict.fromkeys(rate for base in bases if run.batch_size in base.batch_sizes for rate in base.base_lrs)
        return [replace(run, base_lr=rate) for rate in rates]

    def _packs_of(self, e: Experiment, runs: Iterable[Run]) -> list[Pack]:
        return [self.packs[name] for name in dict.fromkeys(self._owner[_planned(e, run)].name for run in runs)]
