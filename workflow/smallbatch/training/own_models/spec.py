"""The input and the result of the check of a user's model."""

from collections.abc import Sequence
from typing import NamedTuple

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.study.experiments import Setting

SLOWER = "takes 1.2 to 5.6 times as long as in lanes on a processor"
"""What it costs to train one run after the other by torch: docs/speed.md, models that were trained both ways."""


class ModelSpec(NamedTuple):
    """A model with everything that determines its layers.

    content: hash of its code, see `models.content`.
    entry_point: MODULE:FUNCTION, as in `MODELS`.
    batch_sizes: a study's batch sizes, checked in addition to the usual ones; empty if a job asks.
    """

    model: str
    content: str | None
    entry_point: str
    norm: str
    norm_layers: str
    shape: tuple[int, int, int]
    classes: int
    batch_sizes: tuple[int, ...] = ()

    def error(self, text: str) -> UserError:
        """An error that names the model and its file."""
        return UserError(f"model {self.model} ({models.source(self.entry_point)}): {text}")


class Suitability(NamedTuple):
    """How a model can be trained.

    why_alone: the reason against lanes, as text; empty if lanes have been shown to be equal.
    stochastic: whether it draws random numbers in training.
    splittable: whether a mini-batch may be divided into micro-batches: no example (or sub-batch) depends on another.
    min_batch_size: minimum number of examples that it trains on.
    """

    why_alone: str
    stochastic: bool
    splittable: bool
    min_batch_size: int

    @property
    def lanes(self) -> bool:
        """Whether it can be trained in lanes."""
        return not self.why_alone


BUILT_IN = Suitability("", stochastic=False, splittable=True, min_batch_size=1)
"""The suitability of the project's own models, which its tests check."""


def spec_of(setting: Setting, shape: Sequence[int], classes: int) -> ModelSpec:
    """The spec of a setting's model, which is the user's own, for its check.

    Args:
        setting: setting of runs.
        shape: image shape: channels, height, width.
        classes: number of classes.
    """
    channels, height, width = shape
    name = setting.model
    image = (channels, height, width)
    content, entry_point = models.content(name), models.entry_point(name)
    return ModelSpec(name, content, entry_point, setting.norm, setting.norm_layers, image, classes)
