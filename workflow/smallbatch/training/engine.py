"""The engine: SGD on lanes of one model, from initial weights to outcomes."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from safetensors.torch import save
from torch import Tensor

from smallbatch.core import stopping
from smallbatch.core.errors import Stopped, UserError
from smallbatch.data.prepared import Prepared
from smallbatch.models import build, check_content, is_own
from smallbatch.runs.store import Epoch, Outcome, Variance
from smallbatch.study.experiments import Run
from smallbatch.training import lanes, variance
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.distributed import ALONE, World
from smallbatch.training.engines import backends
from smallbatch.training.engines.native import updates as native
from smallbatch.training.engines.updates import Updates
from smallbatch.training.feed import EpochPlan, Feed
from smallbatch.training.network import Network, Scores
from smallbatch.training.own_models import suitability
from smallbatch.training.progress import Progress
from smallbatch.training.resources import device as devices
from smallbatch.training.schedule import Schedule
from smallbatch.training.sgd import LaneSGD
from smallbatch.training.state import State, misfit_of

log = logging.getLogger(__name__)

T = TypeVar("T")

Finish = Callable[[Run, Outcome, bytes | None], None]
"""Takes a run that is through, its outcome, and its weights as a safetensors file (none where it diverged)."""


class LaneTraining:
    """Runs that differ only in base learning rate and seed, trained in lock-step, or one that lanes do not suit.

    Args:
        runs: of one setting, batch size and sub-batch; run l becomes lane l.
        data: what they train on.
        device: where.
        world: the processes that share each mini-batch.
        images_at_once: of each lane, in memory; or auto: as many of a mini-batch as fit.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        data: Prepared,
        device: torch.device,
        world: World = ALONE,
        images_at_once: int | str = "auto",
    ) -> None:
        first = runs[0]
        self.setting, self.batch_size, self.device, self.meta = first.setting, first.batch_size, device, data.meta
        self.bn_batch_size, self.world, self.images_at_once = first.bn_batch_size, world, images_at_once
        self.feed = Feed(data, first.setting, first.batch_size, device)
        updates = first.setting.epochs * self.feed.steps
        self.schedule = Schedule(updates, first.setting.lr_drops, first.setting.warmup)
        self.variance_epochs = variance.epochs_measured(first.setting)
        _, height, width = data.meta.shape
        self.pixels = height * width
        devices.set_precision(first.setting.precision, device)
        devices.forget_peak_memory(device)
        self._begin(runs)

    def _begin(self, runs: Sequence[Run]) -> None:
        self.runs, self.lanes_at_start = list(runs), len(runs)
        self.epoch, self.step = 0, 0
        self.environments: list[dict[str, str]] = []
        self.history: list[list[Epoch]] = [[] for _ in runs]
        self.variance: list[list[Variance]] = [[] for _ in runs]
        self.seconds = [0.0] * len(runs)
        self.loss_sum = torch.zeros(len(runs), dtype=torch.float64, device=self.device)
        by_seed = {seed: self.initial_model(seed) for seed in dict.fromkeys(run.seed for run in runs)}
        models = [by_seed[run.seed] for run in runs]
        s = self.setting
        self.suitability = suitability(s, self.meta.shape, len(self.meta.classes), self.world.size)
        self.network = Network(
            self._model_of_lanes(models),
            batch_size=self.batch_size,
            bn_batch_size=self.bn_batch_size if s.norm == "batch" else 1,
            images_at_once=self.images_at_once,
            pixels=self.pixels,
            precision=s.precision,
            device=self.device,
            world=self.world,
            splittable=self.suitability.splittable,
        )
        etas = [run.learning_rate for run in runs]
        self.sgd = LaneSGD(self.network.parameters, etas, s.weight_decay, s.momentum)
        self.backend = backends.choose(
            runs[0], self.suitability, self.meta.shape, len(self.meta.classes), self.device, self.world
        )
        self.updates = self.make_updates()
        self._check_kernels()

    @property
    def environment(self) -> dict[str, str]:
        """What computes these lanes, for a run's record: the device, and which kernels of the project."""
        triton = f"triton {devices.triton_version(self.device)}"
        kernels = "compiled" if self.backend.layout else triton if self.backend.graph else "none"
        return devices.describe(self.device) | {"kernels": kernels}

    def trained_in(self, versions: Mapping[str, str]) -> None:
        """Note the versions and the commit that the training goes on with; a checkpoint remembers those before."""
        here = {**versions, **self.environment}
        if self.environments[-1:] != [here]:
            self.environments.append(here)

    def make_updates(self) -> Updates:
        """What makes the updates of the lanes as they are now."""
        return self.backend.updates(self.network, self.sgd, self.feed)

    def _model_of_lanes(self, models: Sequence[torch.nn.Module]) -> torch.nn.Module:
        """The model of all lanes, or that of the only one."""
        if self.suitability.lanes:
            return lanes.stack(models)
        if len(models) > 1:
            raise UserError(f"model {self.setting.model}: it is trained alone ({self.suitability.why_alone}): one lane")
        return lanes.Alone(models[0])

    def _check_kernels(self) -> None:
        """Leave a model to torch that the kernels have misunderstood: they do not see what happens in place."""
        layout = self.backend.layout
        if layout is None:
            return
        images, _ = next(self.feed.test_batches(2))
        ours, theirs = self.updates.logits(images), self.network.logits(images)
        agree = torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())
        # Of the project's own models tests prove the rest.
        if not agree or (is_own(self.setting.model) and not native.agree(self.initial_model(0), layout, self.feed)):
            log.info("model %s: the kernels compute it otherwise; trained operation by operation", self.setting.model)
            self.backend = self.backend.without_kernels()
            self.updates = self.make_updates()

    def initial_model(self, seed: int) -> torch.nn.Module:
        """The model of one lane, with the initial weights of a seed."""
        s = self.setting
        shape, classes = self.meta.shape, len(self.meta.classes)
        b = self.bn_batch_size
        model = build(s.model, shape, classes, norm=s.norm, norm_layers=s.norm_layers, bn_batch_size=b, seed=seed)
        check_content(s.model, s.model_content)  # of what was imported for it
        return model

    @property
    def model(self) -> torch.nn.Module:
        """The model of all lanes."""
        return self.network.model

    @property
    def steps_done(self) -> int:
        """Updates made so far."""
        return self.epoch * self.feed.steps + self.step

    def train(self, finish: Finish, checkpoint: Checkpoint, progress: Progress) -> None:
        """Train to the end, handing over each run as it ends; saves a checkpoint whenever one is due.

        Raises:
            torch.OutOfMemoryError, TooLarge: the device's memory is too small for so many lanes.
            Stopped: a signal asked for it; a checkpoint of all that was done is saved.
        """
        if self.device.type == "cuda":
            images, labels = self.feed.batches(self.plan(), 0, 1)
            self.network.fit(images[0], labels[0])
        try:
            self._train_epochs(finish, checkpoint, progress)
        except Stopped as stop:
            # Raised between updates alone, where `state` is whole: what is measured there is measured again.
            if self.world.leads:
                checkpoint.save(self.state())
            raise Stopped(stop.args[0], f"epoch {self.epoch}, step {self.step}") from None
        for lane, run in enumerate(self.runs):
            finish(run, self._outcome(lane, None), save(lanes.lane_state(self.model, lane)))

    def _train_epochs(self, finish: Finish, checkpoint: Checkpoint, progress: Progress) -> None:
        self._measure_variance()
        while self.runs and self.epoch < self.setting.epochs:
            self._train_epoch(finish, checkpoint, progress)
            if self.runs:
                self._close_epoch(finish)
                progress.epoch(self.epoch, self.history)
                self._measure_variance()

    def _measure_variance(self) -> None:
        """Measure the variance of updates, if this is a point to do so and it is not done."""
        done = self.step > 0 or any(row.epoch == self.epoch for rows in self.variance for row in rows)
        if self.runs and self.epoch in self.variance_epochs and not done:
            measured = variance.measure(self.updates, self.runs, self.epoch)
            self.variance = [before + rows for before, rows in zip(self.variance, measured, strict=True)]

    def plan(self) -> EpochPlan:
        """The epoch of each lane, this process's part of it."""
        plan = self.feed.plan([run.seed for run in self.runs], self.epoch)
        return plan.local(self.world.rank, self.world.size)

    def _train_epoch(self, finish: Finish, checkpoint: Checkpoint, progress: Progress) -> None:
        plan = self.plan()
        while self.step < self.feed.steps and self.runs:
            started = time.perf_counter()
            losses = self.train_block(plan, self.block_end())
            diverged = self.count_losses(losses)
            self._add_seconds(started)
            progress.block(losses.numel() * self.batch_size)
            if diverged:
                keep = self.drop(diverged, finish)
                plan = plan.select(keep)
            elif self.world.broadcast(lambda: checkpoint.due) and self.world.leads:
                checkpoint.save(self.state())
            if self.runs:
                self.world.stop_if_asked()

    def block_end(self) -> int:
        """The step of the epoch up to which the next block goes."""
        return min(self.step + self.updates.steps, self.feed.steps)

    def train_block(self, plan: EpochPlan, end: int) -> Tensor:
        """Make the updates up to step `end` of the epoch; returns their losses [steps, lanes]."""
        start = self.steps_done
        factors = [self.schedule(step) for step in range(start, start + end - self.step)]
        return self.updates.block(plan, self.step, end, factors)

    def count_losses(self, losses: Tensor) -> dict[int, int]:
        """Count a block's losses [steps, lanes]; returns the lanes that diverged in it, each with the update."""
        self.loss_sum += losses.double().sum(0)
        bad = ~losses.isfinite()
        start = self.steps_done
        self.step += len(losses)
        if not bad.any():
            return {}
        firsts = {lane: bad[:, lane].nonzero() for lane in range(len(self.runs))}
        return {lane: start + int(first[0]) + 1 for lane, first in firsts.items() if len(first)}

    def _add_seconds(self, started: float) -> None:
        each = (time.perf_counter() - started) / len(self.runs)
        self.seconds = [seconds + each for seconds in self.seconds]

    def drop(self, diverged: dict[int, int], finish: Finish) -> list[int]:
        """Hand over the lanes that diverged, each with the update, and go on without them; returns the others."""
        for lane, update in diverged.items():
            finish(self.runs[lane], self._outcome(lane, update), None)
        keep = [lane for lane in range(len(self.runs)) if lane not in diverged]
        self.runs, self.seconds = [self.runs[lane] for lane in keep], [self.seconds[lane] for lane in keep]
        self.history, self.variance = [self.history[lane] for lane in keep], [self.variance[lane] for lane in keep]
        self.loss_sum = self.loss_sum[keep]
        if keep:
            self.network.select(keep)
            self.sgd.select(self.network.parameters, keep)
            self.updates = self.make_updates()
        return keep

    def _outcome(self, lane: int, diverged_at: int | None) -> Outcome:
        return Outcome(
            epochs=self.history[lane],
            diverged_at=diverged_at,
            seconds=self.seconds[lane],
            images=(diverged_at or self.steps_done) * self.batch_size,
            lanes=self.lanes_at_start,
            peak_memory=devices.peak_memory(self.device),
            variance=self.variance[lane],
        )

    def _close_epoch(self, finish: Finish) -> None:
        started = time.perf_counter()
        devices.trim_memory(self.device)
        losses, accuracies = self.test_split(self.feed.test_batches)
        validation = [math.nan] * len(self.runs)
        if self.setting.selection == "validation":
            validation = self.test_split(self.feed.validation_batches).accuracies
        train_losses = (self.loss_sum / self.feed.steps).tolist()
        factor = self.schedule(self.steps_done - 1)
        self.epoch, self.step = self.epoch + 1, 0
        for lane, run in enumerate(self.runs):
            rate = run.learning_rate * factor
            seen = (train_losses[lane], losses[lane], accuracies[lane], validation[lane])
            self.history[lane].append(Epoch(self.epoch, rate, *seen))
        self.loss_sum.zero_()
        self._add_seconds(started)
        # Weights can overflow in the last update of an epoch; no training loss has seen that yet.
        diverged = {lane: self.steps_done for lane, loss in enumerate(losses) if not abs(loss) < float("inf")}
        if diverged:
            self.drop(diverged, finish)

    def test_split(self, batches: Callable[[int, int, int], Iterable[tuple[Tensor, Tensor]]]) -> Scores:
        """Test each lane on a split, which the processes share."""
        size = max(1, self.updates.test_images // len(self.runs))
        shared = batches(size, self.world.rank, self.world.size)
        return self.network.test(self._stopping_between(shared), self.updates.logits)

    def _stopping_between(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, between which this process may stop; several, of which one may have less, stop together only."""
        for batch in batches:
            if self.world.size == 1:
                stopping.check()
            yield batch

    def test(self, weights: Mapping[str, Tensor]) -> Scores:
        """Test weights as `train` hands them over, in every lane; as at the end of an epoch.

        Raises:
            UserError: the model has other weights.
        """
        try:
            stacked = {name: torch.stack([tensor] * len(self.runs)) for name, tensor in weights.items()}
            self.model.load_state_dict(stacked)
        except RuntimeError as error:  # several lines
            raise UserError(f"model {self.setting.model}: it has other weights than these; was it changed?") from error
        devices.trim_memory(self.device)
        return self.test_split(self.feed.test_batches)

    def state(self) -> State:
        """All that a checkpoint needs to go on from here, bit for bit."""
        return {
            "runs": [run.settings for run in self.runs],
            "lanes": self.lanes_at_start,
            "part": self.network.micro_batch,  # by the name that files of earlier versions have
            "model": self.model.state_dict(),
            "velocity": self.sgd.velocity,
            "environments": self.environments,
            "epoch": self.epoch,
            "step": self.step,
            "history": [[list(epoch) for epoch in lane] for lane in self.history],
            "variance": [[list(row) for row in lane] for lane in self.variance],
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
        }

    def misfit_of(self, state: State) -> str | None:
        """Why this training, at its start, cannot go on from a state; None where it can."""
        return misfit_of(state, self.state(), self.setting.epochs, self.feed.steps)

    def restore(self, state: State) -> None:
        """Go on from a state; its runs, which may be fewer than at the start, become the lanes."""
        runs = [Run.from_settings(settings) for settings in state["runs"]]
        if runs != self.runs:
            self._begin(runs)
        self.lanes_at_start, self.network.micro_batch = state["lanes"], min(self.network.micro_batch, state["part"])
        self.updates = self.make_updates()  # what they hold depends on the part
        self.model.load_state_dict(state["model"])
        self.sgd.velocity = [velocity.to(self.device) for velocity in state["velocity"]]
        self.environments = list(state["environments"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.history = [[Epoch(*epoch) for epoch in lane] for lane in state["history"]]
        self.variance = [[Variance(*row) for row in lane] for lane in state["variance"]]
        self.loss_sum = state["loss_sum"].to(self.device)
