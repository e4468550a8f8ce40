"""Packs: the runs that one job trains. Independent of training; the cut into packs depends on the study alone."""

import hashlib
import heapq
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from smallbatch.core.errors import UserError
from smallbatch.runs.records import Record, digest_of
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Chosen, Experiment, Run, Study
from smallbatch.study.rates import BaseLr

PublishedRuns = Mapping[str, Record]
"""Run name -> record of the published runs that are to be unpacked into the store before any run is trained."""


@dataclass(frozen=True)
class Pack:
    """Runs of one experiment that one job trains, and a name made from them.

    experiment: the study's first experiment that has these runs.
    """

    experiment: str
    data: str
    runs: tuple[Run, ...]

    @cached_property
    def name(self) -> str:
        """The experiment, the range of m, and a hash over the runs, without rates that are chosen later."""
        sizes = sorted({run.batch_size for run in self.runs})
        span = f"m{sizes[0]}" if len(sizes) == 1 else f"m{sizes[0]}to{sizes[-1]}"
        text = json.dumps([run.settings for run in self.runs], sort_keys=True)
        return f"{self.experiment}_{span}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def with_rates(runs: Sequence[Run], chosen: Chosen | None) -> list[Run]:
    """The runs, those without a rate with the one that was chosen for their batch size.

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
    """A key that is equal for compatible runs, which can be lanes of one group: all but base learning rate and seed."""
    return (run.batch_size, run.bn_batch_size, json.dumps(run.settings | {"base_lr": 0, "seed": 0}, sort_keys=True))


ASSUMED_IMAGES = 50_000
"""Training images of an epoch, where a length of training in images is compared with another in epochs."""


def relative_cost(run: Run) -> float:
    """A run's cost in arbitrary units, for use where speeds were not measured.

    Small batches cost more (on digits 1 + 3/m); measuring the variance at a batch size costs about as much as training.
    """
    epochs = run.setting.epochs or run.setting.images_and_epochs(run.batch_size, 0)[0] / ASSUMED_IMAGES
    return epochs * (1 + 3 / run.batch_size) * (1 + len(run.setting.variance_batch_sizes))


JOBS = 8
"""Jobs that a small study is cut into, so that as many processors have work."""

FEWEST, MOST = 8, 64
"""Runs of a pack: starting a job takes seconds, and one that is stopped should not have everything still before it."""


def pack_size(study: Study, training: Mapping[str, Any]) -> int:
    """About how many runs of a study one job trains.

    Args:
        study: the study.
        training: the key of `config.yaml`. With `runs_per_pack: auto` a job has a `JOBS`-th of the study's runs, from
            `FEWEST` to `MOST`; one that trains `side_by_side` parts has so many in each.
    """
    runs, parts = training["runs_per_pack"], int(training["side_by_side"])
    if runs == "auto":
        return parts * min(max(FEWEST, math.ceil(len(study.runs()) / JOBS)), MOST)
    return parts * int(runs)


def cut_into_packs(study: Study, runs_per_pack: int) -> dict[str, Pack]:
    """Cut a study's runs into packs, by name; a run that experiments share is in a pack of the first experiment."""
    packs: dict[str, Pack] = {}
    taken: set[tuple[Run, tuple[str, ...]]] = set()
    for e in study.experiments.values():
        untaken = [run for run in e.runs() if _planned(e, run) not in taken]
        taken.update(_planned(e, run) for run in untaken)
        for runs in split_by_cost(untaken, math.ceil(len(untaken) / runs_per_pack)):
            pack = Pack(e.name, e.setting.data, runs)
            packs[pack.name] = pack
    return packs


def _planned(e: Experiment, run: Run) -> tuple[Run, tuple[str, ...]]:
    """A key of a planned run: with the experiments that its rate will be chosen from, if it has none yet."""
    return run, tuple(e.best_of) if run.base_lr is None else ()


def split_by_cost(
    runs: Sequence[Run], count: int, cost: Callable[[Run], float] = relative_cost
) -> list[tuple[Run, ...]]:
    """Split runs into at most `count` parts of about equal costs; compatible runs stay together.

    The costliest remaining group goes to the cheapest part so far (longest processing time first), so that the parts
    end at about the same time.
    """
    groups = [list(group) for _, group in itertools.groupby(sorted(runs, key=lane_key), key=lane_key)]
    groups.sort(key=lambda group: -sum(map(cost, group)))
    heap: list[tuple[float, int, list[Run]]] = [(0.0, i, []) for i in range(min(len(groups), count))]
    for group in groups:
        load, i, taken = heapq.heappop(heap)
        heapq.heappush(heap, (load + sum(map(cost, group)), i, taken + group))
    return [tuple(taken) for _, _, taken in sorted(heap, key=lambda entry: entry[1])]


class Pending(NamedTuple):
    """What is still missing of an experiment.

    packs: the packs that have to train runs of the experiment.
    records: the digest of its runs' records, see `records.digest_of`; empty while some are missing.
    damaged: name of each damaged run, which has to be trained again -> the damage, in words.
    """

    packs: list[Pack]
    records: str
    damaged: dict[str, str]

    def outdates(self, shown: str | None) -> bool:
        """Whether tables that show records with this digest have to be made again; None: the digest is unknown."""
        return bool(self.packs) or self.records != shown


class Plan:
    """The packs of a study that still have to be trained, given the run store.

    Args:
        study: the study.
        runs_per_pack: about how many runs one job trains.
        store: the run store.
    """

    def __init__(self, study: Study, runs_per_pack: int, store: RunStore) -> None:
        self.study, self.store = study, store
        self.packs = cut_into_packs(study, runs_per_pack)
        self._owner = {
            _planned(study.experiments[pack.experiment], run): pack for pack in self.packs.values() for run in pack.runs
        }

    @cached_property
    def rate_sources(self) -> frozenset[str]:
        """Names of the packs with runs that other experiments take their rates from."""
        sources = [self.study.experiments[name] for e in self.study.experiments.values() for name in e.best_of]
        return frozenset(self._owner[_planned(source, run)].name for source in sources for run in source.runs())

    def pending(
        self, experiment: str, fingerprint: str, chosen: Chosen | None = None, to_unpack: PublishedRuns | None = None
    ) -> Pending:
        """What is still missing of an experiment.

        A run exists if its folder is undamaged, whatever its modification time.

        Args:
            experiment: the name of the experiment.
            fingerprint: the fingerprint of its data.
            chosen: its rates, if they are chosen from other experiments.
            to_unpack: published runs that are to be unpacked into the store before any run is trained.
        """
        e = self.study.experiments[experiment]
        planned, runs = list(e.runs()), list(e.runs(chosen))
        unpacked = {name: record.digest for name, record in (to_unpack or {}).items()}
        digests = [unpacked.get(run.name(fingerprint)) or self.store.digest(run, fingerprint) for run in runs]
        missing = [index for index, digest in enumerate(digests) if digest is None]
        packs = self._packs_of(e, [planned[index] for index in missing])
        _, damaged = self.store.ends({runs[index].name(fingerprint) for index in missing})
        return Pending(packs, "" if packs else digest_of(filter(None, digests)), damaged)

    def expected(
        self,
        experiment: str,
        fingerprints: Collection[str],
        chosen: Chosen | None = None,
        to_unpack: PublishedRuns | None = None,
    ) -> list[Pack]:
        """The packs expected to train runs of an experiment, as far as that is known before data and rates are.

        A run counts as existing if it exists for one of the fingerprints, at one of the rates that may be chosen.

        Args:
            experiment: the name of the experiment.
            fingerprints: the fingerprints that its data may have.
            chosen: its rates, if they are chosen from other experiments and known.
            to_unpack: published runs that are to be unpacked into the store before any run is trained.
        """
        e, unpacked = self.study.experiments[experiment], to_unpack or {}

        def is_there(run: Run) -> bool:
            names = itertools.product(self._at_each_rate(e, run), fingerprints)
            return any(one.name(data) in unpacked or self.store.has(one, data) for one, data in names)

        pairs = zip(e.runs(), e.runs(chosen), strict=True)
        return self._packs_of(e, [planned for planned, run in pairs if not is_there(run)])

    def _at_each_rate(self, e: Experiment, run: Run) -> list[Run]:
        """The run or, if its rate is not chosen yet, a copy at each rate that may be chosen."""
        if run.base_lr is not None:
            return [run]
        bases = [self.study.experiments[name] for name in e.best_of]
        rates = dict.fromkeys(rate for base in bases if run.batch_size in base.batch_sizes for rate in base.base_lrs)
        return [replace(run, base_lr=rate) for rate in rates]

    def _packs_of(self, e: Experiment, runs: Iterable[Run]) -> list[Pack]:
        return [self.packs[name] for name in dict.fromkeys(self._owner[_planned(e, run)].name for run in runs)]
