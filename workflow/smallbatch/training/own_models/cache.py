"""Results of checks, cached in the user's cache folder: a file for each model and kind of images.

The folder may be deleted at any time.
"""

import functools
import hashlib
import json
import logging
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from smallbatch import models
from smallbatch.core.environment import cache_folder
from smallbatch.core.errors import UserError
from smallbatch.core.files import files_digest, read_sealed, write_sealed
from smallbatch.training.own_models.spec import ModelSpec, Suitability

log = logging.getLogger(__name__)


def load(spec: ModelSpec) -> Suitability | None:
    """The result for a model; None if it is missing or damaged."""
    try:
        return Suitability(**read_sealed(_file(spec)))
    except (UserError, RuntimeError, TypeError):  # missing, damaged, or no home folder
        return None


def save(spec: ModelSpec, result: Suitability) -> None:
    """Cache the result for a model, if possible."""
    try:
        write_sealed(_file(spec), result._asdict())
    except (UserError, OSError, RuntimeError) as error:
        log.info("what was found of model %s will not be remembered: %s", spec.model, error)


def _file(spec: ModelSpec) -> Path:
    """A file whose name is a hash of everything that the result depends on."""
    key = json.dumps([spec, _code(), *map(_version, ("torch", "torchvision"))])
    return cache_folder() / "models" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


@functools.cache
def _code() -> str:
    library = Path(__file__).parents[2]
    project = [library / "models" / f"{name}.py" for name in models.PROJECT_FILES]
    return files_digest(*project, *(library / "training").rglob("[!.]*.py"))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
