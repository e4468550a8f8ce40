"""Models of many kinds that nothing is wrong with: none is refused."""

import pytest
from helpers import a_run
from helpers.own_models import DRAWS, MIXES, united

from smallbatch import models
from smallbatch.training import own_models
from smallbatch.training.own_models import check_processes
from smallbatch.training.own_models.spec import spec_of

pytestmark = pytest.mark.usefixtures("one_thread", "empty_cache")


HONEST = {
    "mlp": ("batch", ""),
    "vgg": ("batch", ""),
    "residual": ("batch", ""),
    "copied_blocks": ("group", ""),
    "depthwise": ("group", ""),
    "gelu": ("batch", ""),
    "squeeze_and_excitation": ("batch", ""),
    "clamped_in_place": ("batch", ""),
    "max_out": ("none", ""),
    "group_norm": ("own", ""),
    "in_pieces": ("none", ""),
    "dense": ("batch", MIXES),
    "tied": ("none", MIXES),
    "hooked": ("none", "a hook hangs on layer Conv2d"),
    "batch_norm": ("own", ""),
    "convnext": ("own", "layer ChannelNorm has"),
    "weight_norm": ("none", "layer ParametrizedConv2d has"),
    "fixed_filters": ("none", "layer FixedFilters has"),
    "with_positions": ("none", "layer Positions has"),
    "transformer": ("own", "layer VisionTransformer has"),
    "transformer_with_dropout": ("own", DRAWS),
    "dropout": ("none", DRAWS),
    "checkpointed": ("none", DRAWS),
    "stochastic_depth": ("batch", DRAWS),
}
"""Makers of `helpers.honest_models` -> the norm of a study, and why the model is not trained in lanes, if so."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Of each honest model: the question, and what a process in another place says."""
    folder = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        for name in HONEST:
            patch.setitem(models.MODELS, name, f"helpers.honest_models:{name}")
        asked = [
            spec_of(a_run(model=name, norm=norm).setting, (3, 8, 8), 10)._replace(batch_sizes=(2, 8, 256))
            for name, (norm, _) in HONEST.items()
        ]
        with check_processes.CheckProcess("a study", asked, folder / "there", other_environment=True) as process:
            yield {one.model: (one, there) for one, there in zip(asked, process.answers(), strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_model_is_not_refused(name, honest):
    asked, there = honest[name]
    found = own_models.suitability_of(asked)
    reason = HONEST[name][1]
    assert (
        found.why_alone.startswith(reason) and found.lanes == (reason == "") and found.stochastic == (reason == DRAWS)
    )
    assert "refused" not in united(asked, there)
