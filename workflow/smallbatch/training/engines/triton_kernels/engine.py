"""Updates by the Triton kernels, captured as one CUDA graph together with the loading of their mini-batches."""

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from smallbatch.core.errors import refuse
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.models import is_own
from smallbatch.study.experiments import Run, Setting
from smallbatch.training.batches import BatchLoader, EpochPlan
from smallbatch.training.distributed import World
from smallbatch.training.engines import cached_models
from smallbatch.training.engines.cuda_graphs import GraphEngine
from smallbatch.training.engines.trace import Graph, Unsupported
from smallbatch.training.network import Network
from smallbatch.training.optimizers import LaneSGD
from smallbatch.training.own_models import suitability
from smallbatch.training.resources import device as devices

if TYPE_CHECKING:
    from smallbatch.training.engines.triton_kernels.gradients_without_update import Gradients
    from smallbatch.training.engines.triton_kernels.inference import Inference

log = logging.getLogger(__name__)

MAX_PIXELS = 128 * 128
"""Maximum number of pixels of an image: photos are left to cuDNN, as few of their runs are trained at once."""

MAX_TEST_IMAGES, MAX_TEST_VALUES = 1 << 14, 1 << 26
"""Maximum number of images of all lanes that are tested at once, and of their pixel values: a launch from the host
takes some 30 us, and a batch needs a dozen."""


class TritonEngine(GraphEngine):
    """Updates of all lanes at once, with a few dozen launches per step.

    Packed weights belong to the kernels during a block; everything else stays in torch's memory. Mini-batches that have
    to be divided into micro-batches are left to torch.

    Args:
        network: network of the lanes.
        optimizer: the lanes' optimiser, with their rates and its state.
        loader: loader of their mini-batches.
        graph: graph of the model.
    """

    optimizer: LaneSGD

    def __init__(self, network: Network, optimizer: LaneSGD, loader: BatchLoader, graph: Graph) -> None:
        super().__init__(network, optimizer, loader)
        self.graph = graph
        self.test_program: Inference | None = None
        self.gradient_program: Gradients | None = None
        self._check_labels(graph.logits.channels)

    def _check_labels(self, classes: int) -> None:
        """Check the labels once, since the kernels do not: they would ignore an invalid label."""
        smallest, largest = (bound.item() for bound in self.loader.train_labels.aminmax())
        if smallest < 0 or largest >= classes:
            allowed = f"0 to {classes - 1}, the classes"
            refuse(f"experiment on {self.loader.setting.data}", "labels", f"{smallest} to {largest}", allowed)

    def _allocate(self, plan: EpochPlan) -> None:
        from smallbatch.training.engines.triton_kernels.program import Program

        super()._allocate(plan)
        names = [name for name, _ in self.network.model.named_parameters()]
        self.program = Program(
            self.graph,
            self._tensors(),
            dict(zip(names, self.optimizer.state, strict=True)) if self.optimizer.state else {},
            m=self.network.local_batch,
            sub_batch=self.network.smallest_micro_batch if self.network.norms else self.network.local_batch,
            precision=self.loader.setting.precision,
            sgd=self.optimizer,
        )

    @contextlib.contextmanager
    def normalising(self, sub_batch: int) -> Iterator[None]:
        """As `Updates.normalising`; the buffers for gradients are freed afterwards."""
        with super().normalising(sub_batch):
            yield
        self.gradient_program = None

    @torch.no_grad()
    def gradients(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """As `Updates.gradients`."""
        from smallbatch.training.engines.triton_kernels import layer_layout
        from smallbatch.training.engines.triton_kernels.gradients_without_update import Gradients

        count, network = len(images), self.network
        if not (self.at_once and layer_layout.fits(self.graph, count)):
            with torch.enable_grad():
                return super().gradients(images, labels)
        if self.gradient_program is None or self.gradient_program.count != count:
            self.gradient_program = Gradients(
                self.graph,
                dict(network.model.named_parameters()),
                dict(network.model.named_buffers()),
                count=count,
                sub_batch=network.norms[0].sub_batch if network.norms else count,
                precision=self.loader.setting.precision,
            )
        return self.gradient_program.compute(images, labels)

    def _tensors(self) -> dict[str, Tensor]:
        model = self.network.model
        return dict(model.named_parameters()) | dict(model.named_buffers())

    @property
    def test_images(self) -> int:
        """Number of images of all lanes that are tested at once."""
        return test_batch_size(self.graph)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """As `Updates.logits`."""
        from smallbatch.training.engines.triton_kernels.inference import Inference

        if self.test_program is None or self.test_program.count < len(images):
            self.test_program = Inference(self.graph, self._tensors(), len(images), self.loader.setting.precision)
        return self.test_program.compute(images)

    def block(self, plan: EpochPlan, first: int, last: int, factors: Sequence[float]) -> Tensor:
        """As `Updates.block`."""
        with torch.no_grad():
            return super().block(plan, first, last, factors)

    def _run(self, plan: EpochPlan, steps: range) -> None:
        self.program.load()
        super()._run(plan, steps)
        self.program.store()

    def _make_step(self, images: Tensor, labels: Tensor, negative_rates: Tensor) -> Tensor:
        return self.program.step(images, labels, negative_rates)


def test_batch_size(graph: Graph) -> int:
    """Number of images of all lanes, limited so that offsets fit if all belong to one lane."""
    from smallbatch.training.engines.triton_kernels import layer_layout

    most = min(
        MAX_TEST_IMAGES,
        MAX_TEST_VALUES // math.prod(graph.input.shape),
        layer_layout.MAX_ELEMENTS // layer_layout.largest(graph),
    )
    return max(1, most)


def graph_for(
    alone: nn.Module, run: Run, shape: tuple[int, int, int], device: torch.device, world: World
) -> Graph | None:
    """The graph of a run's model, if the kernels support it and the recipe and there is a suitable GPU; else None.

    If only the model or the recipe is unsupported, the reason is logged.

    Args:
        alone: the model of one lane.
        run: a run, or a `local_run`.
        shape: image shape: channels, height, width.
        device: device to run on.
        world: the processes that share each mini-batch.
    """
    if not _suit(shape, device, world):
        return None
    try:
        return _traced(alone, run, shape)
    except Unsupported as reason:
        log.info(
            "trained by torch's kernels, slower where batches are small; of this training ours do not know: %s", reason
        )
        return None


def graph_of(run: Run, dataset: DatasetInfo, device: torch.device, world: World) -> Graph | None:
    """The graph of a run's model, as from `graph_for`, but without a log message; the run may be a `local_run`."""
    s, classes = run.setting, dataset.classes
    suits = suitability(s, dataset.shape, classes)
    if not (_suit(dataset.shape, device, world) and suits.lanes and suits.splittable):
        return None
    with contextlib.suppress(Unsupported):
        return _traced(cached_models.model_of(run, dataset.shape, classes), run, dataset.shape)
    return None


def _suit(shape: tuple[int, int, int], device: torch.device, world: World) -> bool:
    has_triton = devices.triton_version(device) is not None
    return has_triton and world.size == 1 and math.prod(shape[1:]) <= MAX_PIXELS


def _traced(alone: nn.Module, run: Run, shape: tuple[int, int, int]) -> Graph:
    from smallbatch.training.engines.triton_kernels import layer_layout

    if is_own(run.setting.model):
        raise Unsupported("it is not one of the project's")
    if any(weights.dtype != torch.float32 or not weights.requires_grad for weights in alone.parameters()):
        raise Unsupported("it has parameters that are not trained, or not float32")
    if recipe := _unknown_of(run.setting):
        raise Unsupported(recipe)
    graph = cached_models.graph_of(alone, shape)
    layer_layout.check(graph, run.batch_size)
    return graph


def _unknown_of(s: Setting) -> str:
    """What the kernels do not support of a recipe; empty if they support it."""
    unknown = {
        f"optimizer {s.optimizer}": s.optimizer != "sgd",
        "weights without decay": bool(s.weight_decay_excludes),
        "clipped gradients": s.clip_norm is not None,
        "smoothed labels": s.label_smoothing > 0,
        "mixed images": any(s.mixing.values()),
    }
    return ", ".join(words for words, is_used in unknown.items() if is_used)


def memory(graph: Graph, run: Run) -> tuple[int, int, int]:
    """Maximum bytes beside the lanes' tensors: for a lane, for each of its examples, and for tests of all lanes."""
    from smallbatch.training.engines.triton_kernels import layer_layout

    sub_batch = run.bn_batch_size if run.setting.norm == "batch" else run.batch_size
    lane = layer_layout.floats_per_lane(graph, run.batch_size, sub_batch, run.setting.momentum)
    tested = test_batch_size(graph) * layer_layout.floats_per_test_image(graph)
    return 4 * lane, 4 * layer_layout.floats_per_example(graph), 4 * tested
