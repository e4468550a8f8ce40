"""What is asked about a model of the user's own, and what its check answers."""

from collections.abc import Sequence
from typing import NamedTuple

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.study.experiments import Setting


class ModelSpec(NamedTuple):
    """A model with all that decides about its layers.

    content: hash of its file, see `models.content`.
    entry_point: MODULE:FUNCTION, as in `MODELS`.
    batch_sizes: that a study trains it with, to be tried beside the usual ones; empty where a job asks.
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

    why_alone: why not in lanes, in words; empty where lanes are proven equal.
    stochastic: whether it draws random numbers in training.
    splittable: whether a mini-batch may be taken in micro-batches: no example (or sub-batch) depends on another.
    min_batch_size: the fewest examples that it trains on.
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
"""Of the project's own models: its tests prove it."""


def spec_of(setting: Setting, shape: Sequence[int], classes: int) -> ModelSpec:
    """The model of a setting, which is the user's own, as its check takes it.

    Args:
        setting: of runs.
        shape: of an image: channels, height, width.
        classes: number of classes.
    """
    channels, height, width = shape
    name = setting.model
    image = (channels, height, width)
    content, entry_point = models.content(name), models.entry_point(name)
    return ModelSpec(name, content, entry_point, setting.norm, setting.norm_layers, image, classes)
