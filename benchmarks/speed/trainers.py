"""The ways to train that are compared. Each trains epoch after epoch on the same images and tells of each that ended.

A trainer takes a `Work` and `told`, which it calls after each epoch with its mean loss, and which ends it. Losses are
read once an epoch, so that nothing is slowed down by looking. Evaluation is left out of all.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from smallbatch.core.environment import processors
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.models import build
from smallbatch.runs.records import Epoch
from smallbatch.study.experiments import Run, Setting
from smallbatch.study.rates import BaseLr
from smallbatch.training import lane_layers
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.engines.cuda_graphs import capture_graphs
from smallbatch.training.engines.trace import Graph
from smallbatch.training.resources import device as devices
from smallbatch.training.resources.lane_count import best_lane_count
from smallbatch.training.trainer import LaneTrainer
from speed.cells import CLASSES, GROUPS, ROW, Cell
from speed.pictures import Pictures, normalised, pictures

if TYPE_CHECKING:
    from speed import jax_vmap

ETA, WEIGHT_DECAY = 2.0**-10, 5e-4
"""A rate at which every cell stays finite, and what goes with it."""

SIDE = {"cpu": 2048, "cuda": 8192}
"""Of the matrices whose products are the peak."""

Told = Callable[[float], None]


@dataclass(frozen=True)
class Work:
    """What a process trains.

    images: of an epoch, a multiple of m.
    seed: of its run; further lanes have the seeds after it.
    lanes: runs that are trained as lanes, by the trainers that can; the others train one.
    device: cpu or cuda.
    """

    cell: Cell
    images: int
    seed: int = 1
    lanes: int = 1
    device: str = "cpu"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return GROUPS[self.cell.group].shape


def model_of(cell: Cell, seed: int) -> nn.Module:
    """The model of a cell with the initial weights of `seed`."""
    group = GROUPS[cell.group]
    return build(group.model, group.shape, CLASSES, norm=group.norm, bn_batch_size=cell.batch_size, seed=seed)


def _loader(work: Work, loaders: int = 0) -> DataLoader:
    data = Pictures(pictures(work.shape, work.images))
    order = torch.Generator().manual_seed(work.seed)
    return DataLoader(
        data, work.cell.batch_size, shuffle=True, generator=order, drop_last=True, num_workers=loaders,
        persistent_workers=loaders > 0, pin_memory=work.device == "cuda",
    )  # fmt: skip


def _sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), ETA, weight_decay=WEIGHT_DECAY)


def usual(work: Work, told: Told, *, compiled: bool = False, loaders: int = 0) -> None:
    """The loop of every tutorial: DataLoader, one model, SGD.

    Args:
        work: what to train.
        told: of each epoch.
        compiled: whether the model goes through torch.compile.
        loaders: processes that load data.
    """
    model = model_of(work.cell, work.seed).to(work.device).train()
    forward = torch.compile(model) if compiled else model
    loader, optimizer = _loader(work, loaders), _sgd(model)
    while True:
        total = torch.zeros((), device=work.device)
        for images, labels in loader:
            images, labels = images.to(work.device, non_blocking=True), labels.to(work.device, non_blocking=True)
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        told(total.item() / len(loader))


def lightning(work: Work, told: Told) -> None:
    """Lightning's Trainer with all switched off that it does beside training."""
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model_of(work.cell, work.seed)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return _sgd(self)

        def on_train_epoch_start(self) -> None:
            self.total = torch.zeros((), device=self.device)

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            images, labels = batch
            loss = F.cross_entropy(self.model(images), labels)
            self.total += loss.detach()
            return loss

        def on_train_epoch_end(self) -> None:
            told(self.total.item() / (work.images // work.cell.batch_size))

    off = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = pl.Trainer(max_epochs=-1, accelerator="gpu" if work.device == "cuda" else "cpu", devices=1, **off)
    trainer.fit(Module(), _loader(work))


def engine(work: Work, told: Told) -> None:
    """This project's engine as a pack's job calls it, checkpoints included."""
    data = pictures(work.shape, work.images)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder, "checkpoint.pt"))
        training = LaneTrainer(lane_runs(work), data, devices.pick(work.device))
        training.train(_ended, checkpoint, _Progress(told, checkpoint))


class _Progress:
    """Stands where the engine tells of its progress."""

    def __init__(self, told: Told, checkpoint: Checkpoint) -> None:
        self.told, self.checkpoint = told, checkpoint

    def block(self, images: int) -> None:
        """A block of updates ended."""

    def epoch(self, number: int, history: Sequence[Sequence[Epoch]]) -> None:
        """An epoch ended."""
        self.told(sum(lane[-1].train_loss for lane in history) / len(history))
        self.checkpoint.saved_at = monotonic()  # time that others had their turn in is none of training


def _ended(run: Run, *_: object) -> None:
    raise RuntimeError(f"the run of seed {run.seed} has ended, though it was to go on")


def lane_runs(work: Work) -> list[Run]:
    """The runs of the engine's lanes: of one row, each with a rate and a seed of its own."""
    group, m = GROUPS[work.cell.group], work.cell.batch_size
    setting = Setting("made", group.model, WEIGHT_DECAY, epochs=10_000, norm=group.norm, lr_drops=())
    return [Run(setting, m, m, BaseLr(ETA / m / 2**lane), work.seed + lane) for lane in range(work.lanes)]


def lanes_chosen(run: Run, shape: tuple[int, int, int], device: str) -> int:
    """How many runs of a row, as long as those of Figure 1, the library trains as lanes on its own."""
    images = 1000  # of either split; lanes do not depend on them
    return best_lane_count(run, ROW, DatasetInfo(shape, CLASSES, images, images), torch.device(device), processors())


def vmapped(work: Work, told: Told) -> None:
    """Lanes in JAX, see `jax_vmap`."""
    for losses, _ in vmapped_epochs(work):
        told(float(losses.mean()))


def vmapped_epochs(work: Work) -> "Iterator[tuple[np.ndarray, jax_vmap.Lane]]":
    """The mean losses [lanes] of each epoch, and the lanes."""
    from speed import jax_vmap

    device, runs = jax_vmap.device_called(work.device), lane_runs(work)
    images, labels = normalised(pictures(work.shape, work.images))
    return jax_vmap.epochs(
        Graph(model_of(work.cell, work.seed), work.shape),
        {name: tensor.numpy() for name, tensor in _stacked(work).state_dict().items()},
        [run.learning_rate for run in runs],
        (images.numpy(), labels.numpy()),
        weight_decay=WEIGHT_DECAY, batch_size=work.cell.batch_size, device=device,
    )  # fmt: skip


def grouped(work: Work, told: Told) -> None:
    """Lanes as groups of the convolutions of one torch model, compiled; on a GPU a step is a CUDA graph."""
    for losses, _ in grouped_epochs(work):
        told(losses.mean().item())


def grouped_epochs(work: Work) -> Iterator[tuple[Tensor, nn.Module]]:
    """The mean losses [lanes] of each epoch, and the model of the lanes, which the next one changes."""
    torch.backends.cudnn.benchmark = True
    m, device = work.cell.batch_size, torch.device(work.device)
    model = _stacked(work).to(device).train()
    parameters, rates = list(model.parameters()), torch.zeros(work.lanes, device=device)
    images, labels = (part.to(device) for part in normalised(pictures(work.shape, work.images)))
    draws, steps = torch.Generator(device).manual_seed(work.seed), work.images // m
    # A graph holds addresses: what differs from step to step lies in tensors that stay.
    orders = torch.zeros(steps, work.lanes, m, dtype=torch.int64, device=device)
    number, total = torch.zeros(1, dtype=torch.int64, device=device), torch.zeros(work.lanes, device=device)
    losses_of, update = torch.compile(lane_losses), torch.compile(update_lanes)

    def step() -> None:
        places = orders.index_select(0, number)[0]
        losses = losses_of(model, images[places].transpose(0, 1).flatten(1, 2), labels[places])
        update(parameters, torch.autograd.grad(losses.sum(), parameters), rates)
        total.add_(losses.detach())
        number.add_(1)

    make_step = capture_graphs(step, [step], device)[0] if device.type == "cuda" else step
    rates.copy_(torch.tensor([run.learning_rate for run in lane_runs(work)]))  # from here on weights change
    while True:
        noise = torch.rand(work.lanes, work.images, generator=draws, device=device)
        orders.copy_(noise.argsort(1).view(work.lanes, steps, m).transpose(0, 1))
        number.zero_(), total.zero_()
        for _ in range(steps):
            make_step()
        yield total / steps, model


def lane_losses(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean losses [lanes] of images [m, lanes * channels, height, width] with labels [lanes, m]."""
    scores = model(images).unflatten(1, (len(labels), -1)).permute(1, 2, 0)
    return F.cross_entropy(scores, labels, reduction="none").mean(1)


@torch.no_grad()
def update_lanes(parameters: Sequence[Tensor], gradients: Sequence[Tensor], rates: Tensor) -> None:
    """SGD of parameters [lanes, ...] at a rate of each lane [lanes]."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        change = gradient + WEIGHT_DECAY * parameter
        parameter.sub_(rates.view(-1, *[1] * (change.dim() - 1)) * change)


def _stacked(work: Work) -> nn.Module:
    """The model of all lanes with their initial weights."""
    return lane_layers.stack([model_of(work.cell, run.seed) for run in lane_runs(work)])


def products(work: Work, told: Callable[[float, float], None]) -> None:
    """Products of float32 matrices; tells after about a second each time how many floating-point operations it made."""
    side, count = SIDE[work.device], 1
    one, other = (torch.randn(side, side, device=work.device) for _ in range(2))
    while True:
        began = monotonic()
        for _ in range(count):
            out = torch.mm(one, other)
        value = out[0, 0].item()  # waits for the device
        seconds = monotonic() - began
        told(value, 2.0 * side**3 * count)
        count = max(count, round(1 / seconds))


def flops_of_step(model: nn.Module, shape: tuple[int, int, int], batch_size: int) -> int:
    """Floating-point operations of a step's products and convolutions, forward and backward: counted without data."""
    model = model.to("meta").train()
    images = torch.empty(batch_size, *shape, device="meta")
    labels = torch.empty(batch_size, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(images), labels).backward()
    return counter.get_total_flops()


class _Enough(Exception):
    """Enough is known."""


def usual_speed(cell: Cell, device: str, seconds: float) -> float:
    """About how many images/s the usual loop trains as one process, from epochs of 8 steps."""
    work, times = Work(cell, 8 * cell.batch_size, device=device), []

    def told(loss: float) -> None:
        times.append(monotonic())
        if len(times) > 1 and times[-1] - times[0] > seconds:
            raise _Enough

    with contextlib.suppress(_Enough):
        usual(work, told)
    return work.images * (len(times) - 1) / (times[-1] - times[0])
