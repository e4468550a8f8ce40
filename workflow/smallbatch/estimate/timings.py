"""Speed and memory of trainings as `snakemake cost` measured them, kept in a file for later jobs."""

import functools
import logging
import os
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smallbatch.core import environment
from smallbatch.core.errors import UserError
from smallbatch.core.files import read_sealed, write_sealed
from smallbatch.study.experiments import VALIDATION_FRACTION, Run, Setting
from smallbatch.study.metrics import CROSS_ENTROPY

log = logging.getLogger(__name__)


class Kind(NamedTuple):
    """The settings that decide speed and memory, beside the batch size."""

    model: str
    norm: str
    norm_layers: str
    momentum: bool
    precision: str
    data: str
    optimizer: str = "sgd"  # for files of earlier versions, which lack these fields
    loss: str = CROSS_ENTROPY


def kind_of(setting: Setting) -> Kind:
    """The kind of training of a setting."""
    s = setting
    return Kind(
        s.model, s.norm, s.norm_layers, s.momentum > 0, s.precision, s.data, s.optimizer, s.loss_function or s.loss
    )


class Timing(NamedTuple):
    """Speed and memory of one process while all processors (or the GPU) are at work.

    training, testing: seconds per image.
    memory: bytes that the process takes in total; 0 where the device has its own memory.
    """

    training: float
    testing: float
    memory: int


class Measured(NamedTuple):
    """The measurements of a kind of training.

    train, test: numbers of images of its data.
    timings: batch size -> timing, in ascending order.
    """

    train: int
    test: int
    timings: dict[int, Timing]

    def at(self, batch_size: int) -> Timing:
        """The timing at any batch size, interpolated; beyond the largest one, memory grows in proportion."""
        sizes = list(self.timings)
        axis = np.log2(batch_size), np.log2(sizes)
        training, testing = (np.interp(*axis, [kind[phase] for kind in self.timings.values()]) for phase in range(2))
        memory = np.interp(batch_size, sizes, [kind.memory for kind in self.timings.values()])
        return Timing(float(training), float(testing), round(memory * max(1, batch_size / sizes[-1])))

    def seconds(self, setting: Setting, batch_size: int) -> float:
        """Seconds that one run takes."""
        trained, tested = images(setting, batch_size, self.train, self.test)
        speed = self.at(batch_size)
        return trained * speed.training + tested * speed.testing


def images(setting: Setting, batch_size: int, train: int, test: int) -> tuple[int, int]:
    """How many images a run trains on and is tested on, each counted as often as it is seen.

    Args:
        setting: the run's setting.
        batch_size: its batch size.
        train: the number of training images of its data.
        test: the number of test images of its data.
    """
    used = setting.train_images or train
    held_out = round(VALIDATION_FRACTION * used) if setting.selection == "validation" else 0
    trained, epochs = setting.images_and_epochs(batch_size, used - held_out)
    return trained, epochs * (test + held_out)


class Timings:
    """The measurements of every kind of training in a study.

    Args:
        kinds: the measurements of each kind.
        device: the device that was measured.
    """

    def __init__(self, kinds: dict[Kind, Measured], device: str) -> None:
        self.kinds, self.device = kinds, device
        self._seconds = functools.cache(lambda setting, m: self.kinds[kind_of(setting)].seconds(setting, m))
        self._memory = functools.cache(lambda setting, m: self.kinds[kind_of(setting)].at(m).memory)

    def know(self, runs: Sequence[Run]) -> bool:
        """Whether all kinds of these runs of one experiment were measured."""
        return kind_of(runs[0].setting) in self.kinds

    def seconds(self, runs: Sequence[Run]) -> float:
        """Seconds that runs of one experiment take, one after the other in one process."""
        setting = runs[0].setting
        return sum(count * self._seconds(setting, m) for m, count in Counter(run.batch_size for run in runs).items())

    def words(self, runs: Sequence[Run]) -> str:
        """`, about 1,500 images/s at m = 2 and 9,000 images/s at m = 512 a process`; empty if that was not measured."""
        if not self.know(runs):
            return ""
        sizes = sorted({run.batch_size for run in runs})
        known = self.kinds[kind_of(runs[0].setting)]
        speeds = [
            f"{_about(1 / known.at(m).training)} images/s at m = {m}" for m in dict.fromkeys((sizes[0], sizes[-1]))
        ]
        return f", about {' and '.join(speeds)} a process"

    def memory(self, runs: Sequence[Run]) -> int:
        """Bytes that a process takes for runs of one experiment; 0 if its memory was not measured."""
        return self._memory(runs[0].setting, max(run.batch_size for run in runs))

    def write(self, path: Path) -> None:
        """Write the timings to a file, with the date and versions for readers."""
        kinds = [
            kind._asdict()
            | {"train": known.train, "test": known.test}
            | {"speeds": {str(m): timing._asdict() for m, timing in known.timings.items()}}
            for kind, known in self.kinds.items()
        ]
        said = {"device": self.device, "date": date.today().isoformat(), **environment.describe()}
        write_sealed(path, said | {"kinds": kinds})

    @classmethod
    def read(cls, path: Path) -> "Timings":
        """The timings in a file; empty if the file is missing, or damaged, which is logged."""
        if not os.path.lexists(path):
            return cls({}, "")
        try:
            content = read_sealed(path)
            return cls(dict(map(_read, content["kinds"])), content["device"])
        except (UserError, KeyError, TypeError, ValueError) as error:
            log.warning("%s; done without, until `snakemake cost` makes %s again", error, path)
        return cls({}, "")


def _about(number: float) -> str:
    """A number to two digits: `0.25`, `1`, `1,500`."""
    return f"{float(f'{number:.2g}'):,.{0 if number >= 1 else 2}f}"


def _read(entry: dict[str, Any]) -> tuple[Kind, Measured]:
    timings = {m: Timing(**entry["speeds"][str(m)]) for m in sorted(map(int, entry["speeds"]))}
    kind = Kind(**{name: entry[name] for name in Kind._fields if name in entry})
    return kind, Measured(entry["train"], entry["test"], timings)
