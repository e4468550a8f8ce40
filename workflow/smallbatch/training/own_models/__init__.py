"""Models of the user's own: how each can be trained, checked before a study begins and cached.

`check` is for a study, `suitability` and `max_lanes` are for its jobs. None of their imports imports torch or runs code
of a user's model, which is left to other processes, see `check_processes`; only a model that a job does not find in the
cache is examined in the job itself.
"""

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smallbatch import data, models
from smallbatch.core.errors import UserError
from smallbatch.data.dataset_info import image_shape_and_classes
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.study.experiments import Experiment, Setting, Study
from smallbatch.training.own_models import cache, check_processes
from smallbatch.training.own_models.spec import BUILT_IN, SLOWER, ModelSpec, Suitability, spec_of

__all__ = ["Suitability", "check", "max_lanes", "suitability"]

log = logging.getLogger(__name__)


def suitability(setting: Setting, shape: Sequence[int], classes: int, processes: int = 1) -> Suitability:
    """How the model of a setting can be trained.

    Args:
        setting: setting of runs.
        shape: image shape: channels, height, width.
        classes: number of classes.
        processes: number of processes that share each mini-batch.

    Raises:
        UserError: the model cannot be trained, or not by this number of processes; the message says why.
    """
    if not models.is_own(setting.model):
        return BUILT_IN
    result = suitability_of(spec_of(setting, shape, classes))
    _check_processes(setting.model, result, processes)
    return result


@functools.cache
def suitability_of(spec: ModelSpec) -> Suitability:
    """The cached result of a model's check; if there is none, the model is examined in this process.

    Raises:
        UserError: the model cannot be trained.
    """
    known = cache.load(spec)
    if known is not None:
        return known
    from smallbatch.training.own_models.examination import examine

    result = examine(spec)
    cache.save(spec, result)
    return result


def max_lanes(setting: Setting, dataset: DatasetInfo, count: int) -> int:
    """How many of `count` runs of a setting can be trained as lanes: all, or one."""
    return count if suitability(setting, dataset.shape, dataset.classes).lanes else 1


def check(study: Study, datasets: Mapping[str, dict[str, Any]], processes: int) -> None:
    """Check the study's models that are the user's own before anything is trained; log which are trained alone.

    A model that was not checked before takes a process of some seconds (most of it the import of torch).

    Args:
        study: the study.
        datasets: settings of the data sets, as in the configuration.
        processes: number of processes that share each mini-batch.

    Raises:
        UserError: a model cannot be trained as the study requires.
    """
    experiments = [e for e in study.experiments.values() if models.is_own(e.setting.model)]
    keys = {data.label(key, settings): key for key, settings in datasets.items()}
    specs = _with_batch_sizes({e.name: _spec(e, keys[e.setting.data], datasets) for e in experiments}, experiments)
    cached = {spec: cache.load(spec) for spec in dict.fromkeys(specs.values())}
    results = {spec: result for spec, result in cached.items() if result is not None}
    new = [spec for spec in cached if spec not in results]
    if new:
        results |= _check_new(study.file, new)
    for e in experiments:
        result, where = results[specs[e.name]], f"{study.file}: experiments.{e.name}"
        _check_experiment(e, result, where, processes)
        if not result.lanes:
            # Warn once, where everyone sees it; afterwards only in logs.
            level = logging.WARNING if specs[e.name] in new else logging.INFO
            model, reason = e.setting.model, result.why_alone
            log.log(level, "%s: model %s is trained alone, since %s; by torch, which %s", where, model, reason, SLOWER)


def _spec(e: Experiment, key: str, datasets: Mapping[str, dict[str, Any]]) -> ModelSpec:
    return spec_of(e.setting, *image_shape_and_classes(key, datasets[key], Path("data")))


def _with_batch_sizes(specs: Mapping[str, ModelSpec], experiments: Sequence[Experiment]) -> dict[str, ModelSpec]:
    """The specs by experiment; each has the batch sizes of all experiments with the same spec."""
    sizes: dict[ModelSpec, set[int]] = {}
    for e in experiments:
        sizes.setdefault(specs[e.name], set()).update(e.batch_sizes, e.setting.variance_batch_sizes)
    return {name: spec._replace(batch_sizes=tuple(sorted(sizes[spec]))) for name, spec in specs.items()}


def _check_new(where: str, specs: Sequence[ModelSpec]) -> dict[ModelSpec, Suitability]:
    """Check models that are not in the cache, and cache the results."""
    started = time.perf_counter()
    results = {}
    for spec, answer in zip(specs, check_processes.check_models(where, specs), strict=False):
        if "refused" in answer:
            raise UserError(f"{where}: {answer['refused']}")
        results[spec] = Suitability(**answer["suitability"])
        for key in (spec, spec._replace(batch_sizes=())):
            cache.save(key, results[spec])
    names, seconds = ", ".join(dict.fromkeys(spec.model for spec in specs)), time.perf_counter() - started
    log.info("%s: checked model %s in %.0f s; remembered until its file changes", where, names, seconds)
    return results


def _check_experiment(e: Experiment, result: Suitability, where: str, processes: int) -> None:
    """Make sure that the model can be trained as an experiment requires."""
    model, smallest = e.setting.model, min(e.batch_sizes)
    _check_processes(model, result, processes)
    if smallest < result.min_batch_size:
        raise UserError(
            f"{where}.batch_sizes: {smallest} is not allowed; allowed: numbers from {result.min_batch_size}, "
            f"the fewest examples that model {model} trains on"
        )
    if e.setting.variance_batch_sizes and not result.splittable and not result.stochastic:
        raise UserError(
            f"{where}.variance_batch_sizes: {list(e.setting.variance_batch_sizes)} is not allowed; allowed: a "
            f"model whose examples know nothing of each other; those of {model} do"
        )


def _check_processes(model: str, result: Suitability, processes: int) -> None:
    if processes > 1 and not (result.lanes and result.splittable):
        reason = (
            f"is trained alone, since {result.why_alone}" if result.why_alone else "needs all of a mini-batch at once"
        )
        raise UserError(
            f"training.processes: {processes} is not allowed; allowed: 1 with model {model}, which {reason}"
        )
