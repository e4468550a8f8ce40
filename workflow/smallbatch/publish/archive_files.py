"""The files that a study's archive has beside its results. It is imported as rules are read, so it imports little."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smallbatch.study.claims import files_of
from smallbatch.study.experiments import Study

FOLDERS = ("workflow", "profiles", "slurm", "envs")
FILES = ("Snakefile", "pyproject.toml", "Makefile")


def workflow_files() -> list[str]:
    """All that the workflow, in the current folder, needs where its archive is unpacked."""
    files = [path for folder in FOLDERS for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return [*FILES, *(str(path) for path in files if not any(map(_is_made, path.parts)))]


def _is_made(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__" or part.endswith(".egg-info")


def user_files(study: Study, datasets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Files of the user's own in the project's folder that the study names: of claims, losses and data.

    Args:
        study: the study.
        datasets: label -> settings of each data set of the configuration.
    """
    losses = [loss.rpartition(":")[0] for e in study.experiments.values() if (loss := e.setting.loss_function)]
    data = [datasets[label]["path"] for label in study.labels if "function" in datasets[label]]
    named = map(Path, dict.fromkeys([*map(str, files_of(study.claims.values())), *losses, *data]))
    return [str(path) for path in named if not path.is_absolute() and ".." not in path.parts]
