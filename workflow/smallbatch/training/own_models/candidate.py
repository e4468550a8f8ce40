"""A model of the user's own under examination: makes it, runs passes, and refuses it by name."""

import contextlib
import functools
import math
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.utils.flop_counter import FlopCounterMode

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.models.initialisation import seed_generators
from smallbatch.training import lane_layers
from smallbatch.training.distributed import ALONE
from smallbatch.training.losses import default_loss
from smallbatch.training.network import Network
from smallbatch.training.own_models.comparisons import clone_state
from smallbatch.training.own_models.norm_layer_tags import marking_norms
from smallbatch.training.own_models.operation_recorder import Recorder
from smallbatch.training.own_models.spec import ModelSpec
from smallbatch.training.own_models.torch_settings import torch_settings

EXAMPLES, SUB_BATCH = 4, 2
"""Number of examples in a small mini-batch, and in a sub-batch of batch normalisation."""

MINI_BATCHES = 3
"""Number of prepared mini-batches: one for each of the lanes that are compared with models alone."""

MANY_IMAGES, MANY_PIXELS = 256, 1 << 18
"""Limits of the largest mini-batch that is computed, to detect behaviour that occurs only with many images."""

SEED = 20
"""Default seed of the random numbers that a model draws in a pass; no model would choose it by itself."""

ONLY_VALUES_TELL = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedFakeTensorException,
    fake_tensor.UnsupportedOperatorException,
)
"""Exceptions that end a pass of shapes although a pass with values would succeed."""


class Pass(NamedTuple):
    """The results of a forward and backward pass: logits, gradients by parameter, and the model's state after it."""

    logits: Tensor
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """All results."""
        return [self.logits, *self.gradients.values(), *self.state.values()]


class Candidate:
    """A model, with images [mini-batches, examples, c, h, w] and labels [mini-batches, examples] for its checks.

    Those of a model with one output are numbers, [mini-batches, examples, 1].
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        draws = torch.Generator().manual_seed(0)
        self.images = torch.randn(MINI_BATCHES, EXAMPLES, *spec.shape, generator=draws)
        self.labels = torch.randint(spec.classes, (MINI_BATCHES, EXAMPLES), generator=draws)
        if spec.classes == 1:  # of one output the cross-entropy is always 0
            self.labels = torch.randn(MINI_BATCHES, EXAMPLES, 1, generator=draws)
        self._records: dict[tuple[int, bool], Recorder] = {}

    @property
    def computed(self) -> int:
        """Number of images of the largest mini-batch that is computed."""
        return min(MANY_IMAGES, max(2 * EXAMPLES, MANY_PIXELS // math.prod(self.spec.shape) // 2 * 2))

    @functools.cached_property
    def flops_per_image(self) -> float:
        """Number of multiplications and additions in a test pass, per image."""
        model = self.build(1).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter, self.guarded("test pass"):
            model(self.images[0].clone())
        return float(counter.get_total_flops()) / EXAMPLES

    @property
    def sub_batch(self) -> int:
        """Number of examples in a sub-batch; 1 without batch normalisation."""
        return SUB_BATCH if self.spec.norm == "batch" else 1

    def build(self, seed: int, sub_batch: int = SUB_BATCH, model: str = "") -> nn.Module:
        """The model, or that of another name, with the initial weights of a seed."""
        s = self.spec
        with self.guarded("initial weights"), marking_norms():
            return models.build(
                model or s.model,
                s.shape,
                s.classes,
                norm=s.norm,
                norm_layers=s.norm_layers,
                bn_batch_size=sub_batch,
                seed=seed,
            )

    def build_for(self, count: int, seed: int = 1) -> nn.Module:
        """A model for mini-batches of `count` examples."""
        return self.build(seed, count if count % SUB_BATCH else SUB_BATCH)

    def network(self, *, splittable: bool, batch_size: int = EXAMPLES, images_at_once: int | str = "auto") -> Network:
        """The network with which the model is trained alone."""
        return Network(
            lane_layers.Alone(self.build(1)),
            batch_size=batch_size,
            bn_batch_size=self.sub_batch,
            images_at_once=images_at_once,
            pixels=1,
            precision="float32",
            device=torch.device("cpu"),
            world=ALONE,
            splittable=splittable,
            loss=default_loss,
        )

    def mini_batches(self, examples: int) -> Tensor:
        """Mini-batches of `examples` examples, [mini-batches, examples, c, h, w]."""
        if examples == EXAMPLES:
            return self.images
        return self.many_images(MINI_BATCHES * examples).reshape(MINI_BATCHES, examples, *self.spec.shape)

    def many_images(self, count: int) -> Tensor:
        """`count` different images, of which the first ones are `images`."""
        have = self.images.flatten(0, 1)
        more = torch.randn(max(0, count - len(have)), *self.spec.shape, generator=torch.Generator().manual_seed(2))
        return torch.cat([have, more])[:count]

    def many_labels(self, count: int) -> Tensor:
        """The labels of `count` images."""
        if count <= EXAMPLES:
            return self.labels.flatten(0, 1)[:count]
        numbers = torch.arange(count)
        return numbers[:, None] / count if self.spec.classes == 1 else numbers % self.spec.classes

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Context that refuses a model whose code draws from unseeded generators or changes torch's settings.

        Args:
            what: the part of the model that is computed, for the error.

        Raises:
            UserError: the code does so, or fails.
        """
        python, numpy, before = random.getstate(), np.random.get_state(), torch_settings()
        with models.errors_in_one_line(self.spec.model, f"its {what} fails"):
            yield
        if random.getstate() != python:
            raise self.spec.error(f"its {what} draws from Python's module random; allowed: torch's random numbers")
        if not all(map(np.array_equal, np.random.get_state(), numpy)):
            raise self.spec.error(f"its {what} draws from numpy.random; allowed: torch's random numbers")
        if changed := [name for name, value in torch_settings().items() if before[name] != value]:
            raise self.spec.error(
                f"its {what} sets torch's {changed[0]} for the whole process; allowed: a model that does not"
            )

    def run(self, model: nn.Module, images: Tensor, *, training: bool, seed: int = SEED) -> Pass:
        """Run a forward and backward pass; the model's gradients are then those of this pass.

        Raises:
            UserError: the pass fails, changes its images, seeds torch, or returns something other than logits.
        """
        what = pass_name(len(images), training=training)
        with self.guarded(what):
            model.train(training)
            model.zero_grad()
            seed_generators(seed)
            given = images.clone()
            logits = model(given)
        self._check_logits(logits, len(images))
        self._refuse_probabilities(logits.detach())
        if given._version or not torch.equal(given, images):
            raise self.spec.error(
                "it changes its images in place; allowed: a copy of them, as by x = x.clone(), or inplace=False"
            )
        if torch.initial_seed() != seed:
            raise self.spec.error(
                f"its {what} seeds torch's random numbers; allowed: to draw them, as the run's seed has them"
            )
        with self.guarded(what):
            default_loss(logits, self.many_labels(len(images))).mean().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return Pass(logits.detach(), gradients, clone_state(model))

    def draws(self, model: nn.Module, images: Tensor, *, training: bool = True) -> bool:
        """Whether a pass changes the state of torch's generator."""
        seed_generators(SEED)
        before = torch.get_rng_state()
        self.run(model, images, training=training)
        return not torch.equal(before, torch.get_rng_state())

    def record_many(self, count: int, *, training: bool) -> Recorder | None:
        """The record of a pass of `count` images; None if it would take too long.

        Raises:
            UserError: the pass fails.
        """
        failed = None
        if self.runs_on_shapes:
            try:
                return self._record_shapes(count, training=training)
            except UserError as error:
                failed = error
        if count > self.computed:
            if failed is None or isinstance(failed.__cause__, ONLY_VALUES_TELL):
                return None
            raise failed
        model, images = self.build_for(count), self.many_images(count)
        with Recorder(model) as record:
            drew = self.draws(model, images, training=training)
        record.drew |= drew
        return record

    @functools.cached_property
    def runs_on_shapes(self) -> bool:
        """Whether the model's passes need only the shapes of tensors."""
        try:
            self._record_shapes(EXAMPLES, training=True)
            self._record_shapes(EXAMPLES, training=False)
        except UserError:
            return False
        return True

    def record_lanes(self, count: int, *, training: bool) -> Recorder | None:
        """The record of a pass of `count` lanes; None if shapes alone are not sufficient."""
        (channels, height, width), alone = self.spec.shape, self.build(1)
        with contextlib.suppress(Exception), torch.device("meta"):  # any exception of the model's code
            stacked = lane_layers.stack([alone.to("meta")] * count).train(training)
            with Recorder(stacked) as record:
                stacked(torch.empty(EXAMPLES, count * channels, height, width))
            return record
        return None

    def _record_shapes(self, count: int, *, training: bool) -> Recorder:
        """As `record_many`, with tensors without values, which takes no memory; cached."""
        if (count, training) not in self._records:
            self._records[count, training] = self._new_record_of_shapes(count, training=training)
        return self._records[count, training]

    def _new_record_of_shapes(self, count: int, *, training: bool) -> Recorder:
        model = self.build_for(count).train(training)
        what = pass_name(count, training=training)
        with self.guarded(what), fake_tensor.FakeTensorMode(allow_non_fake_inputs=True), Recorder(model) as record:
            logits = model(torch.empty(count, *self.spec.shape))
        self._check_logits(logits, count)
        return record

    def _check_logits(self, logits: object, images: int) -> None:
        allowed = f"logits [images, {self.spec.classes}], one for each class"
        if not isinstance(logits, Tensor):
            raise self.spec.error(f"it returns a {type(logits).__name__}; allowed: {allowed}")
        if tuple(logits.shape) != (images, self.spec.classes) or not logits.is_floating_point():
            raise self.spec.error(
                f"it returns {list(logits.shape)} of {images} images, {logits.dtype}; allowed: {allowed}"
            )
        if not logits.requires_grad:
            raise self.spec.error("nothing of it can be trained: its logits depend on no parameter that has gradients")

    def _refuse_probabilities(self, logits: Tensor) -> None:
        """Refuse a model that returns probabilities: the loss would normalise them again, and training hardly work."""
        if self.spec.classes > 1 and bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
            raise self.spec.error("it returns probabilities, as softmax gives them; allowed: logits, without softmax")


def pass_name(count: int, *, training: bool) -> str:
    """The name of a pass of `count` images in error messages."""
    return f"{'training' if training else 'test'} pass" + (f" of {count} images" if count > EXAMPLES else "")
