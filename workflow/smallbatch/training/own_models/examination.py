"""Examines a model of the user's own: whether its training is reproducible to the bit, and whether lanes suit it."""

import contextlib
from collections.abc import Iterator

import torch

from smallbatch import models
from smallbatch.training.own_models import (
    batch_size_check,
    ineffective_arguments,
    lane_equality,
    micro_batch_equality,
    reproducibility,
    sgd_equality,
)
from smallbatch.training.own_models.candidate import Candidate
from smallbatch.training.own_models.monkeypatch_check import monkeypatching_refused
from smallbatch.training.own_models.outside_access import call_tracing_paused, outside_access_refused
from smallbatch.training.own_models.spec import ModelSpec, Suitability
from smallbatch.training.own_models.training_digests import short_training


def examine(spec: ModelSpec) -> Suitability:
    """How a model can be trained.

    Raises:
        UserError: the model cannot be trained, or not with its settings.
    """
    import torch._dynamo  # noqa: F401 - torch does so by itself, but several times as slowly where calls are watched

    name = f"model {spec.model} ({models.source(spec.entry_point)})"
    files = models.files(spec.entry_point)
    with (
        isolated_torch(),
        monkeypatching_refused(files, name),
        outside_access_refused(files, name) as refuse_so_far,
        models.errors_in_one_line(spec.model, "its check fails"),
    ):
        candidate = Candidate(spec)
        stochastic = reproducibility.check(candidate)
        ineffective_arguments.check(candidate)
        refuse_so_far()  # before the checks that take longest
        batch_size_check.check(candidate, stochastic=stochastic)
        splittable = not stochastic and micro_batch_equality.micro_batches_equal_whole(candidate)
        with call_tracing_paused():
            reason = "it draws random numbers in training" if stochastic else lane_equality.why_not_in_lanes(candidate)
        if reason:
            sgd_equality.check(candidate)
        return Suitability(reason, stochastic, splittable, batch_size_check.smallest(candidate))


def train_shortly(spec: ModelSpec, *, resumed: bool) -> dict[str, str]:
    """Digests of a short training, see `short_training`.

    Raises:
        UserError: the model cannot be made or trained.
    """
    candidate = Candidate(spec)
    with isolated_torch(), models.errors_in_one_line(spec.model, "its training fails"):
        return short_training(candidate.build, candidate.images, candidate.labels, resumed=resumed)


@contextlib.contextmanager
def isolated_torch() -> Iterator[None]:
    """Context with one thread on the CPU and separate random numbers; restores torch's settings at the end."""
    threads, dtype, onednn = torch.get_num_threads(), torch.get_default_dtype(), torch._C._get_mkldnn_enabled()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch._C._set_mkldnn_enabled(onednn)
