"""Trains the lanes of one model, from initial weights to outcomes: the loop over epochs and blocks of steps."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor

from smallbatch.core import signals
from smallbatch.core.errors import Stopped, UserError
from smallbatch.data.prepared import Prepared
from smallbatch.models import build, check_content
from smallbatch.runs.records import Outcome
from smallbatch.study.experiments import Run
from smallbatch.training import lane_layers, variance
from smallbatch.training.batches import BatchLoader, EpochPlan
from smallbatch.training.checkpoint_compatibility import State
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.distributed import ALONE, World
from smallbatch.training.engines import backends
from smallbatch.training.engines.cuda_graphs import not_captured_message
from smallbatch.training.engines.engine import Engine
from smallbatch.training.lane_state import LaneState
from smallbatch.training.losses import loss_of
from smallbatch.training.metrics import MetricSums, Scores
from smallbatch.training.network import Network
from smallbatch.training.optimizers import optimizer_of
from smallbatch.training.own_models import suitability
from smallbatch.training.progress import Progress
from smallbatch.training.resources import device as devices
from smallbatch.training.schedule import Schedule

if TYPE_CHECKING:
    from smallbatch.training.own_models.trained_model_check import TrainedModelCheck

log = logging.getLogger(__name__)

T = TypeVar("T")

Finish = Callable[[Run, Outcome, bytes | None], None]
"""Receives a finished run, its outcome, and its weights as a safetensors file (None if it diverged)."""


class LaneTrainer:
    """Trains runs in lanes that differ only in base learning rate and seed, or a single run that lanes do not suit.

    Args:
        runs: runs with one setting, batch size and sub-batch; run l becomes lane l.
        data: data to train on.
        device: device to run on.
        world: the processes that share each mini-batch.
        images_at_once: images of each lane in memory; auto: as many of a mini-batch as fit.

    Attributes:
        state: state of the lanes, with everything that a checkpoint holds.
        loader: loader of their mini-batches.
        steps, epochs: number of updates, and of epochs, of which the last may be cut.
        schedule: schedule of their rates, as factors of eta.
        backend: kind of engine; `engine` is that of the current lanes.
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
        self.loader = BatchLoader(data, first.setting, first.batch_size, device)
        self.steps = first.setting.updates(first.batch_size, self.loader.steps)
        self.epochs = math.ceil(self.steps / self.loader.steps)
        self.schedule = Schedule(self.steps, first.setting)
        self.variance_epochs = variance.epochs_measured(first.setting)
        _, height, width = data.meta.shape
        self.pixels = height * width
        devices.set_precision(first.setting.precision, device)
        devices.reset_peak_memory(device)
        self._begin(runs)

    def _begin(self, runs: Sequence[Run]) -> None:
        by_seed = {seed: self.initial_model(seed) for seed in dict.fromkeys(run.seed for run in runs)}
        models = [by_seed[run.seed] for run in runs]
        s = self.setting
        self.suitability = suitability(s, self.meta.shape, len(self.meta.classes), self.world.size)
        network = Network(
            self._model_of_lanes(models),
            batch_size=self.batch_size,
            bn_batch_size=self.bn_batch_size if s.norm == "batch" else 1,
            images_at_once=self.images_at_once,
            pixels=self.pixels,
            precision=s.precision,
            loss=loss_of(s),
            device=self.device,
            world=self.world,
            splittable=self.suitability.splittable,
        )
        etas = [run.learning_rate for run in runs]
        optimizer = optimizer_of(s, network.model, network.parameters, etas)
        self.state = LaneState(runs, network, optimizer, self.loader.steps, self.steps)
        self.backend = backends.choose(
            runs[0], self.suitability, self.meta.shape, len(self.meta.classes), self.device, self.world
        )
        if self.backend.not_capturable:
            log.info("%s", not_captured_message(self.backend.not_capturable))
        self.engine = self.make_engine()
        self._check_kernels()

    @property
    def environment(self) -> dict[str, str]:
        """What computes these lanes, for a run's record: the device, and the project's kernels if they are used."""
        triton = f"triton {devices.triton_version(self.device)}"
        kernels = "compiled" if self.backend.layout else triton if self.backend.graph else "none"
        return devices.describe(self.device) | {"kernels": kernels}

    def trained_in(self, versions: Mapping[str, str]) -> None:
        """Add the versions and the commit with which the training continues; a checkpoint keeps the earlier ones."""
        self.state.add_environment({**versions, **self.environment})

    def make_engine(self) -> Engine:
        """The engine of the current lanes."""
        return self.backend.engine(self.state.network, self.state.optimizer, self.loader)

    def _model_of_lanes(self, models: Sequence[torch.nn.Module]) -> torch.nn.Module:
        """The model of all lanes, or that of the only lane."""
        if self.suitability.lanes:
            return lane_layers.stack(models)
        if len(models) > 1:
            raise UserError(f"model {self.setting.model}: it is trained alone ({self.suitability.why_alone}): one lane")
        return lane_layers.Alone(models[0])

    def _check_kernels(self) -> None:
        """Use torch for a model that the kernels compute wrongly: they do not see in-place operations."""
        if not self.backend.agrees_with_torch(self.engine, self.setting.model, lambda: self.initial_model(0)):
            log.info("model %s: the kernels compute it otherwise; trained operation by operation", self.setting.model)
            self.backend = self.backend.without_kernels()
            self.engine = self.make_engine()

    def initial_model(self, seed: int) -> torch.nn.Module:
        """The model of one lane, with the initial weights of a seed."""
        s = self.setting
        shape, classes = self.meta.shape, len(self.meta.classes)
        b = self.bn_batch_size
        model = build(s.model, shape, classes, norm=s.norm, norm_layers=s.norm_layers, bn_batch_size=b, seed=seed)
        check_content(s.model, s.model_content)  # checks the content that was imported for it
        return model

    def train(self, finish: Finish, checkpoint: Checkpoint, progress: Progress) -> None:
        """Train to the end and pass each run to `finish` as it ends; saves a checkpoint whenever one is due.

        Raises:
            torch.OutOfMemoryError, TooLarge: the device's memory is too small for this number of lanes.
            Stopped: a signal requested it; a checkpoint of everything done so far is saved.
        """
        if self.device.type == "cuda":
            images, labels = self.loader.batches(self.plan(), 0, 1)
            self.state.network.shrink_micro_batch(images[0], labels[0])
        try:
            self._train_epochs(finish, checkpoint, progress)
        except Stopped as stop:
            # Raised only between updates, where `state` is complete: an interrupted measurement is repeated.
            if self.world.is_main:
                checkpoint.save(self.state.state_dict())
            raise Stopped(stop.args[0], f"epoch {self.state.epoch}, step {self.state.step}") from None
        for lane, run in enumerate(self.state.runs):
            finish(run, self.state.outcome(lane, None), save(lane_layers.lane_state(self.state.model, lane)))

    def _train_epochs(self, finish: Finish, checkpoint: Checkpoint, progress: Progress) -> None:
        watch = None if self.suitability.lanes else self._watch()
        self.measure_variance()
        while self.state.runs and self.state.epoch < self.epochs:
            self._train_epoch(finish, checkpoint, progress)
            if watch and self.state.runs:
                watch.check(lane_layers.lane_state(self.state.model, 0), self.state.epoch + 1)
            if self.state.runs:
                self._end_epoch(finish)
                progress.epoch(self.state.epoch, self.state.history)
                self.measure_variance()

    def _watch(self) -> "TrainedModelCheck":
        from smallbatch.training.own_models.spec import spec_of
        from smallbatch.training.own_models.trained_model_check import TrainedModelCheck

        return TrainedModelCheck(spec_of(self.setting, self.meta.shape, len(self.meta.classes)))

    def measure_variance(self) -> None:
        """Measure the variance of updates, if it is due at this point and not done yet."""
        state = self.state
        done = state.step > 0 or state.variance_is_measured
        if state.runs and state.epoch in self.variance_epochs and not done:
            state.add_variance(variance.measure(self.engine, state.runs, state.epoch))

    def plan(self) -> EpochPlan:
        """This process's part of the epoch, for each lane."""
        plan = self.loader.plan([run.seed for run in self.state.runs], self.state.epoch)
        return plan.local(self.world.rank, self.world.size)

    def _train_epoch(self, finish: Finish, checkpoint: Checkpoint, progress: Progress) -> None:
        plan, state = self.plan(), self.state
        while state.step < self.epoch_end and state.runs:
            started = time.perf_counter()
            losses = self.train_block(plan, self.block_end())
            diverged = state.add_losses(losses)
            state.add_seconds(time.perf_counter() - started)
            progress.block(losses.numel() * self.batch_size)
            if diverged:
                plan = plan.select(self.drop(diverged, finish))
            elif self.world.broadcast(lambda: checkpoint.due) and self.world.is_main:
                checkpoint.save(state.state_dict())
            if state.runs:
                self.world.stop_if_asked()

    @property
    def epoch_end(self) -> int:
        """The number of steps of the current epoch."""
        return min(self.loader.steps, self.steps - self.state.epoch * self.loader.steps)

    def block_end(self) -> int:
        """The step of the epoch at which the next block ends."""
        return min(self.state.step + self.engine.steps, self.epoch_end)

    def train_block(self, plan: EpochPlan, end: int) -> Tensor:
        """Make the updates up to step `end` of the epoch; returns their losses [steps, lanes]."""
        first, start = self.state.step, self.state.steps_done
        factors = [self.schedule(step) for step in range(start, start + end - first)]
        return self.engine.block(plan, first, end, factors)

    def drop(self, diverged: dict[int, int], finish: Finish) -> list[int]:
        """Finish the lanes that diverged, each with its update, and continue without them; returns the other lanes."""
        for lane, update in diverged.items():
            finish(self.state.runs[lane], self.state.outcome(lane, update), None)
        keep = [lane for lane in range(len(self.state.runs)) if lane not in diverged]
        self.state.select(keep)
        if keep:
            self.engine = self.make_engine()
        return keep

    def _end_epoch(self, finish: Finish) -> None:
        state, started = self.state, time.perf_counter()
        devices.release_memory(self.device)
        test = self.test_split(self.loader.test_batches)
        held_out = self.setting.selection == "validation"
        validation = self.test_split(self.loader.validation_batches) if held_out else None
        diverged = state.end_epoch(self.schedule(state.steps_done - 1), test, validation)
        state.add_seconds(time.perf_counter() - started)
        if diverged:
            self.drop(diverged, finish)

    def test_split(self, batches: Callable[[int, int, int], Iterable[tuple[Tensor, Tensor]]]) -> Scores:
        """Test each lane on a split, which is divided among the processes."""
        size = max(1, self.engine.test_images // len(self.state.runs))
        shared = batches(size, self.world.rank, self.world.size)
        metric_sums = MetricSums(self.setting, len(self.state.runs), len(self.meta.classes), self.device)
        return self.state.network.test(self._stopping_between(shared), self.engine.logits, metric_sums)

    def _stopping_between(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches; only a single process may stop between them, as several have to stop together."""
        for batch in batches:
            if self.world.size == 1:
                signals.raise_if_signalled()
            yield batch

    def test(self, weights: Mapping[str, Tensor]) -> Scores:
        """Test weights, as passed on by `train`, in every lane, as at the end of an epoch.

        Raises:
            UserError: the model has other weights.
        """
        try:
            stacked = {name: torch.stack([tensor] * len(self.state.runs)) for name, tensor in weights.items()}
            self.state.model.load_state_dict(stacked)
        except RuntimeError as error:  # its message has several lines
            raise UserError(f"model {self.setting.model}: it has other weights than these; was it changed?") from error
        devices.release_memory(self.device)
        return self.test_split(self.loader.test_batches)

    def restore(self, saved: State) -> None:
        """Continue from the state in a checkpoint; its runs, possibly fewer than at the start, become the lanes."""
        runs = [Run.from_settings(settings) for settings in saved["runs"]]
        if runs != self.state.runs:
            self._begin(runs)
        self.state.load_state_dict(saved)
        self.engine = self.make_engine()  # their buffers depend on the micro-batch
