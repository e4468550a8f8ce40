"""Models of the user's own: trained in lanes where those are proven equal, alone where not."""

import itertools

import pytest
import torch
from helpers import a_run
from helpers.lanes import train
from helpers.own_models import ASKS, CHANGES, CPU, DRAWS, MIXES, found, reference
from safetensors.torch import load

from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.runs.store import RunStore
from smallbatch.training.own_models import lane_equality
from smallbatch.training.pack import train_pack
from smallbatch.training.weights_evaluation import evaluate

pytestmark = pytest.mark.usefixtures("one_thread", "empty_cache")


IN_LANES = {
    "plain": {},
    "residual": {"middle": "return x + F.relu(self.b(x))", "end": "return self.fc(F.max_pool2d(x, 8).flatten(1))"},
    "frozen": {"init": "self.a.weight.requires_grad = False"},
    "unused": {"init": "self.idle = nn.Linear(3, 3)"},
    "pixel shuffle": {"middle": "return self.c(F.pixel_shuffle(x, 2))", "init": "self.c = nn.Conv2d(2, 8, 1)"},
    "grouped": {"init": "self.a = nn.Conv2d(c, 8, 1); self.b = nn.Conv2d(8, 8, 3, padding=1, groups=8)"},
    "shortcut": {"init": "self.cut = Shortcut(4); self.b = nn.Conv2d(12, 8, 1)", "middle": "return self.cut(x)"},
    "squeeze and excitation": {
        "middle": "return x * self.excite(x)",
        "init": "self.excite = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.SiLU(), "
                "nn.Conv2d(2, 8, 1), nn.Hardsigmoid())",
    },
}  # fmt: skip

BATCH_NORMS = {
    "as it comes": {"middle": "return self.c(x)", "init": "self.c = nn.BatchNorm2d(8)"},
    "other settings": {"middle": "return self.c(x)", "init": "self.c = nn.BatchNorm2d(8, eps=0.1, momentum=0.4)"},
    "without weights": {"middle": "return self.c(x)", "init": "self.c = nn.BatchNorm2d(8, affine=False)"},
    "of features": {"end": "return self.fc(self.c(x.mean((2, 3))))", "init": "self.c = nn.BatchNorm1d(8)"},
    "of a mobile network": {
        "middle": "return x + self.c(x)",
        "init": "self.c = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(), "
                "nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.GELU(), "
                "nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))",
    },
}  # fmt: skip
"""Models that bring torch's batch normalisation."""

LAYER_NORMS = {
    "of features": {"end": "return self.fc(self.c(x.mean((2, 3))))", "init": "self.c = nn.LayerNorm(8, eps=0.1)"},
    "of channels": {"middle": "return self.c(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)",
                    "init": "self.c = nn.LayerNorm(8, bias=False)"},
    "of images": {"middle": "return self.c(x)", "init": "self.c = nn.LayerNorm([8, 8, 8])"},
    "of tokens": {
        "middle": "tokens = x.flatten(2).transpose(1, 2)\n"
                  "return (tokens + self.c(tokens)).transpose(1, 2).unflatten(2, x.shape[2:])",
        "init": "self.c = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8, bias=False))",
    },
}  # fmt: skip
"""Models that normalise the channels, features or tokens of each image."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "name"),
    [*((norm, "plain") for norm in ("none", "batch", "group")),
     *zip(itertools.cycle(["group", "none", "batch"]), (name for name in IN_LANES if name != "plain"))],
)  # fmt: skip
def test_lanes_that_are_proven_equal_are_equal(norm, name, own, data_folder, tmp_path, double):
    own(**IN_LANES[name])
    check_lanes(norm, data_folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", BATCH_NORMS)
def test_lanes_have_the_batch_normalisation_of_torch(name, own, data_folder, tmp_path, double):
    own(**BATCH_NORMS[name])
    check_lanes("own", data_folder, tmp_path)


@pytest.mark.slow
def test_a_pack_trains_and_evaluates_lanes_with_statistics_and_counts_of_their_own(own, data_folder, tmp_path):
    own(**BATCH_NORMS["as it comes"])
    runs = [a_run(model="mine", norm="own", seed=seed) for seed in (1, 2)]
    assert train_pack(runs, data_folder, tmp_path, lanes=2, keep_weights="all") == 2
    data, store = prepared.read(data_folder), RunStore(tmp_path)
    for run in runs:
        record = store.find(run, data.meta.fingerprint)
        assert record.outcome.lanes == 2
        assert evaluate(store, record, data_folder.parent, CPU).accuracy == record.outcome.epochs[-1].test_accuracy


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYER_NORMS)
def test_lanes_have_the_layer_normalisation_of_torch(name, own, data_folder, tmp_path, double):
    own(**LAYER_NORMS[name])
    check_lanes("own", data_folder, tmp_path)


def check_lanes(norm, data_folder, tmp_path):
    """Lanes of the model `mine` end with the weights, statistics and counts of plain loops of torch."""
    assert found(norm=norm).lanes
    runs = [a_run(model="mine", norm=norm, b=2, base_lr=2**-9, seed=seed, momentum=0.5) for seed in (1, 2, 3)]
    data = prepared.read(data_folder)
    together = train(runs, data, tmp_path)
    for run in runs:
        _, weights = together[run]
        ours, (theirs, _) = load(weights), reference(run, data)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-7)


TOKENS = """
pixels = x.flatten(2)
return (pixels + self.mix(pixels)).unflatten(2, x.shape[2:])
"""


ATTENTION = """
tokens = x.flatten(2).transpose(1, 2)
return self.mix(tokens, tokens, tokens)[0].transpose(1, 2).unflatten(2, x.shape[2:])
"""


ALONE_MODELS = {
    "channel mean": ({"middle": "return x - x.mean(1, keepdim=True)"}, MIXES),
    "layer norm": ({"middle": "return F.layer_norm(x, x.shape[1:])", "norm": "own"}, MIXES),
    "rms norm": ({"middle": "return x * (x.square().mean(1, keepdim=True) + 1e-5).rsqrt()"}, MIXES),
    "softmax": ({"middle": "return F.softmax(x, 1)"}, MIXES),
    "softmax of features": ({"end": "return self.fc(F.softmax(x.flatten(2).mean(2), 1))"}, MIXES),
    "global statistics": ({"middle": "return x - x.mean((1, 2, 3), keepdim=True)"}, MIXES),
    "concatenation": ({"middle": "return self.c(torch.cat([x, 2 * x.flip(2)], 1))",
                       "init": "self.c = nn.Conv2d(16, 8, 1)"}, MIXES),
    "split": ({"middle": "one, two = x.chunk(2, 1)\nreturn torch.cat([two, one], 1)"}, MIXES),
    "shuffle": ({"middle": "return self.mix(x)", "init": "self.mix = nn.ChannelShuffle(2)"}, MIXES),
    "view": ({"middle": "return self.c(x.view(len(x), 8, 8, 8).transpose(1, 2))",
              "init": "self.c = nn.Conv2d(8, 8, 1)"}, "lanes break it (RuntimeError"),
    "constants by channel": ({"middle": "return x * torch.linspace(0, 1, x.shape[1])[:, None, None]"}, MIXES),
    "mixed tokens": ({"middle": TOKENS, "init": "self.mix = nn.Linear(64, 64)"}, "lanes break it"),
    "attention": ({"middle": ATTENTION, "init": "self.mix = nn.MultiheadAttention(8, 2, batch_first=True)"}, "layer "),
    "parameter": ({"middle": "return x * self.scale", "init": "self.scale = nn.Parameter(torch.ones(8, 1, 1))"},
                  "layer Mine has parameters but no lane form"),
    "scalar": ({"middle": "return x * self.scale", "init": "self.scale = nn.Parameter(torch.tensor(0.5))"}, "layer "),
    "buffer by hand": ({"middle":
                        "if self.training: self.seen = 0.9 * self.seen + x.detach().mean()\nreturn x - self.seen",
                        "init": "self.register_buffer('seen', torch.zeros(()))"}, "layer Mine has parameters"),
    "tied": ({"middle": "return self.c(self.b(x))",
              "init": "self.c = nn.Conv2d(8, 8, 3, padding=1); self.c.weight = self.b.weight"}, MIXES),
    "transposed": ({"middle": "return self.c(x)", "init": "self.c = nn.ConvTranspose2d(8, 8, 1)"}, "layer ConvTransp"),
    "batch norm over all batches": ({"middle": "return self.c(x)", "init": "self.c = nn.BatchNorm2d(8, momentum=None)",
                                     "norm": "own"}, "layer BatchNorm2d has no running statistics, or"),
    "reflected": ({"init": "self.a = nn.Conv2d(c, 8, 3, padding=1, padding_mode='reflect')"}, MIXES),
    "hook": ({"init": "self.a.register_forward_hook(lambda own, x, y: 2 * y if own.training else y)"},
             "a hook hangs on layer Conv2d"),
    "a weight's hook for large gradients": ({"init":
                                             "self.b.weight.register_hook(lambda g: g * 9e8 / max(9e8, g.norm()))"},
                                            "a hook hangs on layer Conv2d"),
    "another forward": ({"init": "self.b.forward = nn.Conv2d.forward.__get__(self.b)"}, "a hook hangs on layer Conv2d"),
    "a branch": ({"middle": "return x / 10 if x.abs().max() > 1e9 else x"}, ASKS),
    "a branch backwards": ({"middle": "y = x * 1\nif y.requires_grad: y.register_hook(lambda g: g * "
                                      "min(1, 1e9 / g.norm().item()))\nreturn y"}, ASKS),
    "numpy's view": ({"middle": "return x / max(1.0, x.detach().numpy().max() / 1e9)"}, ASKS),
    "a limit of weights": ({"middle": "for p in self.parameters(): p.data.clamp_(-0.05, 0.05)\nreturn x"}, CHANGES),
    "a limit of a norm": ({"middle": "with torch.no_grad(): w = self.fc.weight; "
                                     "w.mul_((3 / w.norm(dim=1, keepdim=True)).clamp(max=1))\nreturn x"}, CHANGES),
    "large weights": ({"middle": "return x / self.b.weight.abs().amax().clamp(min=1)"}, MIXES),
    "many channels": ({"middle": "return x / 2 if x.shape[1] > 24 else x"}, "100 lanes compute otherwise than 3"),
    "large images": ({"middle": "return x / torch.where(x.abs().amax() > 30, 2.0, 1.0)"}, MIXES),
    "a lane that is not finite": ({"middle": "return torch.where(x.isfinite().all(), x, 2 * x)"},
                                  MIXES),
    "an infinite lane": ({"middle": "return torch.where(x.isinf().any(), 2 * x, x)"}, MIXES),
    "a lane that diverges": ({"middle": "return x / x.abs().amax().clamp(1e9)"}, MIXES),
    "weights that diverge": ({"end": "x = self.fc(x.tanh().nan_to_num().mean((2, 3)))\n"
                                     "return torch.where(x.isnan().any(), 2 * x, x)"}, MIXES),
    "another number with many channels": (
        {"middle": "return x * (1 + (x.shape[1] > 24))"}, "100 lanes compute otherwise than 3"
    ),
    "noise on many": ({"middle": "return x + torch.randn_like(x) if self.training and len(x) > 99 else x"}, DRAWS),
    "hidden by a zero": ({"middle": "return x + self.c(F.softmax(x, 1))",
                          "init": "self.c = nn.Conv2d(8, 8, 1, groups=8)\nself.c.weight = nn.Parameter(self.c.weight)",
                          "make": "own = Mine(shape[0], classes, norms)\nnn.init.zeros_(own.c.weight)\nreturn own"},
                         MIXES),
    "dropout": ({"middle": "return self.drop(x)", "init": "self.drop = nn.Dropout(0.3)"}, DRAWS),
    "stochastic depth": ({"middle": "return x if self.training and torch.rand(()) < 0.5 else self.b(x)"}, DRAWS),
    "noise": ({"middle": "return x + torch.randn_like(x) if self.training else x"}, DRAWS),
    "complex": ({"middle": "return self.c(x.to(self.c.weight.dtype)).abs()",
                 "init": "self.c = nn.Conv2d(8, 8, 1, dtype=torch.complex64)"}, "it has complex numbers"),
    "double": ({"middle": "return self.c(x.double()).to(x.dtype)", "init": "self.c = nn.Conv2d(8, 8, 1).double()"},
               "lanes break it (RuntimeError"),
    "scripted": ({"middle": "return self.c(x)", "init": "self.c = torch.jit.script(nn.Conv2d(8, 8, 1))"},
                 "layer RecursiveScriptModule has"),
    "not contiguous": ({"middle": "return F.conv2d(x, self.w[:, :, None, None])",
                        "init": "self.w = nn.Parameter(torch.eye(8, 8).mul(2).t())"}, "layer Mine has"),
}  # fmt: skip


def found_of(name, own):
    """What is found of one of `ALONE_MODELS`, whose norm is returned, too."""
    parts = dict(ALONE_MODELS[name][0])
    norm = parts.pop("norm", "none")
    own(**parts)
    return found(norm=norm), norm


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE_MODELS)
def test_what_lanes_do_not_suit_is_not_trained_in_lanes(name, own):
    suits, _ = found_of(name, own)
    reason = ALONE_MODELS[name][1]
    assert suits.why_alone.startswith(reason) and not suits.lanes and suits.stochastic == (reason == DRAWS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["channel mean", "mixed tokens", "attention", "buffer by hand", "tied", "batch norm over all batches", "hook",
     "dropout", "a branch backwards", "a limit of a norm", "stochastic depth", "not contiguous", "complex",
     "double", "scripted"],
)  # fmt: skip
def test_what_is_trained_alone_is_trained_as_plain_torch_does(name, own, data_folder, tmp_path):
    suits, norm = found_of(name, own)
    runs = [a_run(model="mine", norm=norm, base_lr=2**-7, seed=seed, momentum=0.5) for seed in (1, 2)]
    assert train_pack(runs, data_folder, tmp_path, lanes=4, keep_weights="all") == 2
    data, store = prepared.read(data_folder), RunStore(tmp_path)
    for run in runs:
        record = store.find(run, data.meta.fingerprint)
        ours, (theirs, accuracy) = load(store.read_weights(record)), reference(run, data, draws=suits.stochastic)
        assert record.outcome.lanes == 1 and record.outcome.epochs[-1].test_accuracy == pytest.approx(accuracy)
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=1e-4, atol=1e-5)
        assert evaluate(store, record, data_folder.parent, CPU).accuracy == record.outcome.epochs[-1].test_accuracy


BY_CHANNEL = "x - 0.5 * x.mean(1, keepdim=True)"


@pytest.mark.slow
def test_lanes_are_compared_where_a_model_computes_otherwise_with_many_examples(own):
    own(middle=f"return {BY_CHANNEL} if self.training and len(x) >= 16 else x")
    assert found().why_alone == "at m = 16 it computes otherwise than at m = 4"
    own(middle=f"return {BY_CHANNEL} if self.training and len(x) >= 1000 else x")
    assert found().why_alone == "at m = 1024 it computes otherwise than at m = 4"
    own(middle="return x + x if len(x) >= 8 else 2 * x")
    assert found().lanes, "lanes are equal at each size"


@pytest.mark.slow
def test_what_only_a_batch_size_of_the_study_does_is_refused(own, study, checked_here):
    own(middle=f"return {BY_CHANNEL} if self.training and len(x) == 6 else x")
    study(batch_sizes=[4, 8])
    with pytest.raises(
        UserError, match=r"at m = 6 it computes otherwise than at m = 4, and not in lanes; allowed: the"
    ):
        study(batch_sizes=[4, 6])


def test_lanes_are_compared_as_tests_run_too(own):
    """Layers may have a path of their own where nothing has gradients."""
    own(middle=f"return x if torch.is_grad_enabled() else {BY_CHANNEL}")
    assert found().why_alone == MIXES


def test_lanes_are_compared_in_single_precision_too(own):
    own(middle=f"return {BY_CHANNEL} if x.dtype == torch.float32 else x")
    assert found().why_alone == MIXES


def test_a_model_too_large_to_be_compared_is_trained_alone(own, monkeypatch):
    own()
    monkeypatch.setattr(lane_equality, "MAX_COMPARED", 1e6)
    assert found().why_alone == "it is too large to be compared in lanes"
