"""Models of the user's own: how they are trained, measured and compared with kernels."""

from dataclasses import replace

import pytest
import torch
from helpers import a_run
from helpers.lanes import train
from helpers.own_models import CPU, DATASET

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.core.seeds import stream_seed
from smallbatch.data import prepared
from smallbatch.training import own_models, variance
from smallbatch.training.distributed import ALONE
from smallbatch.training.engines.eager import StochasticEngine
from smallbatch.training.engines.native import engine as native
from smallbatch.training.engines.native.memory_layout import MemoryLayout
from smallbatch.training.engines.trace import Graph
from smallbatch.training.own_models import suitability
from smallbatch.training.resources import lane_count, memory
from smallbatch.training.resources.throughput import random_dataset
from smallbatch.training.trainer import LaneTrainer

pytestmark = pytest.mark.usefixtures("one_thread", "empty_cache")


def test_the_random_numbers_of_a_model_are_those_of_the_step(own, data_folder):
    """So a training that is resumed, in a process that has drawn others since, goes on to the bit."""
    own(middle="return self.drop(x)", init="self.drop = nn.Dropout(0.3)")
    run, data = a_run(model="mine"), prepared.read(data_folder)
    whole, stopped = (LaneTrainer([run], data, CPU) for _ in range(2))
    assert type(whole.engine) is StochasticEngine
    before = torch.get_rng_state()
    losses = whole.train_block(whole.plan(), 8)
    assert torch.equal(before, torch.get_rng_state())
    stopped.state.add_losses(stopped.train_block(stopped.plan(), 3))
    torch.rand(17)
    resumed = LaneTrainer([run], data, CPU)
    resumed.restore(stopped.state.state_dict())
    assert torch.equal(resumed.train_block(resumed.plan(), 8), losses[3:])
    for name, tensor in whole.state.model.state_dict().items():
        assert torch.equal(resumed.state.model.state_dict()[name], tensor)
    other = LaneTrainer([replace(run, seed=2)], data, CPU)
    other.restore(stopped.state.state_dict() | {"runs": [replace(run, seed=2).settings]})
    assert not torch.equal(other.engine.block(stopped.plan(), 3, 4, [1.0]), losses[4])


COUNTS, COUNT = "self.register_buffer('n', torch.zeros(()))", "if self.training: self.n += 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("late", "reason"),
    [
        (
            "x - x.mean(0) if not self.training and self.n > 20 else x",
            "in testing an image's logits depend on",
        ),
        (
            "F.layer_norm(x, x.shape[1:]) if self.n > 20 else x",
            r"its Mine normalises \(layer_norm\), and norm: none",
        ),
        ("x * random.random() if self.n > 20 else x", "training pass draws from Python's module random"),
        ("torch.manual_seed(0) and x if self.n > 20 else x", "training pass seeds torch's random numbers"),
    ],
)
def test_what_a_model_does_only_after_some_updates_ends_its_training(late, reason, own, data_folder, tmp_path):
    """A buffer counts them, which is allowed; no check before the training comes so far."""
    own(init=COUNTS, middle=f"{COUNT}\nreturn {late}")
    run = a_run(model="mine", epochs=3)  # of 16 updates
    with pytest.raises(UserError, match=rf"model mine \(.*{reason}.*; so it is after 2 epochs, and was not at first"):
        train([run], prepared.read(data_folder), tmp_path)


def test_random_numbers_that_a_model_draws_only_after_some_updates_are_those_of_the_step(own, data_folder, tmp_path):
    own(init=COUNTS, middle=f"{COUNT}\nreturn F.dropout(x) if self.training and self.n > 20 else x")
    run, data = a_run(model="mine", epochs=2), prepared.read(data_folder)
    assert not suitability(run.setting, DATASET.shape, DATASET.classes).stochastic
    (_, one), (_, two) = (train([run], data, tmp_path)[run] for _ in range(2))
    assert one == two


def test_streams_with_a_step_are_others_and_those_without_stay():
    assert stream_seed(1, "order", 2) == 0x14B9845B68517B94
    seeds = {stream_seed(1, "model", epoch, step) for epoch in range(3) for step in (None, 0, 1, 2)}
    assert len(seeds) == 12


def test_the_variance_of_updates_is_measured_alone(own, data_folder):
    own(middle="return self.drop(x)", init="self.drop = nn.Dropout(0.3)")
    run, data = a_run(model="mine", variance_batch_sizes=(2, 8)), prepared.read(data_folder)
    training = LaneTrainer([run], data, CPU)
    one = variance.measure(training.engine, [run], 0)
    torch.rand(3)
    two = variance.measure(training.engine, [run], 0)
    assert one == two and min(row.trace for row in one[0]) > 0


def test_memory_and_lanes_of_a_model_that_is_trained_alone(own, no_kernels):
    own(middle="return self.drop(x)", init="self.drop = nn.Dropout(0.3)")
    memory.trace.cache_clear()  # in it are models by name
    run = a_run(model="mine", batch_size=4096)
    need = memory.need_of(run, DATASET, CPU, photos=False)
    weights = 4 * (8 * 9 + 8 + 8 * 8 * 9 + 8 + 8 * 4 + 4)
    assert need.lane == 2 * weights + 2 * 64 * 8 and need.example > 4 * 3 * 8 * 64
    whole, half = need.bytes(1, 4096), need.bytes(1, 2048)
    assert whole > half
    room = memory.MemoryBudget((whole + half) // 2, CPU, ALONE, DATASET, False, "auto")
    with pytest.raises(UserError, match="out of memory: mine on made, m=4096"):
        room.lanes_that_fit([run])
    assert own_models.max_lanes(run.setting, DATASET, 9) == 1
    assert lane_count.best_lane_count(run, 1, DATASET, CPU, 1) == 1
    with pytest.raises(UserError, match="model mine: it is trained alone"):
        LaneTrainer([a_run(model="mine")] * 2, random_dataset(DATASET, 64), CPU)


@pytest.mark.slow
def test_kernels_are_compared_by_losses_updates_and_logits(data_folder, monkeypatch):
    training = LaneTrainer([a_run(model="resnet8", norm="batch", b=2)], prepared.read(data_folder), CPU)
    if training.backend.layout is None:
        pytest.skip("no compiler")
    model = training.initial_model(1)
    layout = MemoryLayout(Graph(model, (1, 8, 8)), model.state_dict())
    assert native.matches_torch(model, layout, training.loader)
    make = native.NativeEngine.make
    monkeypatch.setattr(native.NativeEngine, "make", lambda self, batches, factors: make(self, batches, [1.1]))
    assert not native.matches_torch(model, layout, training.loader)


def test_a_model_keeps_the_initial_weights_that_it_makes(own):
    """Fixed filters, zeros and whatever distribution; the paper's rule is for the paper's models."""
    own(init="nn.init.constant_(self.a.weight, 1 / 9); nn.init.zeros_(self.fc.weight); nn.init.uniform_(self.b.bias)")
    built = models.build("mine", (1, 8, 8), 4, seed=1)
    assert (built.a.weight == 1 / 9).all() and (built.fc.weight == 0).all() and (built.b.bias > 0).any()
    assert not torch.equal(built.b.weight, models.build("mine", (1, 8, 8), 4, seed=2).b.weight)


def test_a_model_of_the_project_by_another_name_has_the_papers_weights(monkeypatch):
    monkeypatch.setitem(models.MODELS, "mine", "smallbatch.models.resnet:resnet8")
    ours, theirs = (models.build(name, (3, 32, 32), 10, seed=1).state_dict() for name in ("mine", "resnet8"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
