"""Models of the user's own: how each can be trained, checked before a study begins and remembered.

What is remembered lies in the user's cache folder, a file a model and kind of images. It may be deleted at any time.
Nothing here imports torch, or runs a line of a user's model: a process of its own does, see `examination`.
"""

import contextlib
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

CHECK_TIMEOUT_S = 600
"""Seconds that checking the models of a study may take."""

ELSEWHERE = {
    "PYTHONHASHSEED": "2",
    "TZ": "Pacific/Kiritimati",
    "LC_ALL": "C",
    "USER": "elsewhere",
    "LOGNAME": "elsewhere",
    "HOSTNAME": "elsewhere",
    "COLUMNS": "63",
}
"""The environment of the process that trains in another place; beside it there is one with hash seed 1."""

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
    sizes: batch sizes that a study trains it with, to be tried beside the usual ones; a job asks without.
    """

    model: str
    content: str
    place: str
    norm: str
    norm_layers: str
    shape: tuple[int, int, int]
    classes: int
    sizes: tuple[int, ...] = ()


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
        from smallbatch.training.own_models.examination import examine

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
    asked = _with_sizes({e.name: _question(e, keys[e.setting.data], datasets) for e in own}, own)
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


def _with_sizes(asked: Mapping[str, Question], experiments: Sequence[Experiment]) -> dict[str, Question]:
    """The questions, each with the batch sizes of all experiments that ask it."""
    sizes: dict[Question, set[int]] = {}
    for e in experiments:
        sizes.setdefault(asked[e.name], set()).update(e.batch_sizes, e.setting.variance_batch_sizes)
    return {name: one._replace(sizes=tuple(sorted(sizes[one]))) for name, one in asked.items()}


def _check_processes(model: str, found: Suitability, processes: int) -> None:
    if processes > 1 and not (found.lanes and found.splits):
        reason = f"is trained alone, since {found.alone}" if found.alone else "needs all of a mini-batch at once"
        raise UserError(
            f"training.processes: {processes} is not allowed; allowed: 1 with model {model}, which {reason}"
        )


def _ask(where: str, asked: Sequence[Question]) -> dict[Question, Suitability]:
    """Have the models examined by processes that may fail in any way."""
    started = time.perf_counter()
    found = {}
    for one, answer in zip(asked, _answers(where, asked), strict=False):
        if "refused" in answer:
            raise UserError(f"{where}: {answer['refused']}")
        found[one] = Suitability(**answer["suitability"])
        for known in (one, one._replace(sizes=())):
            _remember(known, found[one])
    names = ", ".join(dict.fromkeys(one.model for one in asked))
    log.info(
        "%s: checked model %s in %.0f s; remembered until its file changes", where, names, time.perf_counter() - started
    )
    return found


def _answers(where: str, asked: Sequence[Question]) -> list[dict[str, Any]]:
    """What two processes, one of them in another place, say to each question: `suitability`, or why it is `refused`."""
    with tempfile.TemporaryDirectory() as folder:
        processes = (
            _Process(where, asked, Path(folder, name), elsewhere=name == "there") for name in ("here", "there")
        )
        with contextlib.ExitStack() as both:
            here, there = map(both.enter_context, processes)
            return [*map(_united, asked, here.answers(), there.answers())]


def _united(asked: Question, here: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
    """The answer of both processes to a question."""
    for answer in (here, there):
        if "refused" in answer:
            return answer
    for part, digest_ in here["training"].items():
        if there["training"][part] != digest_:
            text = (
                f"its {part} are others in another process; allowed: nothing that depends on the order of a set, id(), "
                "hash(), arguments, host, user or time, or on what was made or trained before"
            )
            return {"refused": f"model {asked.model} ({models.source(asked.place)}): {text}"}
    return here


class _Process(contextlib.AbstractContextManager["_Process"]):
    """One that examines, or trains shortly elsewhere; what it says is in a folder of its own. Leaving ends it."""

    def __init__(self, where: str, asked: Sequence[Question], folder: Path, *, elsewhere: bool) -> None:
        self.where, self.asked, self.folder = where, asked, folder
        folder.mkdir()
        path = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
        environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "smallbatch.training.own_models.examination", str(folder / "answers.json")]
        (folder / "questions.json").write_text(json.dumps(asked), encoding="utf-8")
        with open(folder / "questions.json", "rb") as questions, open(folder / "said.txt", "wb") as said:
            self.process = subprocess.Popen(
                [*command, "--elsewhere"] if elsewhere else command,
                env=environment | ELSEWHERE if elsewhere else environment,
                cwd=folder if elsewhere else None,
                stdin=questions,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.wait()

    def answers(self) -> list[dict[str, Any]]:
        """One to each question, up to the one at which the process ended.

        Raises:
            UserError: it had no end.
        """
        try:
            code = self.process.wait(CHECK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            names = ", ".join(dict.fromkeys(one.model for one in self.asked))
            raise UserError(f"{self.where}: model {names}: no end of its check in {CHECK_TIMEOUT_S} s") from None
        file = self.folder / "answers.json"
        given: list[dict[str, Any]] = read_json(file) if file.exists() else []
        for one in self.asked[len(given) : len(given) + 1]:
            text = f"it ended the process: {self._end(code)}"
            given.append({"refused": f"model {one.model} ({models.source(one.place)}): {text}"})
        return given

    def _end(self, code: int) -> str:
        """How the process ended, in words."""
        said = (self.folder / "said.txt").read_text(encoding="utf-8", errors="replace")
        lines = [line for line in said.splitlines() if line.strip()]
        return signal.Signals(-code).name if code < 0 else lines[-1] if lines else f"exit {code}"


def _file(asked: Question) -> Path:
    """Where what was found is remembered: under a name that everything it depends on is part of."""
    key = json.dumps([asked, _code(), *map(_version, ("torch", "torchvision"))])
    return cache_folder() / "models" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


@functools.cache
def _code() -> str:
    library = Path(__file__).parents[2]
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
