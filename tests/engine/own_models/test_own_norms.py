"""Models of the user's own: they normalise as the study says."""

import pytest
from helpers.own_models import found

from smallbatch.core.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread", "empty_cache")


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_normalisation_that_a_model_does_not_have_is_refused(norm, own):
    own(init="self.norm = nn.Identity()")
    assert found(norm="none").lanes
    with pytest.raises(
        UserError, match=f"it has no layer that came from `norms`, so norm: {norm} would change nothing"
    ):
        found(norm=norm)


NORMALISING = {
    "BatchNorm2d": ("batch_norm", {"init": "self.c = nn.BatchNorm2d(8)"}),
    "InstanceNorm2d": ("instance_norm", {"init": "self.c = nn.InstanceNorm2d(8)"}),
    "LayerNorm": ("layer_norm", {"init": "self.c = nn.LayerNorm(8)"}),
    "RMSNorm": ("rms_norm", {"init": "self.c = nn.RMSNorm(8)"}),
    "GroupNorm": ("group_norm", {"init": "self.c = nn.GroupNorm(2, 8)"}),
    "LocalResponseNorm": ("local_response_norm", {"init": "self.c = nn.LocalResponseNorm(2)"}),
    "Mine": ("layer_norm", {"middle": "return F.layer_norm(x, x.shape[2:])"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("layer", NORMALISING)
def test_a_normalisation_that_the_study_does_not_say_is_refused(layer, own):
    function, parts = NORMALISING[layer]
    own(**{"middle": "return self.c(x)", **parts})
    assert found(norm="own") is not None
    for norm in ("none", "batch", "group"):
        with pytest.raises(UserError) as refused:
            found(norm=norm)
        line = f"): its {layer} normalises ({function}), and norm: {norm} says otherwise; allowed: "
        assert line in str(refused.value)


STRANGE = {
    "scripted": ("self.c = torch.jit.script(nn.BatchNorm2d(8))", "self.c(x)",
                 "RecursiveScriptModule normalises (native_batch_norm)"),
    "native_batch_norm": ("pass", "torch.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)[0]",
                          "Mine normalises (native_batch_norm)"),
    "native_group_norm": ("pass", "torch.native_group_norm(x, None, None, len(x), 8, 64, 2, 1e-5)[0]",
                          "Mine normalises (native_group_norm)"),
    "native_layer_norm": ("pass", "torch.native_layer_norm(x, [8], None, None, 1e-5)[0]",
                          "Mine normalises (native_layer_norm)"),
}  # fmt: skip


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize(("init", "middle", "line"), STRANGE.values(), ids=STRANGE)
def test_what_normalises_without_being_one_of_norms_layers_is_seen_as_it_runs(init, middle, line, norm, own):
    own(init=init, middle=f"return {middle}")
    with pytest.raises(UserError) as refused:
        found(norm=norm)
    assert f"): its {line}, and norm: {norm} says otherwise; allowed: " in str(refused.value)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_layer_of_norms_that_is_never_called_is_none(norm, own):
    own(init="self.idle, self.norm = self.norm, nn.Identity()")
    with pytest.raises(
        UserError, match=rf"its training pass calls no layer that came from `norms`, so norm: {norm} would"
    ):
        found(norm=norm)


UNTRAINED = {
    "in eval mode": ({"middle": "self.norm.eval()\nreturn x"}, "its layer norm takes no statistics of the mini-b"),
    "its result is unused": ({"init": "self.c, self.norm = self.norm, nn.Identity()", "middle": "self.c(x)\nreturn x"},
                               "no layer of `norms` has a gradient, so norm: batch would"),
    "its result is not needed": ({"init": "self.c, self.norm = self.norm, nn.Identity()",
                                  "middle": "return x + 0 * self.c(x)"}, "no layer of `norms` has a gradient"),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "line"), UNTRAINED.values(), ids=UNTRAINED)
def test_a_layer_of_norms_that_does_nothing_is_none(parts, line, own):
    own(**parts)
    with pytest.raises(UserError) as refused:
        found(norm="batch")
    assert f"): {line}" in str(refused.value)


def test_a_model_that_asks_for_a_value_does_not_draw(own):
    own(init="self.register_buffer('first', torch.ones(()))",
        middle="if self.training and self.first: self.first.zero_()\nreturn x * (1 + self.first)")  # fmt: skip
    assert found().why_alone.startswith("layer Mine has parameters") and not found().stochastic


@pytest.mark.slow
def test_a_copy_of_a_layer_of_norms_is_one(own):
    own(init="import copy; self.c = copy.deepcopy(self.norm); self.norm = nn.Identity()", middle="return self.c(x)")
    assert found(norm="batch").lanes


def test_an_empty_layer_stays_what_it_is_where_normalisation_is_looked_for(own):
    own(init="self.c = nn.Sequential()", middle="return self.c(x)")
    assert found().lanes
