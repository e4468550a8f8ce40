"""The engine against the paper's formulas in plain PyTorch (helpers/reference.py), at points of trainings of 200
updates.

Each is one update from equal weights: over several, rounding is multiplied. In double precision the two agree to about
1e-7, to which learning rates are rounded; `test_a_wrong_formula_shows` has what that notices.
"""

import types
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import a_run, made_data, reference

from smallbatch.data import prepared
from smallbatch.training import lane_layers
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
UPDATES, EPOCHS, M = 200, 10, 4
POINTS = (0, 1, 9, 10, 11, 60, 99, 100, 101, 149, 150, 199)
"""About the end of the warm-up and the drops: before and after each."""

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = {"model": "alexnet"}
FULL = {
    **{"model": "alexnet", "norm": "batch", "b": 2, "warmup": True, "augment_pad": 4, "augment_flip": True},
    **{"weight_decay": 0.01, "momentum": 0.9},
}
CASES = [
    PLAIN,
    FULL,
    {"model": "alexnet", "norm": "batch", "norm_layers": "conv", "weight_decay": 0.01},
    {"model": "resnet8", "warmup": True, "momentum": 0.5, "momentum_scaled": True},
    {"model": "resnet8", "norm": "batch", "b": 2, "augment_pad": 4, "augment_flip": True},
    {"model": "resnet20", "norm": "batch", "warmup": True, "weight_decay": 0.01},
    {"model": "resnet32", "norm": "batch", "b": 2, "momentum": 0.9},
    {"model": "resnet32", "augment_flip": True},
]


def built(formulas, run, shape):
    """The reference's model of a run."""
    s = run.setting
    norms = {"none": lambda channels: torch.nn.Identity(), "batch": partial(formulas.Norm, b=run.bn_batch_size)}
    norm = norms[s.norm]
    if s.model == "alexnet":
        return formulas.alexnet(shape, 4, norm, norms["none"] if s.norm_layers == "conv" else norm)
    if s.model == "resnet50":
        return formulas.resnet50(shape, 4, norm)
    return formulas.resnet(shape, 4, norm, {"resnet8": 1, "resnet20": 3, "resnet32": 5}[s.model])


def in_order(names):
    """Names as the reference's model has them in its order: layer by layer, weight before bias."""
    kinds = ("weight", "bias", "running_mean", "running_var")
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    return [f"{layer}.{kind}" for layer in layers for kind in kinds if f"{layer}.{kind}" in names]


def examples(formulas, training, plan, lane):
    """Images and labels of a lane's next update: those that the plan names, from the data themselves."""
    split = training.loader.train_images.images.double() / 255
    mean, std = split.mean((0, 2, 3), keepdim=True), split.std((0, 2, 3), correction=0, keepdim=True)
    places = plan.order[training.state.step, :, lane]
    images = (split[places] - mean) / std
    nowhere = torch.zeros(len(places), 2, dtype=torch.int64)
    offsets = nowhere if plan.offsets is None else plan.offsets[training.state.step, :, lane]
    flips = nowhere[:, 0] if plan.flipped is None else plan.flipped[training.state.step, :, lane]
    pad = training.setting.augment_pad
    return formulas.augmented(images, pad, offsets, flips), training.loader.train_labels[places]


def tensors(training, lane):
    """What an update changes of a lane, by name: weights, running statistics, velocities.

    Velocities are of the mean over the mini-batch; of the sum, as the reference has them, they are M times as large.
    """
    found = lane_layers.lane_state(training.state.model, lane)
    if training.state.optimizer.state:
        names = [name for name, _ in training.state.model.named_parameters()]
        found |= {
            f"velocity of {name}": v[lane] * M for name, v in zip(names, training.state.optimizer.state, strict=True)
        }
    return {name: tensor.clone().double() for name, tensor in found.items()}


def by_reference(formulas, training, lane, done):
    """What the formulas make of one lane's next update: the loss before it, and `tensors` after it."""
    run, s = training.state.runs[lane], training.setting
    state = tensors(training, lane)
    names = in_order([name for name in state if not name.startswith("velocity")])
    model = built(formulas, run, training.meta.shape).double()
    own = in_order(list(model.state_dict()))
    model.load_state_dict({mine: state[name] for mine, name in zip(own, names, strict=True)})
    parameters = [name for name in names if "running" not in name]
    velocity = [state.get(f"velocity of {name}", torch.zeros(())).expand_as(theta).clone()
                for name, theta in zip(parameters, model.parameters(), strict=True)]  # fmt: skip
    eta_base = run.base_lr * (1 - s.momentum if s.momentum_scaled else 1) * formulas.factor(done, UPDATES, s.warmup)
    images, labels = examples(formulas, training, training.plan(), lane)
    loss = formulas.update(model, velocity, images, labels, eta_base, s.momentum, s.weight_decay)
    after = dict(zip(names, [model.state_dict()[mine] for mine in own], strict=True))
    velocities = {f"velocity of {name}": v for name, v in zip(parameters, velocity, strict=True)}
    return loss, {name: (after | velocities)[name] for name in state}


def check_update(formulas, training, done, tolerance):
    """Make the update that follows `done`, and compare what it changes with the reference, lane by lane."""
    training.state.epoch, training.state.step = divmod(done, training.loader.steps)
    count = range(len(training.state.runs))
    before = [tensors(training, lane) for lane in count]
    expected = [by_reference(formulas, training, lane, done) for lane in count]
    losses = training.train_block(training.plan(), training.state.step + 1)[0]
    for lane, (loss, right) in enumerate(expected):
        assert losses[lane].item() == pytest.approx(loss, rel=tolerance), f"loss of update {done + 1}"
        ours = tensors(training, lane)
        for changed in (_velocities(before[lane]), before[lane].keys() - _velocities(before[lane])):
            sizes = {name: (right[name] - before[lane][name]).norm().item() for name in changed}
            for name, size in sizes.items():
                # Of biases before batch norm the gradient is nothing but rounding: that of the others' sums.
                slack = (
                    tolerance * (size + 1e-3 * max(sizes.values()))
                    + torch.finfo().eps * before[lane][name].norm().item()
                )
                error = (ours[name] - right[name]).norm().item()
                assert error <= slack, f"{name}, update {done + 1}: off by {error} of {size}"


def _velocities(names):
    return {name for name in names if name.startswith("velocity")}


def training_of(setting, folder, shape=(1, 8, 8), train=UPDATES // EPOCHS * M):
    data = prepared.read(made_data(folder, shape=shape, train=train))
    rates = ((2**-11, 1), (2**-12, 2))
    return LaneTrainer([a_run(epochs=EPOCHS, base_lr=lr, seed=seed, batch_size=M, **{"weight_decay": 0.0, **setting})
                         for lr, seed in rates], data, CPU)  # fmt: skip


def check_points(formulas, training, tolerance, points=POINTS):
    """Train, and compare the updates at these points."""
    for done in range(max(points) + 1):
        if done in points:
            check_update(formulas, training, done, tolerance)
        elif done % 10 == 0:  # the others only bring the weights to where they are then
            training.state.epoch, training.state.step = divmod(done, training.loader.steps)
            training.train_block(training.plan(), training.state.step + 1)


@pytest.mark.slow
@pytest.mark.parametrize("setting", CASES, ids=lambda setting: "-".join(map(str, setting.values())))
def test_updates_are_those_of_the_papers_formulas(setting, tmp_path, double):
    check_points(reference, training_of(setting, tmp_path / "made"), 1e-6)


@pytest.mark.slow
def test_an_update_of_resnet50_is_that_of_the_papers_formulas(tmp_path, double):
    training = training_of({"model": "resnet50", "norm": "batch"}, tmp_path / "made", shape=(3, 64, 64))
    # Images are normalised by statistics in single precision, which 50 layers multiply.
    check_update(reference, training, 0, 1e-4)


@pytest.mark.parametrize("setting", [PLAIN, FULL | {"b": 4}, CASES[4], CASES[5]], ids=lambda setting: setting["model"])
def test_updates_in_single_precision_are_those_of_the_papers_formulas(setting, tmp_path):
    """By the kernels, where there is a compiler."""
    check_points(reference, training_of(setting, tmp_path / "made"), 2e-2)


RESNET = CASES[4]
WRONG = {
    "eta for eta_base": (FULL, "theta -= eta_base", "theta -= len(images) * eta_base"),
    "mean for sum": (FULL, 'reduction="sum"', 'reduction="mean"'),
    "dampened momentum": (FULL, "momentum * v + gradient", "momentum * v + (1 - momentum) * gradient"),
    "rate in the velocity": (
        *(FULL, "momentum * v + gradient + len(images) * decay * theta)\n            theta -= eta_base * v"),
        "momentum * v + eta_base * (gradient + len(images) * decay * theta))\n            theta -= v",
    ),
    "decay once for the batch": (FULL, "len(images) * decay", "decay"),
    "decay beside the momentum": (
        *(FULL, "gradient + len(images) * decay * theta)"),
        "gradient)\n            theta -= eta_base * len(images) * decay * theta",
    ),
    "unbiased variance to normalise": (FULL, "correction=0", "correction=1"),
    "biased running variance": (FULL, "correction=1", "correction=0"),
    "statistics over the whole batch": (FULL, "x.split(self.b)", "x.split(len(x))"),
    "another epsilon": (FULL, "1e-5", "1.1e-5"),
    "warm-up from 0": (FULL, "1 / 32 + (1 - 1 / 32) * done", "done"),
    "warm-up an update early": (FULL, "* done / rising", "* (done + 1) / rising"),
    "a longer warm-up": (FULL, "0.05 * updates", "0.055 * updates"),
    "first drop an update late": (FULL, "done < 0.5 *", "done <= 0.5 *"),
    "first drop an update early": (FULL, "done < 0.5 *", "done + 1 < 0.5 *"),
    "second drop an update late": (FULL, "done < 0.75 *", "done <= 0.75 *"),
    "second drop an update early": (FULL, "done < 0.75 *", "done + 1 < 0.75 *"),
    "a crop a pixel off": (FULL, "[pad] * 4", "[pad - 1, pad + 1, pad, pad]"),
    "padding that is not zero": (FULL, "[pad] * 4", "[pad] * 4, value=0.01"),
    "the others flipped": (FULL, "if mirrored", "if not mirrored"),
    "upside down": (FULL, "image.flip(-1)", "image.flip(-2)"),
    "a shortcut's other pixels": (RESNET, "cat([x[..., ::2, ::2]", "cat([x[..., 1::2, 1::2]"),
    "rectified before the sum": (RESNET, "torch.relu(self.layers(x) + self", "(torch.relu(self.layers(x)) + self"),
    "pooled by the mean": (
        FULL,
        "MaxPool2d(3, 2, padding=1)",
        "AvgPool2d(3, 2, padding=1)",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_formula_shows(wrong, tmp_path, double):
    setting, right, other = WRONG[wrong]
    source = Path(reference.__file__).read_text(encoding="utf-8")
    assert right in source
    formulas = types.ModuleType("wrong")
    exec(source.replace(right, other), formulas.__dict__)
    with pytest.raises(AssertionError, match="update"):
        check_points(formulas, training_of(setting, tmp_path / "made"), 1e-6)


def test_crops_and_flips_are_drawn_evenly(tmp_path):
    """Of 4 pixels to all sides each place, and each side of the mirror, for every image of every epoch again."""
    training = training_of({"augment_pad": 4, "augment_flip": True}, tmp_path / "made")
    plans = [training.loader.plan([1, 2], epoch) for epoch in range(40)]
    offsets, flips = torch.stack([plan.offsets for plan in plans]), torch.stack([plan.flipped for plan in plans])
    counts = torch.bincount(offsets.flatten(), minlength=9)
    draws = offsets.numel()  # 12,800 of 9 places: 1,422 each, with a deviation of 36
    assert len(counts) == 9 and (counts - draws / 9).abs().max() < 4 * (draws * 8 / 81) ** 0.5
    assert abs(flips.double().mean().item() - 0.5) < 4 * (0.25 / flips.numel()) ** 0.5
    assert not torch.equal(offsets[..., 0, :], offsets[..., 1, :]) and not torch.equal(offsets[0], offsets[1])
