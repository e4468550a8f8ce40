"""Examines a model of the user's own: whether it can be trained to the bit again, and in lanes or alone.

`python -m smallbatch.training.own_models.examination FILE` answers the questions that come as JSON on standard input
into FILE.
With `--elsewhere` it only trains each model for a few updates, in another place, see `short_training`.
"""

import contextlib
import functools
import json
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.core.files import write_json
from smallbatch.training import lanes
from smallbatch.training.distributed import ALONE
from smallbatch.training.engines.updates import BLOCK_IMAGES, BLOCK_VALUES
from smallbatch.training.network import Network
from smallbatch.training.own_models import Question, Suitability
from smallbatch.training.own_models.hidden_state import remembered
from smallbatch.training.own_models.outside_access import nothing_outside, without_calls
from smallbatch.training.own_models.recording import Drawn, Watch, made_by_norms, marking_norms, no_values, settings
from smallbatch.training.own_models.set_order import sorted_sets
from smallbatch.training.own_models.short_training import another_place, short_training
from smallbatch.training.sgd import LaneSGD

EXAMPLES, SUB_BATCH = 4, 2
"""Of a mini-batch that is tried, and of a batch statistic."""

LANES = 3
"""Lanes that are compared with their models alone; one as well."""

SCALES = 1.0, 100.0, 0.01
"""Of the images of each lane: what depends on how large they are is to differ between lanes."""

MANY_IMAGES, MANY_PIXELS = 256, 1 << 18
"""Of the largest mini-batch that is computed: what a model does only with many."""

MOST_IMAGES = 1 << 16
"""Of the largest mini-batch of which only the shapes are computed."""

DIVERGED = math.nan, math.inf, 1e30, 1e300
"""What a lane that diverges has in images or weights; its neighbours are to know nothing of it."""

ONLY_VALUES_TELL = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedFakeTensorException,
    fake_tensor.UnsupportedOperatorException,
)
"""Why a pass of shapes ends where one with values would go on."""

ROUNDING = 1e-7
"""Of the largest value: what may differ in double precision."""

IN_PARTS = 1e-3
"""Of the largest value: what a mini-batch in parts may differ in, in single precision."""

SEED = 20
"""Of what a model draws in a pass, unless said; no model would choose it for itself."""

TEST_OPERATIONS = 1e11
"""Multiplications and additions of the largest test batch that is computed."""

NORMS = "batch", "group"
"""For which `norms` makes layers."""

State = Mapping[str, Tensor]


class Pass(NamedTuple):
    """What a pass forwards and backwards gives: logits, gradients by parameter, and the tensors that it leaves."""

    logits: Tensor
    gradients: dict[str, Tensor]
    left: dict[str, Tensor]

    @property
    def numbers(self) -> list[Tensor]:
        """All of it."""
        return [self.logits, *self.gradients.values(), *self.left.values()]


def examine(asked: Question) -> Suitability:
    """How a model can be trained.

    Raises:
        UserError: it cannot, or not as its settings say.
    """
    where = f"model {asked.model} ({models.source(asked.place)})"
    heard = nothing_outside(models.files(asked.place), where)
    with _plain_torch(), heard, models.errors_in_one_line(asked.model, "its check fails"):
        return _Examination(asked).outcome()


def train_shortly(asked: Question, *, resumed: bool) -> dict[str, str]:
    """See `short_training`.

    Raises:
        UserError: the model cannot be made or trained.
    """
    examination = _Examination(asked)
    with _plain_torch(), models.errors_in_one_line(asked.model, "its training fails"):
        return short_training(examination.made, examination.images, examination.labels, resumed=resumed)


@contextlib.contextmanager
def _plain_torch() -> Iterator[None]:
    """One thread on the CPU in single precision; whatever a model sets of torch is set back."""
    threads, kind, kernels = torch.get_num_threads(), torch.get_default_dtype(), torch._C._get_mkldnn_enabled()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(kind)
        torch._C._set_mkldnn_enabled(kernels)


class _Examination:
    def __init__(self, asked: Question) -> None:
        self.asked = asked
        draws = torch.Generator().manual_seed(0)
        self.images = torch.randn(LANES, EXAMPLES, *asked.shape, generator=draws)
        self.labels = torch.randint(asked.classes, (LANES, EXAMPLES), generator=draws)

    def outcome(self) -> Suitability:
        draws = self._check_alone()
        self._check_sizes(draws)
        splits = not draws and self._splits()
        with without_calls():
            reason = "it draws random numbers in training" if draws else self._why_no_lanes()
        if reason:
            self._check_step()
        return Suitability(reason, draws, splits, self._least())

    def _refuse(self, text: str) -> NoReturn:
        raise UserError(f"model {self.asked.model} ({models.source(self.asked.place)}): {text}")

    def _made_for(self, count: int) -> nn.Module:
        """A model that takes mini-batches of this size."""
        return self.made(1, count if count % SUB_BATCH else SUB_BATCH)

    def made(self, seed: int, sub_batch: int = SUB_BATCH) -> nn.Module:
        """The model with the initial weights of a seed."""
        a = self.asked
        norms = {"norm": a.norm, "norm_layers": a.norm_layers, "bn_batch_size": sub_batch}
        with self._watched("initial weights"), marking_norms():
            return models.build(a.model, a.shape, a.classes, **norms, seed=seed)

    @contextlib.contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        """See that nothing is drawn from generators that are not seeded."""
        before, set_before = (random.getstate(), np.random.get_state()), settings()
        with models.errors_in_one_line(self.asked.model, f"its {what} fails"):
            yield
        if random.getstate() != before[0]:
            self._refuse(f"its {what} draws from Python's module random; allowed: torch's random numbers")
        if not all(map(np.array_equal, np.random.get_state(), before[1])):
            self._refuse(f"its {what} draws from numpy.random; allowed: torch's random numbers")
        if changed := [name for name, value in settings().items() if set_before[name] != value]:
            self._refuse(f"its {what} sets torch's {changed[0]} for the whole process; allowed: a model that does not")

    def _pass(self, model: nn.Module, images: Tensor, *, training: bool, seed: int = SEED) -> Pass:
        """A pass through a model that has the tensors that it is to have; whose gradients are then those alone."""
        what = _pass_in_words(len(images), training=training)
        with self._watched(what):
            model.train(training)
            model.zero_grad()
            torch.manual_seed(seed)
            given = images.clone()
            logits = model(given)
        self._check_logits(logits, len(images))
        if given._version or not torch.equal(given, images):
            self._refuse(
                "it changes its images in place; allowed: a copy of them, as by x = x.clone(), or inplace=False"
            )
        if torch.initial_seed() != seed:
            self._refuse(f"its {what} seeds torch's random numbers; allowed: to draw them, as the run's seed has them")
        with self._watched(what):
            F.cross_entropy(logits, self._labels(len(images))).backward()
        gradients = {name: own.grad.clone() for name, own in model.named_parameters() if own.grad is not None}
        return Pass(logits.detach(), gradients, _state(model))

    def _labels(self, count: int) -> Tensor:
        return torch.arange(count) % self.asked.classes if count > EXAMPLES else self.labels.flatten()[:count]

    def _check_logits(self, logits: object, images: int) -> None:
        wanted = f"logits [images, {self.asked.classes}], one for each class"
        if not isinstance(logits, Tensor):
            self._refuse(f"it returns a {type(logits).__name__}; allowed: {wanted}")
        if tuple(logits.shape) != (images, self.asked.classes) or not logits.is_floating_point():
            self._refuse(f"it returns {list(logits.shape)} of {images} images, {logits.dtype}; allowed: {wanted}")
        if not logits.requires_grad:
            self._refuse("nothing of it can be trained: its logits depend on no parameter that has gradients")

    def _check_alone(self) -> bool:
        """Make sure that the model can be trained at all, the same each time; returns whether it draws."""
        model, again = self.made(1), self.made(1)
        self._check_tensors(model)
        self._check_seeds()
        self._check_parts()
        start = _state(model)
        if not _same(start.values(), _state(again).values()):
            self._refuse("its initial weights differ from one time to the next; allowed: torch's random numbers")
        self._check_norm(self.made(1))
        images = self.images[0]
        first = self._pass(model, images, training=True)
        if not first.logits.isfinite().all():
            self._refuse("its initial weights give logits that are not finite; allowed: finite numbers")
        self._check_memory(model, images)
        draws = self._draws(model, images) or any(map(self._draws_of_many, (self.computed, MOST_IMAGES)))
        model.load_state_dict(start)
        if not _same(first.numbers, self._pass(model, images, training=True).numbers):
            self._refuse(
                "a training pass differs from one time to the next with the same weights, images and random numbers of "
                "torch; allowed: no clock, no other random numbers, and buffers for what it remembers"
            )
        again.load_state_dict(first.left)
        model.load_state_dict(first.left)
        for training in (False, True):
            if not _same(*(self._pass(one, images, training=training).numbers for one in (model, again))):
                self._refuse("it remembers what its state_dict does not have; allowed: register_buffer")
        self._check_tests(model)
        return draws

    def _check_memory(self, model: nn.Module, images: Tensor) -> None:
        """A pass changes nothing but parameters and buffers; the first ones may fill what later ones only read."""
        files, marks = models.files(self.asked.place), []
        for _ in range(2):
            for training in (True, False):
                self._pass(model, images, training=training)
            with without_calls():
                marks.append(remembered(model, files))
        before, after = marks
        if changed := [name for name, mark in after.items() if before.get(name) != mark]:
            self._refuse(f"it changes {changed[0]} as it trains, which no checkpoint has; allowed: register_buffer")

    def _check_tensors(self, model: nn.Module) -> None:
        if not any(own.requires_grad for own in model.parameters()):
            self._refuse("it has no parameters to train")
        extra = [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]
        if extra:
            self._refuse(f"its state_dict has {extra[0]}, which is no tensor; allowed: parameters and buffers")

    def _check_seeds(self) -> None:
        """What is drawn for initial weights is another for another seed."""
        with Drawn() as drawn:
            one = self.made(1)
        other = dict(self.made(2).named_parameters())
        for name, own in one.named_parameters():
            same = name in other and _same([own.detach()], [other[name].detach()])
            if same and own.requires_grad and drawn.has(own) and (own != own.flatten()[0]).any():
                self._refuse(
                    f"its initial weights {name} are random, but the same for each seed; allowed: random numbers of "
                    "torch's global generator, which is never seeded by a model"
                )

    def _check_parts(self) -> None:
        """All of its parameters and buffers are there before it runs."""
        model = self.made(1)
        before = {name: tuple(own.shape) for name, own in model.state_dict().items()}
        self._pass(model, self.images[0], training=True)
        after = {name: tuple(own.shape) for name, own in model.state_dict().items()}
        if others := sorted({name for name, _ in before.items() ^ after.items()}):
            self._refuse(
                f"it makes {others[0]} as it trains; allowed: parameters and buffers that are there, in their shape, "
                "when it is made"
            )

    def _check_norm(self, model: nn.Module) -> None:
        """It normalises as its study says; what it computes by hand is not seen."""
        norm = self.asked.norm
        if norm in NORMS and not any(map(made_by_norms, model.modules())):
            self._refuse(
                f"it has no layer that `norms` made, so norm: {norm} would change nothing; allowed: norm: none or own"
            )
        for training in (True, False):
            start = _state(model)
            with Watch(model) as seen:
                given = self._pass(model, self.images[0], training=training)
            self._check_normed(seen, _pass_in_words(EXAMPLES, training=training))
            if training:
                self._check_trained(seen, start, given)

    def _check_normed(self, seen: Watch, what: str) -> None:
        norm = self.asked.norm
        if seen.strange and norm != "own":
            layer, function = seen.strange[0]
            self._refuse(
                f"its {layer} normalises ({function}), and norm: {norm} says otherwise; allowed: layers that `norms` "
                "makes, or norm: own for a model that brings its own"
            )
        if norm in NORMS and not seen.normed:
            self._refuse(
                f"its {what} calls no layer that `norms` made, so norm: {norm} would change nothing; allowed: norm: "
                "none or own"
            )

    def _check_trained(self, seen: Watch, start: State, given: Pass) -> None:
        """Layers of `norms` that are called normalise by this mini-batch, and their weights are trained."""
        if self.asked.norm not in NORMS:
            return
        for layer in sorted(seen.normed):
            mean = f"{layer}.running_mean"
            if mean in start and torch.equal(start[mean], given.left[mean]):
                self._refuse(
                    f"its layer {layer} takes no statistics of the mini-batch; allowed: layers of `norms` in the mode, "
                    "train or eval, of the model"
                )
        names = [f"{layer}.{weight}" for layer in seen.normed for weight in ("weight", "bias")]
        if not any(name in given.gradients and given.gradients[name].any() for name in names):
            self._refuse(
                f"no layer of `norms` has a gradient, so norm: {self.asked.norm} would change nothing; allowed: norm: "
                "none or own"
            )

    def _draws(self, model: nn.Module, images: Tensor, *, training: bool = True) -> bool:
        """Whether torch's generator is another after a pass."""
        torch.manual_seed(SEED)
        before = torch.get_rng_state()
        self._pass(model, images, training=training)
        return not torch.equal(before, torch.get_rng_state())

    def _draws_of_many(self, count: int) -> bool:
        """As `_draws`, of a larger mini-batch; of one that it does not take nothing is known."""
        with contextlib.suppress(UserError):
            seen = self._pass_of_many(count, training=True)
            return seen is not None and seen.drew
        return False

    def _check_sizes(self, draws: bool) -> None:
        """It takes the study's batch sizes, and as many test images as come at once; and is the same model at each."""
        usual = self._pass_of_many(EXAMPLES, training=True) if self.asked.sizes else None
        seen: dict[int, Watch | None] = {}
        for count in self.asked.sizes:
            # How many it takes at least is found otherwise.
            with contextlib.suppress(UserError) if count < EXAMPLES else contextlib.nullcontext():
                seen[count] = self._pass_of_many(count, training=True)
        for count, pass_ in seen.items():
            if pass_ and usual:
                self._check_size(count, pass_, usual, draws)
        if self.asked.sizes:
            self._check_test_sizes()

    def _check_size(self, count: int, seen: Watch, usual: Watch, draws: bool) -> None:
        if seen.drew and not draws:
            self._refuse(f"it draws random numbers at m = {count}, but not at all; allowed: the same at each m")
        self._check_normed(seen, _pass_in_words(count, training=True))
        others = seen.called ^ usual.called | seen.normed ^ usual.normed
        if others and (self.shapes_tell or not draws):  # what it draws may choose its layers
            self._refuse(
                f"at m = {count} it calls other layers than at m = {EXAMPLES} ({min(others)}); allowed: the same at "
                "each m"
            )

    def _check_test_sizes(self) -> None:
        """An image's logits are the same however many are tested at once."""
        most = min(BLOCK_IMAGES, BLOCK_VALUES // math.prod(self.asked.shape))
        usual = self._pass_of_many(EXAMPLES, training=False)
        for count in sorted({most, *(2**power for power in range(3, most.bit_length(), 2))}):
            with without_calls():
                seen = self._pass_of_many(count, training=False)
            if count == most or seen is None or usual is None or seen.operations != usual.operations:
                self._check_tests_of_many(count)

    def _check_tests_of_many(self, count: int) -> None:
        """As `_check_tests`, of so many images; if that does not take long."""
        model, images = self.made(1).eval(), self._many(count)
        few = min(self.computed, count)
        with torch.no_grad(), FlopCounterMode(display=False) as counter, self._watched("test pass"):
            parts = [model(part.clone()) for part in images[:few].split(EXAMPLES)]
        sizes = (few, count) if 2 * counter.get_total_flops() / few * count < TEST_OPERATIONS else (few,)
        for size in sizes:
            with torch.no_grad(), self._watched(_pass_in_words(size, training=False)):
                logits = model(images[:size].clone())
                parts = parts if size == few else [model(part.clone()) for part in images.split(few)]
            if not _close(logits, torch.cat(parts), 1e-3):
                self._refuse(
                    f"in testing an image's logits depend on how many are beside it ({size}); allowed: a model where "
                    "they do not"
                )

    def _pass_of_many(self, count: int, *, training: bool) -> Watch | None:
        """What a pass of many images does; none where it would take long to know.

        Raises:
            UserError: the pass fails.
        """
        failed = None
        if self.shapes_tell:
            try:
                return self._pass_of_shapes(count, training=training)
            except UserError as error:
                failed = error
        if count > self.computed:
            if failed is None or isinstance(failed.__cause__, ONLY_VALUES_TELL):
                return None
            raise failed
        model, images = self._made_for(count), self._many(count)
        with Watch(model) as seen:
            drew = self._draws(model, images, training=training)
        seen.drew |= drew
        return seen

    @functools.cached_property
    def shapes_tell(self) -> bool:
        """Whether the model's passes can do with the shapes of tensors."""
        try:
            self._pass_of_shapes(EXAMPLES, training=True)
            self._pass_of_shapes(EXAMPLES, training=False)
        except UserError:
            return False
        return True

    @property
    def computed(self) -> int:
        """Images of the largest mini-batch that is computed."""
        return min(MANY_IMAGES, max(2 * EXAMPLES, MANY_PIXELS // math.prod(self.asked.shape) // 2 * 2))

    def _pass_of_shapes(self, count: int, *, training: bool) -> Watch:
        """As `_pass_of_many`, by tensors without values, which take neither time nor memory."""
        model = self._made_for(count).train(training)
        what = _pass_in_words(count, training=training)
        with self._watched(what), fake_tensor.FakeTensorMode(allow_non_fake_inputs=True), Watch(model) as seen:
            logits = model(torch.empty(count, *self.asked.shape))
        self._check_logits(logits, count)
        return seen

    def _check_tests(self, model: nn.Module) -> None:
        """Testing changes nothing, draws nothing, and treats each image alone."""
        images, before = self.images[0], _state(model)
        one, other = (self._pass(model, images, training=False, seed=seed) for seed in (1, 2))
        if not _same(before.values(), other.left.values()):
            self._refuse("in testing it changes its buffers; allowed: a model that in eval mode does not")
        if not _same(one.numbers, other.numbers):
            self._refuse("in testing it draws random numbers; allowed: a model that in eval mode does not")
        alone = self._pass(model, images[:1], training=False)
        if not _close(alone.logits, one.logits[:1], 1e-3):
            self._refuse(
                "in testing an image's logits depend on the images beside it; allowed: a model where they do not"
            )

    def _splits(self) -> bool:
        """Whether a mini-batch in parts gives the losses, gradients and buffers that it gives at once."""
        few = SUB_BATCH if self.asked.norm == "batch" else 1
        many = max(SUB_BATCH, self.computed // 4 // SUB_BATCH * SUB_BATCH)
        return self._in_parts(EXAMPLES, few) and self._in_parts(self.computed, many)

    def _in_parts(self, count: int, part: int) -> bool:
        """As `_splits`, of so many images; of as many as the model does not take at all nothing is known."""
        images, labels = self._many(count), self._labels(count)[:, None]
        try:
            whole = self._network(splits=False, batch_size=count)
            losses = whole.gradients(images, labels)
        except Exception:  # whatever a model's code says to so many
            return count > EXAMPLES
        parts = self._network(splits=True, batch_size=count, images_at_once=part)
        try:
            same = _close(parts.gradients(images, labels), losses, IN_PARTS)
        except Exception:  # to so few
            return False
        return (
            same
            and _all_close(_gradients(parts), _gradients(whole))
            and all(
                _close(parts.model.state_dict()[name], tensor, IN_PARTS)
                for name, tensor in whole.model.state_dict().items()
            )
        )

    def _many(self, count: int) -> Tensor:
        """So many images; those beyond the first ones are none of them twice."""
        have = self.images.flatten(0, 1)
        more = torch.randn(max(0, count - len(have)), *self.asked.shape, generator=torch.Generator().manual_seed(2))
        return torch.cat([have, more])[:count]

    def _network(self, *, splits: bool, batch_size: int = EXAMPLES, images_at_once: int | str = "auto") -> Network:
        """As the engine has it of a model that is trained alone."""
        return Network(
            lanes.Alone(self.made(1)),
            batch_size=batch_size,
            bn_batch_size=SUB_BATCH if self.asked.norm == "batch" else 1,
            images_at_once=images_at_once,
            pixels=1,
            precision="float32",
            device=torch.device("cpu"),
            world=ALONE,
            splits=splits,
        )

    def _least(self) -> int:
        """The fewest examples of a mini-batch."""
        for examples in (1, SUB_BATCH):
            with contextlib.suppress(UserError):
                if examples >= SUB_BATCH or self.asked.norm != "batch":
                    self._pass(self.made(1), self.images[0, :examples], training=True)
                    return examples
        return EXAMPLES

    def _why_no_lanes(self) -> str:
        """What keeps the model from being trained in lanes; nothing if lanes are the same as their models alone."""
        kind = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            for count, layout in ((1, torch.contiguous_format), (LANES, torch.channels_last)):
                if difference := self._difference(count, layout):
                    return difference
            if any(map(self._reaches_others, DIVERGED)):
                return "a layer mixes lanes"
        except lanes.NoLaneForm as reason:
            return str(reason)
        except UserError:
            raise
        except Exception as error:  # whatever a model's code says to lanes
            return f"lanes break it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        finally:
            torch.set_default_dtype(kind)
        return ""

    def _difference(self, count: int, layout: torch.memory_format) -> str:
        """In what lanes of different weights and images differ from their models alone, in double precision."""
        alone = self._models_alone(count)
        stacked, images = lanes.stack(alone), self.images[:count].double()
        scales = torch.tensor(SCALES[:count], dtype=images.dtype)[:, None, None, None, None]
        # The second time with what the first one left in buffers.
        for training, shown in ((True, images), (True, images * scales), (False, images * scales), (False, images)):
            if not self._equal(stacked, alone, shown, layout=layout, training=training):
                return "a layer mixes lanes"
        return ""

    def _reaches_others(self, value: float) -> bool:
        """Whether a first lane whose images and weights are all of this value changes the other lanes in training."""
        alone = self._models_alone(LANES)
        stacked, images = lanes.stack(alone), self.images.double()
        images[0] = value
        with torch.no_grad():
            for own in stacked.parameters():
                own[0] = value
        return not self._equal(stacked, alone, images, layout=torch.contiguous_format, training=True, first=1)

    def _models_alone(self, count: int) -> list[nn.Module]:
        return [lanes.moved(self.made(seed).double(), seed) for seed in range(count)]

    def _equal(
        self,
        stacked: nn.Module,
        alone: Sequence[nn.Module],
        images: Tensor,
        *,
        layout: torch.memory_format,
        training: bool,
        first: int = 0,
    ) -> bool:
        """Whether a pass of lanes [lanes, examples, ...] gives what those from `first` on give alone."""
        stacked.train(training).zero_grad()
        with no_values():
            logits = stacked(images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=layout))
        if logits.shape != (EXAMPLES, len(alone) * self.asked.classes):
            return False
        logits = logits.unflatten(1, (len(alone), -1))
        # Each example and class weighs something of its own.
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
        with no_values():
            (logits * weights).sum().backward()
        for lane in range(first, len(alone)):
            model = alone[lane].train(training)
            model.zero_grad()
            own = model(images[lane].clone())
            (own * weights[:, lane]).sum().backward()
            if not (_close(logits[:, lane], own, ROUNDING) and _lane_equals(stacked, lane, model)):
                return False
        return True

    def _check_step(self) -> None:
        """Make sure that what the engine makes of the model alone is what torch's own SGD makes of it."""
        plain, images, labels = self.made(1), self.images[0], self.labels[0]
        network = self._network(splits=False)
        ours = LaneSGD(network.parameters, [0.01], 0.1, 0.5)
        theirs = torch.optim.SGD(plain.parameters(), lr=0.01, weight_decay=0.1, momentum=0.5)
        for step in range(2):
            with self._watched("training step"):
                torch.manual_seed(step)
                network.gradients(images, labels[:, None])
                ours.step(1.0)
                torch.manual_seed(step)
                theirs.zero_grad()
                F.cross_entropy(plain.train()(images.clone()), labels).backward()
                theirs.step()
        found, wanted = lanes.lane_state(network.model, 0), plain.state_dict()
        if not all(_close(found[name], tensor, 1e-3) for name, tensor in wanted.items()):
            self._refuse("SGD on its parameters is another than torch.optim.SGD; allowed: parameters without hooks")
        with self._watched("file of weights"):
            save(found)


def _pass_in_words(count: int, *, training: bool) -> str:
    return f"{'training' if training else 'test'} pass" + (f" of {count} images" if count > EXAMPLES else "")


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _same(ours, theirs) -> bool:
    """Whether tensors are the same to the bit; what is no number is the same as itself."""
    pairs = zip(ours, theirs, strict=True)
    return all(a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _close(ours: Tensor, theirs: Tensor, rounding: float) -> bool:
    """Whether tensors differ by rounding only; what is no number is close to nothing."""
    ours, theirs = ours.detach(), theirs.detach()
    if not theirs.is_floating_point():
        return torch.equal(ours, theirs)
    largest = theirs.abs().max().item() if theirs.numel() else 0.0
    if not math.isfinite(largest):
        return False
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=0.0, atol=rounding * largest + 1e-12)


def _gradients(network: Network) -> list[Tensor | None]:
    return [own.grad for own in network.parameters]


def _all_close(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> bool:
    """Whether gradients differ by rounding only, of the largest of them: some are nothing but rounding."""
    if any((a is None) != (b is None) for a, b in zip(ours, theirs, strict=True)):
        return False
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    largest = max((b.abs().max().item() for _, b in pairs), default=0.0)
    return all(torch.allclose(a, b, rtol=0.0, atol=IN_PARTS * largest) for a, b in pairs)


def _lane_equals(stacked: nn.Module, lane: int, model: nn.Module) -> bool:
    """Whether a lane's gradients and tensors are its model's."""
    found = {name: own.grad for name, own in stacked.named_parameters()}
    wanted = {name: own.grad for name, own in model.named_parameters()}
    if found.keys() != wanted.keys() or any((found[name] is None) != (wanted[name] is None) for name in wanted):
        return False
    gradients = [(found[name][lane], own) for name, own in wanted.items() if own is not None]
    scale = max((own.abs().max().item() for _, own in gradients), default=0.0)
    state, own = stacked.state_dict(), model.state_dict()
    return (
        state.keys() == own.keys()
        and all(torch.allclose(a, b, rtol=0.0, atol=ROUNDING * scale) for a, b in gradients)
        and all(_close(state[name][lane], tensor, ROUNDING) for name, tensor in own.items())
    )


def main() -> None:
    """Answer questions one by one, so that whoever asked knows at which of them this process ended."""
    file, elsewhere = Path(sys.argv[1]), "--elsewhere" in sys.argv[2:]
    questions = [_question(values) for values in json.load(sys.stdin)]
    models.MODELS.update({asked.model: asked.place for asked in questions})
    answers: list[dict[str, Any]] = []
    place = another_place() if elsewhere else contextlib.nullcontext()
    with place, sorted_sets(_files(questions), reverse=elsewhere):
        for asked in questions:
            try:
                found = {} if elsewhere else {"suitability": examine(asked)._asdict()}
                answers.append(found | {"training": train_shortly(asked, resumed=not elsewhere)})
            except UserError as refused:
                answers.append({"refused": str(refused)})
            write_json(file, answers)


def _question(values: Sequence[Any]) -> Question:
    asked = Question(*values)
    return asked._replace(shape=tuple(asked.shape), sizes=tuple(asked.sizes))


def _files(questions: Sequence[Question]) -> set[str]:
    """Those of all models, by the names that they are imported by and by their own."""
    files = {file for asked in questions for file in (models.source(asked.place), *models.files(asked.place))}
    return set(map(str, files))


if __name__ == "__main__":
    main()
