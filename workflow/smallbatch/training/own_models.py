"""Models of the user's own: how each can be trained, checked before a study begins and remembered.

What is remembered lies in the user's cache folder, a file a model and kind of images. It may be deleted at any time.
Nothing here imports torch, or runs a line of a user's model: a process of its own does, see `model_check`.
"""

import functools
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from smallbatch import data, models
from smallbatch.core.environment import cache_folder
from smallbatch.core.errors import UserError
from smallbatch.core.files import digest, read_json, read_sealed, write_sealed
from smallbatch.data.outline import Outline, image_size
from smallbatch.study.experiments import Experiment, Setting, Study

PATIENCE = 600
"""Seconds that checking the models of a study may take."""

COST = "so one run after the other in ordinary torch, without lanes and kernels, which takes several times as long"

log = logging.getLogger(__name__)


class Suitability(NamedTuple):
    """How a model can be trained.

    alone: why not in lanes, in words; empty where lanes are proven.
    draws: whether it draws random numbers in training.
    splits: whether a mini-batch may be taken in parts, since its examples (or sub-batches) know nothing of each other.
    least: the fewest examples that it trains on.
    """

    alone: str
    draws: bool
    splits: bool
    least: int

    @property
    def lanes(self) -> bool:
        """Whether it can be trained in lanes."""
        return not self.alone


PROVEN = Suitability("", draws=False, splits=True, least=1)
"""Of the project's own models: its tests prove it."""


class Question(NamedTuple):
    """A model with all that decides about its layers.

    content: of its file, see `models.content`.
    place: as in `MODELS`.
    """

    model: str
    content: str
    place: str
    norm: str
    norm_layers: str
    shape: tuple[int, int, int]
    classes: int


def question(setting: Setting, shape: Sequence[int], classes: int) -> Question:
    """What is to be known of the model of a setting, which is the user's own."""
    s = setting
    content, place = models.content(s.model), models.MODELS[s.model]
    return Question(s.model, content, place, s.norm, s.norm_layers, tuple(shape), classes)


def suitability(setting: Setting, shape: Sequence[int], classes: int, processes: int = 1) -> Suitability:
    """How the model of a setting can be trained.

    Args:
        setting: of runs.
        shape: of an image: channels, height, width.
        classes: number of classes.
        processes: that share each mini-batch.

    Raises:
        UserError: it cannot, or not by so many processes; says why.
    """
    if not models.is_own(setting.model):
        return PROVEN
    found = _suitability(question(setting, shape, classes))
    _check_processes(setting.model, found, processes)
    return found


@functools.cache
def _suitability(asked: Question) -> Suitability:
    found = _recall(asked)
    if found is None:
        from smallbatch.training.model_check import examine

        found = examine(asked)
        _remember(asked, found)
    return found


def most_lanes(setting: Setting, outline: Outline, count: int) -> int:
    """How many of `count` runs of a setting can be trained in lock-step: all, or one."""
    return count if suitability(setting, outline.shape, outline.classes).lanes else 1


def check(study: Study, datasets: Mapping[str, dict[str, Any]], processes: int) -> None:
    """Check the study's models that are the user's own, before anything is trained, and log which are trained alone.

    One that was not checked before takes a process of some seconds (most of it the import of torch).

    Args:
        study: whose.
        datasets: as the configuration has them.
        processes: that share each mini-batch.

    Raises:
        UserError: one cannot be trained as the study says.
    """
    own = [e for e in study.experiments.values() if models.is_own(e.setting.model)]
    keys = {data.label(key, settings): key for key, settings in datasets.items()}
    asked = {e.name: _question(e, keys[e.setting.data], datasets) for e in own}
    known = {one: _recall(one) for one in dict.fromkeys(asked.values())}
    new = [one for one, found in known.items() if found is None]
    if new:
        known |= _ask(study.file, new)
    for e in own:
        found, where = known[asked[e.name]], f"{study.file}: experiments.{e.name}"
        _check_processes(e.setting.model, found, processes)
        if min(e.batch_sizes) < found.least:
            raise UserError(
                f"{where}.batch_sizes: {min(e.batch_sizes)} is not allowed; allowed: numbers from {found.least}, "
                f"the fewest examples that model {e.setting.model} trains on"
            )
        if e.setting.variance_batch_sizes and not found.splits and not found.draws:
            raise UserError(
                f"{where}.variance_batch_sizes: {list(e.setting.variance_batch_sizes)} is not allowed; allowed: a "
                f"model whose examples know nothing of each other; those of {e.setting.model} do"
            )
        if not found.lanes:
            # Once where all see it, then where logs are looked at.
            level = logging.WARNING if asked[e.name] in new else logging.INFO
            log.log(level, "%s: model %s is trained alone, since %s; %s", where, e.setting.model, found.alone, COST)


def _question(e: Experiment, key: str, datasets: Mapping[str, dict[str, Any]]) -> Question:
    return question(e.setting, *image_size(key, datasets[key], Path("data")))


def _check_processes(model: str, found: Suitability, processes: int) -> None:
    if processes > 1 and not (found.lanes and found.splits):
        reason = f"is trained alone, since {found.alone}" if found.alone else "needs all of a mini-batch at once"
        raise UserError(
            f"training.processes: {processes} is not allowed; allowed: 1 with model {model}, which {reason}"
        )


def _ask(where: str, asked: Sequence[Question]) -> dict[Question, Suitability]:
    """Have the models examined by a process that may fail in any way."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder, "answers.json")
        ended = _run(where, asked, answers)
        given = read_json(answers) if answers.exists() else []
    found = {}
    for one, answer in zip(asked, given, strict=False):
        if "refused" in answer:
            raise UserError(f"{where}: {answer['refused']}")
        found[one] = Suitability(**answer)
        _remember(one, found[one])
    if len(given) < len(asked):
        one = asked[len(given)]
        raise UserError(f"{where}: model {one.model} ({models.source(one.place)}): it ended the process: {ended}")
    names = ", ".join(dict.fromkeys(one.model for one in asked))
    log.info(
        "%s: checked model %s in %.0f s; remembered until its file changes", where, names, time.perf_counter() - started
    )
    return found


def _run(where: str, asked: Sequence[Question], answers: Path) -> str:
    """Run the process that examines, which answers into a file; returns how it ended."""
    command = [sys.executable, "-m", "smallbatch.training.model_check", str(answers)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), env=environment, timeout=PATIENCE, capture_output=True, text=True,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        names = ", ".join(dict.fromkeys(one.model for one in asked))
        raise UserError(f"{where}: model {names}: no end of its check in {PATIENCE} s") from None
    if done.returncode < 0:
        return signal.Signals(-done.returncode).name
    return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit {done.returncode}")


def _file(asked: Question) -> Path:
    """Where what was found is remembered: under a name that everything it depends on is part of."""
    key = json.dumps([asked, _code(), *map(_version, ("torch", "torchvision"))])
    return cache_folder() / "models" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


@functools.cache
def _code() -> str:
    library = Path(__file__).parents[1]
    project = [library / "models" / f"{name}.py" for name in models.PROJECT_FILES]
    return digest(*project, *(library / "training").rglob("*.py"))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _recall(asked: Question) -> Suitability | None:
    try:
        return Suitability(**read_sealed(_file(asked)))
    except (UserError, RuntimeError, TypeError):  # not there, damaged, or no home
        return None


def _remember(asked: Question, found: Suitability) -> None:
    try:
        write_sealed(_file(asked), found._asdict())
    except (UserError, OSError, RuntimeError) as error:
        log.info("what was found of model %s will not be remembered: %s", asked.model, error)
