"""Checks models in two processes, which may fail in any way, and compares the results of training.

One process examines each model and trains it for a few updates; the other one only trains it, in another environment:
with another hash seed, time zone, locale, user, host and folder, and the changes of `other_environment`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smallbatch.core.errors import UserError
from smallbatch.core.files import read_json
from smallbatch.training.own_models.spec import ModelSpec

CHECK_TIMEOUT_S = 600
"""Timeout for checking the models of a study, in seconds."""

OTHER_VARIABLES = {
    "PYTHONHASHSEED": "2",
    "TZ": "Pacific/Kiritimati",
    "LC_ALL": "C",
    "USER": "elsewhere",
    "LOGNAME": "elsewhere",
    "HOSTNAME": "elsewhere",
    "COLUMNS": "63",
}
"""Environment variables of the process in another environment; the other process has hash seed 1."""

Answer = dict[str, Any]
"""Answer on one model: `training`, digests by part, and from the examination `suitability`; or the reason why it is
`refused`."""


def check_models(where: str, specs: Sequence[ModelSpec]) -> list[Answer]:
    """The answers on the models, up to the first model that ends its process.

    Args:
        where: the study's file, for error messages.
        specs: specs of the models.

    Raises:
        UserError: the check takes too long.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as both:
        first = both.enter_context(CheckProcess(where, specs, Path(folder, "here"), other_environment=False))
        second = both.enter_context(CheckProcess(where, specs, Path(folder, "there"), other_environment=True))
        return [*map(merge_answers, specs, first.answers(), second.answers())]


def merge_answers(spec: ModelSpec, first: Answer, second: Answer) -> Answer:
    """The combined answer of both processes on a model, which is refused if their trainings differ."""
    for answer in (first, second):
        if "refused" in answer:
            return answer
    for part, digest in first["training"].items():
        if second["training"][part] != digest:
            text = (
                f"its {part} are others in another process; allowed: nothing that depends on the order of a set, id(), "
                "hash(), arguments, host, user or time, or on what was made or trained before"
            )
            return {"refused": str(spec.error(text))}
    return first


class CheckProcess(contextlib.AbstractContextManager["CheckProcess"]):
    """A process that checks models and writes its answers to a folder of its own. Leaving the context ends it."""

    def __init__(self, where: str, specs: Sequence[ModelSpec], folder: Path, *, other_environment: bool) -> None:
        self.where, self.specs, self.folder = where, specs, folder
        folder.mkdir()
        path = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
        variables = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", __package__, str(folder / "answers.json")]
        (folder / "specs.json").write_text(json.dumps(specs), encoding="utf-8")
        with open(folder / "specs.json", "rb") as stdin, open(folder / "stderr.txt", "wb") as stderr:
            self.process = subprocess.Popen(
                [*command, "--other-environment"] if other_environment else command,
                env=variables | OTHER_VARIABLES if other_environment else variables,
                cwd=folder if other_environment else None,
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )

    def __exit__(self, *raised: object) -> None:
        self.process.kill()
        self.process.wait()

    def answers(self) -> list[Answer]:
        """An answer for each model, up to the one at which the process ended.

        Raises:
            UserError: the process takes too long.
        """
        try:
            code = self.process.wait(CHECK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            names = ", ".join(dict.fromkeys(spec.model for spec in self.specs))
            raise UserError(f"{self.where}: model {names}: no end of its check in {CHECK_TIMEOUT_S} s") from None
        file = self.folder / "answers.json"
        answers: list[Answer] = read_json(file) if file.exists() else []
        if len(answers) < len(self.specs):
            text = f"it ended the process: {self._exit_reason(code)}"
            answers.append({"refused": str(self.specs[len(answers)].error(text))})
        return answers

    def _exit_reason(self, code: int) -> str:
        """The signal that killed the process, or the last line that it wrote, or its exit code."""
        stderr = (self.folder / "stderr.txt").read_text(encoding="utf-8", errors="replace")
        lines = [line for line in stderr.splitlines() if line.strip()]
        return signal.Signals(-code).name if code < 0 else lines[-1] if lines else f"exit {code}"
