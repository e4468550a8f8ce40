"""The engine: plain SGD on lanes of one model, from initial weights to outcomes."""

import time
from collections.abc import Callable, Sequence

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from smallbatch.data.prepared import Prepared
from smallbatch.errors import UserError
from smallbatch.models import build
from smallbatch.store import Epoch, Outcome
from smallbatch.study import Run
from smallbatch.training import lanes
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.feed import Batches, EpochPlan, Feed
from smallbatch.training.progress import Progress
from smallbatch.training.schedule import Schedule

BLOCK_STEPS, BLOCK_IMAGES, BLOCK_VALUES = 32, 2048, 2048 * 3 * 32 * 32
"""Steps are served in blocks of at most so many steps, images or values of pixels: one gather, one look at losses and
clock a block."""

CHANNELS_LAST_FROM = 256
"""Pixels from which convolutions on the CPU are faster with channels last (measured: 8x8 loses, 32x32 gains)."""

Finish = Callable[[Run, Outcome, bytes | None], None]
"""Takes a run that is through, its outcome, and its weights as a safetensors file (none where it diverged)."""


class LaneTraining:
    """Runs that differ only in base learning rate and seed, trained in lock-step.

    Update of lane l: theta <- theta - eta_l * (mean gradient + weight_decay * theta), all parameters decayed.

    Args:
        runs: of one setting, batch size and sub-batch; run l becomes lane l.
        data: what they train on.
        device: where.
    """

    def __init__(self, runs: Sequence[Run], data: Prepared, device: torch.device) -> None:
        first = runs[0]
        self.setting, self.batch_size, self.device, self.meta = first.setting, first.batch_size, device, data.meta
        self.bn_batch_size = first.bn_batch_size
        self.feed = Feed(data, first.setting, first.batch_size, device)
        updates = first.setting.epochs * self.feed.steps
        self.schedule = Schedule(updates, first.setting.lr_drops, first.setting.warmup)
        channels, height, width = data.meta.shape
        pixels = height * width
        self.block_images = min(BLOCK_IMAGES, BLOCK_VALUES // (channels * pixels))
        on_gpu = device.type != "cpu"
        self.layout = torch.channels_last if on_gpu or pixels >= CHANNELS_LAST_FROM else torch.contiguous_format
        self._begin(runs)

    def _begin(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        self.epoch, self.step = 0, 0
        self.history: list[list[Epoch]] = [[] for _ in runs]
        self.seconds = [0.0] * len(runs)
        self.loss_sum = torch.zeros(len(runs), dtype=torch.float64, device=self.device)
        models = [self._model(run.seed) for run in runs]
        stacked = lanes.stack(models)
        self._check_lanes(models[0], stacked)
        self._take(stacked)

    @torch.no_grad()
    def _check_lanes(self, alone: torch.nn.Module, stacked: torch.nn.Module) -> None:
        """Refuse a model that does not treat each channel alike, before anything is trained."""
        images, _ = next(self.feed.test_batches(2))
        images = images.cpu()
        ours = stacked.eval()(images.repeat(1, len(self.runs), 1, 1)).unflatten(1, (len(self.runs), -1))[:, 0]
        theirs = alone.eval()(images)
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item()):
            name = self.setting.model
            raise UserError(
                f"model {name}: a layer mixes the lanes' channels; training.lanes: 1 trains it all the same"
            )

    def _model(self, seed: int) -> torch.nn.Module:
        s = self.setting
        shape, classes = self.meta.shape, len(self.meta.classes)
        norm = {"norm": s.norm, "norm_layers": s.norm_layers, "bn_batch_size": self.bn_batch_size}
        return build(s.model, shape, classes, **norm, seed=seed)

    def _take(self, model: torch.nn.Module) -> None:
        self.model = model.to(self.device)
        self.parameters = list(self.model.parameters())
        self.factor = -1.0

    @property
    def steps_done(self) -> int:
        """Updates made so far."""
        return self.epoch * self.feed.steps + self.step

    def train(self, finish: Finish, checkpoint: Checkpoint, progress: Progress) -> None:
        """Train to the end, handing over each run as it ends; saves a checkpoint whenever one is due."""
        if self.steps_done == 0:
            # Names the company, so that a job killed early goes on with it: numbers differ by rounding without.
            checkpoint.save({"runs": [run.settings for run in self.runs]})
        while self.runs and self.epoch < self.setting.epochs:
            self._train_epoch(finish, checkpoint)
            if self.runs:
                self._close_epoch(finish)
                progress.epoch(self.epoch, self.history)
        for lane, run in enumerate(self.runs):
            finish(run, self._outcome(lane, None), save(lanes.lane_state(self.model, lane)))

    def _train_epoch(self, finish: Finish, checkpoint: Checkpoint) -> None:
        plan = self.feed.plan([run.seed for run in self.runs], self.epoch)
        self.model.train()
        while self.step < self.feed.steps and self.runs:
            started = time.perf_counter()
            losses = self._train_block(plan, self._block_end())
            diverged = self._count(losses)
            self._spend(started)
            if diverged:
                keep = self._drop(diverged, finish)
                plan = plan.select(keep)
            elif checkpoint.due:
                checkpoint.save(self.state())

    def _block_end(self) -> int:
        images_a_step = self.batch_size * len(self.runs)
        steps = max(1, min(BLOCK_STEPS, self.block_images // images_a_step))
        return min(self.step + steps, self.feed.steps)

    def _train_block(self, plan: EpochPlan, end: int) -> Tensor:
        """Make the updates up to step `end` of the epoch; returns their losses [steps, lanes]."""
        batches: Batches = self.feed.batches(plan, self.step, end)
        start = self.steps_done
        losses = [
            self._update(images, labels, self.schedule(start + i))
            for i, (images, labels) in enumerate(zip(*batches, strict=True))
        ]
        return torch.stack(losses)

    def _update(self, images: Tensor, labels: Tensor, factor: float) -> Tensor:
        """One update on images [m, lanes * c, h, w], labels [m, lanes] at eta * factor; returns losses [lanes]."""
        logits = self.model(images.contiguous(memory_format=self.layout))
        losses = _losses(logits, labels).mean(0)
        gradients = torch.autograd.grad(losses.sum(), self.parameters)
        self._set_rates(factor)
        with torch.no_grad():
            for parameter, gradient, rate in zip(self.parameters, gradients, self.rates, strict=True):
                # Not parameter * (1 - eta * weight_decay): in float32 that factor is 1 where eta is small.
                parameter.addcmul_(gradient.add(parameter, alpha=self.setting.weight_decay), rate)
        return losses.detach()

    def _set_rates(self, factor: float) -> None:
        """For each parameter: -eta of every lane, shaped to broadcast."""
        if factor == self.factor:
            return
        self.factor = factor
        etas = torch.tensor([run.learning_rate * factor for run in self.runs], dtype=torch.float64)
        rates = (-etas).float().to(self.device)
        self.rates = [rates.view(-1, *[1] * (parameter.dim() - 1)) for parameter in self.parameters]

    def _count(self, losses: Tensor) -> dict[int, int]:
        """Count a block's losses [steps, lanes]; returns the lanes that diverged in it, each with the update."""
        self.loss_sum += losses.double().sum(0)
        bad = ~losses.isfinite()
        start = self.steps_done
        self.step += len(losses)
        if not bad.any():
            return {}
        firsts = {lane: bad[:, lane].nonzero() for lane in range(len(self.runs))}
        return {lane: start + int(first[0]) + 1 for lane, first in firsts.items() if len(first)}

    def _spend(self, started: float) -> None:
        share = (time.perf_counter() - started) / len(self.runs)
        self.seconds = [seconds + share for seconds in self.seconds]

    def _drop(self, diverged: dict[int, int], finish: Finish) -> list[int]:
        """Hand over the diverged lanes and close ranks; returns the places of those that stay."""
        for lane, update in diverged.items():
            finish(self.runs[lane], self._outcome(lane, update), None)
        keep = [lane for lane in range(len(self.runs)) if lane not in diverged]
        self.runs, self.history, self.seconds = (
            [values[lane] for lane in keep] for values in (self.runs, self.history, self.seconds)
        )
        self.loss_sum = self.loss_sum[keep]
        if keep:
            lanes.select(self.model, keep)
            self._take(self.model)
        return keep

    def _outcome(self, lane: int, diverged_at: int | None) -> Outcome:
        images = (diverged_at or self.steps_done) * self.batch_size
        return Outcome(self.history[lane], diverged_at, self.seconds[lane], images)

    def _close_epoch(self, finish: Finish) -> None:
        started = time.perf_counter()
        losses, accuracies = self._test()
        train_losses = (self.loss_sum / self.feed.steps).tolist()
        factor = self.schedule(self.steps_done - 1)
        self.epoch, self.step = self.epoch + 1, 0
        for lane, run in enumerate(self.runs):
            rate = run.learning_rate * factor
            self.history[lane].append(Epoch(self.epoch, rate, train_losses[lane], losses[lane], accuracies[lane]))
        self.loss_sum.zero_()
        self._spend(started)
        # Weights can overflow in the last update of an epoch; no training loss has seen that yet.
        diverged = {lane: self.steps_done for lane, loss in enumerate(losses) if not abs(loss) < float("inf")}
        if diverged:
            self._drop(diverged, finish)

    @torch.no_grad()
    def _test(self) -> tuple[list[float], list[float]]:
        """Mean loss and accuracy of each lane on the test split."""
        self.model.eval()
        count = len(self.runs)
        loss = torch.zeros(count, dtype=torch.float64, device=self.device)
        correct = torch.zeros(count, dtype=torch.int64, device=self.device)
        for images, labels in self.feed.test_batches(max(1, self.block_images // count)):
            logits = self.model(images.repeat(1, count, 1, 1).contiguous(memory_format=self.layout))
            loss += _losses(logits, labels[:, None].expand(-1, count)).double().sum(0)
            correct += (logits.unflatten(1, (count, -1)).argmax(2) == labels[:, None]).sum(0)
        total = len(self.feed.test_labels)
        return (loss / total).tolist(), (correct / total).tolist()

    def state(self) -> dict:
        """All that a checkpoint needs to go on from here, bit for bit."""
        return {
            "runs": [run.settings for run in self.runs],
            "model": self.model.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "history": [[list(epoch) for epoch in lane] for lane in self.history],
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
        }

    def restore(self, state: dict) -> None:
        """Go on from a state; its runs, which may be fewer than at the start, become the lanes."""
        self._begin([Run.from_settings(settings) for settings in state["runs"]])
        if "model" not in state:
            return
        self.model.load_state_dict(state["model"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.history = [[Epoch(*epoch) for epoch in lane] for lane in state["history"]]
        self.loss_sum = state["loss_sum"].to(self.device)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [m, lanes * classes] against labels [m, lanes], as [m, lanes]."""
    scores = logits.unflatten(1, (labels.shape[1], -1)).flatten(0, 1)
    return F.cross_entropy(scores, labels.flatten(), reduction="none").view(labels.shape)
