"""Captured steps equal plain ones; what runs on a GPU only is the capture itself."""

import dataclasses
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from helpers import a_run, check_fields, made_data, own_layers
from helpers.lanes import train_instead
from helpers.own_layers import asked, counted_in_place, kept_in_a_cache, of_chosen, replaced
from safetensors.torch import load
from torch import nn

from smallbatch import models
from smallbatch.data import prepared
from smallbatch.runs.store import RunStore
from smallbatch.training import checkpoints
from smallbatch.training.batches import BatchLoader
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.distributed import ALONE, World
from smallbatch.training.engines import backends, cached_models, capturable, cuda_graphs
from smallbatch.training.engines.cuda_graphs import GraphEngine, GraphEngineAlone
from smallbatch.training.engines.eager import EagerEngine, StochasticEngine
from smallbatch.training.network import Network
from smallbatch.training.optimizers import optimizer_of
from smallbatch.training.pack import train_pack
from smallbatch.training.progress import Progress
from smallbatch.training.resources import device as devices
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")

FULL = {
    "model": "resnet8", "norm": "batch", "batch_size": 4, "b": 2, "augment_pad": 1, "augment_flip": True,
    "warmup": True, "momentum": 0.9, "base_lr": 2**-9, "epochs": 2,
}  # fmt: skip
KINDS = [
    {"optimizer": "adamw", "betas": (0.9, 0.99), "clip_norm": 0.5, "label_smoothing": 0.1},
    {"optimizer": "lion", "betas": (0.9, 0.99), "weight_decay_excludes": ("biases",), "augment_cutmix": 1.0},
    {"augment_mixup": 0.4, "augment_pad": 1, "label_smoothing": 0.1},
    FULL,
    {"model": "alexnet", "augment_pad": 2, "warmup": True, "weight_decay": 0.1, "base_lr": 2**-9},
    {"model": "alexnet", "norm": "group", "augment_flip": True, "augment_cutout": 3, "augment_contrast": 0.5},
    {"model": "resnet8", "norm": "batch", "batch_size": 2, "precision": "bf16"},
]


class Rehearsing:
    """As on a GPU, but for the capture: programs run as they are."""

    captures: ClassVar[list["Rehearsing"]] = []
    replayed: ClassVar[list[int]] = []

    def capture(self, rehearse, programs, device):
        self.captures.append(self)
        for _ in range(cuda_graphs.WARM_UPS):
            rehearse()
        return [partial(self.replay, program) for program in programs]

    def replay(self, program):
        self.replayed.append(program.args[0])
        program()


class Rehearsed(Rehearsing, GraphEngine):
    """Of several lanes."""


class RehearsedAlone(Rehearsing, GraphEngineAlone):
    """Of a model that is trained alone."""


@pytest.fixture(autouse=True)
def clean(no_kernels, one_thread):
    """One thread, as the engine has it on the CPU; no captures; no tf32 left behind."""
    Rehearsing.captures, Rehearsing.replayed = [], []
    yield
    devices.set_precision("float32", CPU)


@pytest.fixture
def data(tmp_path):
    """28 training images: 7 steps of 4, so that blocks do not come out even."""
    return prepared.read(made_data(tmp_path / "data" / "made", train=28))


@pytest.fixture
def rehearsed(monkeypatch):
    """Trainings on the CPU make updates as on a GPU."""
    monkeypatch.setattr(cuda_graphs, "can_capture", lambda network, loader: True)
    monkeypatch.setattr(cuda_graphs, "GraphEngine", Rehearsed)
    monkeypatch.setattr(cuda_graphs, "GraphEngineAlone", RehearsedAlone)
    monkeypatch.setattr(cuda_graphs, "REPLAY_STEPS", 3)


def pair(**kind):
    return [a_run(seed=seed, **kind) for seed in (1, 2)]


def outcomes(runs, data, folder, device=CPU):
    """Run -> its outcome and weights, after training as lanes of one group."""
    results = {}
    progress = Progress(1)
    progress.begin("test", ["a run"] * len(runs), runs[0].setting.epochs, 28)
    folder.mkdir(exist_ok=True)
    training = LaneTrainer(runs, data, device)
    training.train(lambda run, *result: results.update({run: result}), Checkpoint(folder / "c.pt"), progress)
    return results


def assert_same(ours, theirs, *, rel=1e-12):
    """Equal weights, bit for bit; the sums of losses, which are taken block by block, almost."""
    assert ours.keys() == theirs.keys()
    for run, (outcome, weights) in ours.items():
        other, other_weights = theirs[run]
        assert (outcome.diverged_at, outcome.images) == (other.diverged_at, other.images)
        for epoch, other_epoch in zip(outcome.epochs, other.epochs, strict=True):
            check_fields(epoch, other_epoch, rel=rel)
        assert weights == other_weights


def state_of(training):
    tensors = [*training.state.model.state_dict().values(), *training.state.optimizer.state]
    return [tensor.clone() for tensor in tensors]


@pytest.mark.parametrize("kind", KINDS)
def test_captured_steps_are_plain_ones(kind, data, tmp_path, request):
    plain = outcomes(pair(**kind), data, tmp_path / "plain")
    request.getfixturevalue("rehearsed")
    assert_same(outcomes(pair(**kind), data, tmp_path / "graphs"), plain)
    assert len(Rehearsed.captures) == 1


@pytest.fixture
def several_layers(monkeypatch):
    """In place of the runs' model, one with layers that models of one's own bring, and their counts in buffers."""

    def build(seed):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(32, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 10),
        )  # fmt: skip

    train_instead(monkeypatch, build)


def test_captured_steps_of_layers_of_ones_own_are_plain_ones(several_layers, data, tmp_path, request):
    plain = outcomes(pair(), data, tmp_path / "plain")
    request.getfixturevalue("rehearsed")
    captured = outcomes(pair(), data, tmp_path / "graphs")
    assert_same(captured, plain)
    assert load(captured[pair()[0]][1])["1.num_batches_tracked"] == 2 * 7


@pytest.fixture
def alone(monkeypatch):
    return partial(own_layers.train_alone, monkeypatch)


@pytest.mark.parametrize("kind", [{"momentum": 0.9, "augment_pad": 1}, *KINDS[:1]])
def test_captured_steps_of_a_model_alone_are_plain_ones_with_its_random_numbers(kind, alone, data, tmp_path, request):
    alone(counted_in_place)
    run, before = a_run(epochs=2, **kind), torch.get_rng_state()
    plain = outcomes([run], data, tmp_path / "plain")
    request.getfixturevalue("rehearsed")
    assert_same(outcomes([run], data, tmp_path / "graphs"), plain)
    assert Rehearsing.replayed == [1] * 14 and len(Rehearsing.captures) == 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("passed", "reason"),
    [(replaced, "it replaces model.seen by another tensor in its passes"), (asked, "it asks a tensor for its values")],
)
def test_steps_that_a_replay_would_not_repeat_are_made_one_by_one(
    passed, reason, alone, data, tmp_path, request, caplog
):
    caplog.set_level("INFO")
    alone(passed)
    plain = outcomes([a_run(epochs=2)], data, tmp_path / "plain")
    request.getfixturevalue("rehearsed")
    assert_same(outcomes([a_run(epochs=2)], data, tmp_path / "graphs"), plain)
    assert not Rehearsing.replayed and len(Rehearsing.captures) == 1
    line = f"steps are made operation by operation, not as a CUDA graph, since {reason}"
    assert [record.message for record in caplog.records if "operation" in record.message] == [line]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_own_model_and_recipe_can_be_captured(kind, monkeypatch):
    monkeypatch.setattr(models, "is_own", lambda model: True)
    monkeypatch.setattr(
        cached_models, "model_of", lambda run, *of: models.build(run.setting.model, *of, norm=run.setting.norm)
    )
    capturable._why_not_own.cache_clear()
    assert capturable.why_not_capturable(a_run(**kind), (1, 8, 8), 4) == ""


def test_who_makes_the_steps_of_a_model_alone_on_a_gpu(alone, data, rehearsed, monkeypatch, caplog):
    caplog.set_level("INFO")
    alone(counted_in_place)
    training = LaneTrainer([a_run()], data, CPU)
    assert type(training.engine) is RehearsedAlone and "operation" not in caplog.text
    not_capturable = dataclasses.replace(training.backend, not_capturable="it asks")
    monkeypatch.setattr(backends, "choose", lambda *_: not_capturable)
    assert type(LaneTrainer([a_run()], data, CPU).engine) is StochasticEngine
    assert "steps are made operation by operation, not as a CUDA graph, since it asks" in caplog.text


def test_a_block_is_what_is_left_of_the_epoch_in_replays_of_several_steps(data, tmp_path, rehearsed):
    outcomes(pair(epochs=2), data, tmp_path / "graphs")
    assert Rehearsed.replayed == [3, 3, 1] * 2


def test_a_replay_of_large_batches_is_of_one_step(data, tmp_path, monkeypatch, rehearsed):
    monkeypatch.setattr(cuda_graphs, "REPLAY_IMAGES", 15)
    outcomes(pair(epochs=1), data, tmp_path / "graphs")
    assert Rehearsed.replayed == [1] * 7


@pytest.mark.parametrize("limit", ["GRAPH_STEPS", "GRAPH_IMAGES", "GRAPH_VALUES"])
def test_a_long_epoch_is_cut(limit, data, tmp_path, monkeypatch, rehearsed):
    whole = outcomes(pair(**FULL), data, tmp_path / "whole")
    images, values = 5 * 4 * 2, 5 * 4 * 2 * 64
    monkeypatch.setattr(cuda_graphs, limit, {"GRAPH_STEPS": 5, "GRAPH_IMAGES": images, "GRAPH_VALUES": values}[limit])
    Rehearsed.replayed.clear()
    assert_same(outcomes(pair(**FULL), data, tmp_path / "cut"), whole)
    assert Rehearsed.replayed == [3, 1, 1, 1, 1] * 2


def test_capturing_changes_nothing(data, rehearsed):
    training = LaneTrainer(pair(**FULL), data, CPU)
    plan = training.plan()
    training.engine.block(plan, 0, 3, [0.5] * 3)
    training.engine._allocate(plan)
    training.engine.plan.fill(plan, 0, 3)
    before = state_of(training)
    training.engine._capture()
    assert all(map(torch.equal, state_of(training), before))
    assert training.engine.counter.item() == 0


def test_a_diverging_lane_is_dropped_and_the_rest_captured_again(data, tmp_path, double, request):
    runs = [a_run(base_lr=lr, **{key: value for key, value in FULL.items() if key not in ("base_lr", "norm", "b")})
            for lr in (2.0**40, 2**-9)]  # fmt: skip
    plain = outcomes(runs, data, tmp_path / "plain")
    request.getfixturevalue("rehearsed")
    ours = outcomes(runs, data, tmp_path / "graphs")
    assert ours[runs[0]][0].diverged_at and not ours[runs[1]][0].diverged_at
    assert len({id(updates) for updates in Rehearsed.captures}) == 2
    for run in runs:
        assert ours[run][0].diverged_at == plain[run][0].diverged_at
        for epoch, other in zip(ours[run][0].epochs, plain[run][0].epochs, strict=True):
            check_fields(epoch, other, rel=1e-6)
    weights, other = (load(results[runs[1]][1]) for results in (ours, plain))
    for name in weights:
        torch.testing.assert_close(weights[name], other[name], rtol=1e-6, atol=1e-9)


class Stop(Exception):
    """The end of a training that is killed."""


def killed_and_resumed(data, folder, monkeypatch, device=CPU):
    """Outcomes of a pack with a wild lane, killed at its second checkpoint and resumed."""
    runs = [*pair(**FULL), a_run(**{**FULL, "base_lr": 2.0**40})]
    results = {}
    progress = Progress(1)
    progress.begin("test", ["a run"] * len(runs), 2, 28)
    checkpoint = Checkpoint(folder / "c.pt")
    with monkeypatch.context() as killing:
        killing.setattr(Checkpoint, "save", stop_at_the_second(Checkpoint.save))
        with pytest.raises(Stop):
            LaneTrainer(runs, data, device).train(lambda run, *r: results.update({run: r}), checkpoint, progress)
    training = LaneTrainer(runs, data, device)
    training.restore(checkpoint.load())
    assert 0 < training.state.step < training.loader.steps
    training.train(lambda run, *r: results.update({run: r}), checkpoint, progress)
    return results, outcomes(runs, data, folder / "whole", device)


def stop_at_the_second(save):
    calls = []

    def stopping(self, state):
        save(self, state)
        calls.append(state)
        if len(calls) == 2:
            raise Stop

    return stopping


def test_killed_and_resumed_is_bit_identical(data, tmp_path, monkeypatch, rehearsed):
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    monkeypatch.setattr(cuda_graphs, "GRAPH_STEPS", 2)
    resumed, whole = killed_and_resumed(data, tmp_path, monkeypatch)
    assert_same(resumed, whole, rel=0)


def test_mini_batches_in_parts_are_left_to_plain_updates(data, rehearsed, monkeypatch):
    runs = pair(**FULL)
    parts, whole = (LaneTrainer(runs, data, CPU, images_at_once=most) for most in (2, "auto"))
    assert parts.block_end() == 7 and whole.block_end() == 7
    assert isinstance(parts.engine, Rehearsed) and not parts.engine.at_once
    monkeypatch.setattr("smallbatch.training.engines.eager.BLOCK_STEPS", 2)
    assert parts.block_end() == 2 and whole.block_end() == 7
    plain = EagerEngine(whole.state.network, whole.state.optimizer, whole.loader)
    plan = parts.plan()
    torch.testing.assert_close(parts.engine.block(plan, 0, 2, [1.0] * 2), plain.block(plan, 0, 2, [1.0] * 2))
    assert not Rehearsed.captures


def test_steps_are_captured_on_a_gpu_that_has_all_images_alone():
    def suit(device="cuda", images="cuda", world=ALONE):
        loader = SimpleNamespace(train_images=SimpleNamespace(read_on=torch.device(images)))
        return cuda_graphs.can_capture(SimpleNamespace(device=torch.device(device), world=world), loader)

    assert suit()
    assert not suit(device="cpu", images="cpu") and not suit(images="cpu") and not suit(world=World(0, 2))


def test_a_training_on_the_cpu_captures_nothing(data):
    assert type(LaneTrainer(pair(), data, CPU).engine) is EagerEngine


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "precision" not in kind])
def test_a_block_never_needs_a_number_from_the_device(kind, data, monkeypatch):
    """On a device that cannot be read, nor mixed with another: `meta`, where tensors have no content."""
    device = torch.device("meta")
    (first, second), steps = pair(**kind), 7
    there = LaneTrainer([first, second], data, CPU)
    loader = BatchLoader(data, first.setting, first.batch_size, device)
    more = {
        "batch_size": first.batch_size,
        "bn_batch_size": there.state.network.smallest_micro_batch,
        "images_at_once": "auto",
    }
    network = Network(there.state.model, **more, pixels=64, precision="float32", device=device, world=ALONE)
    optimizer = optimizer_of(first.setting, network.model, network.parameters, [1.0, 2.0])
    updates, plan, factors = Rehearsed(network, optimizer, loader), loader.plan([1, 2], 0), [1.0, 0.5] * 3 + [0.1]
    losses = updates.block(plan, 0, steps, factors)
    with capturable.repeatable(network.model, device):
        updates._rehearse()
    assert losses.shape == (steps, 2) and losses.device == device
    with pytest.raises((RuntimeError, NotImplementedError)):
        losses.sum().item()


def test_rates_by_row_are_those_by_factor(data):
    training = LaneTrainer([a_run(base_lr=lr) for lr in (2**-9, 3e-3)], data, CPU)
    factors = [1 / 32, 0.3, 0.1, 0.1]
    for row, factor in zip(training.state.optimizer.negative_rates(factors), factors, strict=True):
        exact = [-run.learning_rate * factor for run in training.state.runs]
        assert torch.equal(row, torch.tensor(exact, dtype=torch.float64).float())


# From here on with a GPU.


@pytest.fixture
def gpu():
    return devices.pick("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_graphs_equal_plain_updates(kind, data, gpu, monkeypatch):
    check_graphs(kind, data, gpu, monkeypatch)


@pytest.mark.gpu
def test_graphs_equal_plain_updates_of_layers_of_ones_own(several_layers, data, gpu, monkeypatch):
    check_graphs({}, data, gpu, monkeypatch)


def check_graphs(kind, data, gpu, monkeypatch):
    """The same kernels on the same numbers: bit for bit."""
    monkeypatch.setattr(cuda_graphs, "REPLAY_STEPS", 3)
    graph, plain = (LaneTrainer(pair(**kind), data, gpu) for _ in range(2))
    graph.backend = graph.backend.without_kernels()
    graph.engine = graph.make_engine()
    assert type(graph.engine) is GraphEngine
    plain.engine = EagerEngine(plain.state.network, plain.state.optimizer, plain.loader)
    factors = [1.0, 0.5, 0.25, 0.25, 0.1, 0.1, 0.1]
    for epoch in range(3):
        graph.state.epoch = plain.state.epoch = epoch
        ours, theirs = (training.engine.block(training.plan(), 0, 7, factors) for training in (graph, plain))
        assert torch.equal(ours, theirs)
        assert all(map(torch.equal, state_of(graph), state_of(plain)))


@pytest.mark.gpu
@pytest.mark.parametrize("passed", [counted_in_place, kept_in_a_cache, replaced, asked, of_chosen])
def test_on_a_gpu_a_model_alone_is_trained_as_by_plain_updates(passed, alone, data, gpu):
    """Random numbers of a replay are those of a step that is made with the same seed."""
    alone(passed)
    ours, plain = (LaneTrainer([a_run(momentum=0.9)], data, gpu) for _ in range(2))
    assert type(ours.engine) is GraphEngineAlone
    plain.engine = StochasticEngine(plain.state.network, plain.state.optimizer, plain.loader)
    for epoch in range(3):
        ours.state.epoch = plain.state.epoch = epoch
        losses = [training.engine.block(training.plan(), 0, 7, [1.0, 0.5] * 3 + [0.1]) for training in (ours, plain)]
        assert torch.equal(*losses)
        assert all(map(torch.equal, state_of(ours), state_of(plain)))
    assert bool(ours.engine.replays) == (passed in (counted_in_place, kept_in_a_cache))


@pytest.mark.gpu
def test_killed_and_resumed_with_graphs_is_bit_identical(data, tmp_path, monkeypatch, gpu):
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    monkeypatch.setattr(cuda_graphs, "GRAPH_STEPS", 2)
    resumed, whole = killed_and_resumed(data, tmp_path, monkeypatch, gpu)
    assert_same(resumed, whole, rel=0)


@pytest.mark.gpu
def test_the_host_waits_for_nothing_inside_a_block(data, gpu):
    training = LaneTrainer(pair(**FULL), data, gpu)
    plan = training.plan()
    training.engine.block(plan, 0, 7, [1.0] * 7)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.state.epoch = 1
        training.engine.block(training.plan(), 0, 7, [0.5] * 7)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS[:3])
def test_torch_knows_no_operation_of_a_step_that_is_not_deterministic(kind, data, gpu, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    training = LaneTrainer(pair(**kind), data, gpu)
    torch.use_deterministic_algorithms(True)
    try:
        EagerEngine(training.state.network, training.state.optimizer, training.loader).block(
            training.plan(), 0, 2, [1.0] * 2
        )
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
def test_trained_on_a_gpu_and_on_the_cpu_runs_agree(tmp_path):
    folder = made_data(tmp_path / "data" / "made", train=256)
    runs = pair(batch_size=8, base_lr=2**-9, epochs=4)
    ends = []
    for device in ("cuda", "cpu"):
        train_pack(runs, folder, tmp_path / device, device=device)
        store = RunStore(tmp_path / device)
        ends.append([store.find(run, prepared.read(folder).meta.fingerprint).outcome.epochs[-1] for run in runs])
    for ours, theirs in zip(*ends, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=2e-2)
