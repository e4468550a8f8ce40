"""Models by name: the project's, those of installed packages, and the user's own; see docs/study.md.

To add your own, put a file into this folder and a line into `MODELS`. Where a function here takes a model's name,
arguments of the function that makes it may follow: `torchvision:mobilenet_v3_small(width_mult=0.5)`.
"""

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from smallbatch.core.errors import UserError
from smallbatch.core.files import files_digest
from smallbatch.study.yaml_validation import suggestion

if TYPE_CHECKING:
    from torch import nn

BUILT_IN = {
    "alexnet": "smallbatch.models.alexnet:alexnet",
    "resnet8": "smallbatch.models.resnet:resnet8",
    "resnet20": "smallbatch.models.resnet:resnet20",
    "resnet32": "smallbatch.models.resnet:resnet32",
    "resnet50": "smallbatch.models.resnet50:resnet50",
}
"""The project's models, which its tests check; their runs are identified by `study.PROTOCOL` and not by their files."""

MODELS = {
    **BUILT_IN,
}
"""Model -> entry point, MODULE:FUNCTION, as text, so that studies are checked without importing torch."""

PACKAGES = ("torchvision", "timm")
"""Packages whose models are called PACKAGE:NAME."""

PROJECT_FILES = ("__init__", "alexnet", "initialisation", "normalisation", "packaged", "resnet", "resnet50")


CALL = "NAME, or NAME(argument=value, ...) with numbers, texts in quotes, True, False, None, and lists of these"
"""How a model is named."""


def base_name(model: str) -> str:
    """A model's name without its arguments."""
    return model.partition("(")[0].rstrip()


def arguments(model: str) -> dict[str, Any]:
    """The arguments in a model's name, for the function that makes it; lists are tuples.

    Raises:
        ValueError: the text behind the name is no list of arguments with their values.
    """
    name, bracket, rest = model.partition("(")
    if not bracket:
        return {}
    try:
        call = ast.parse(f"f({rest.rstrip()}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args or not name.strip():
            raise ValueError
        named = {str(keyword.arg): _plain(ast.literal_eval(keyword.value)) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(CALL) from error
    if "None" in named or len(named) < len(call.keywords):  # **mapping
        raise ValueError(CALL)
    return named


def _plain(value: object) -> object:
    """A value of an argument, of the kinds that `CALL` names."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value


def canonical(model: str) -> str:
    """A model's name with its arguments in one order and spelling, so that equal models have equal runs.

    Raises:
        ValueError: as for `arguments`.
    """
    return with_arguments(base_name(model), arguments(model))


def with_arguments(name: str, values: Mapping[str, Any]) -> str:
    """A model's name with these arguments, in one order and spelling."""
    named = ", ".join(f"{key}={value!r}" for key, value in sorted(values.items()))
    return f"{name}({named})" if named else name


def entry_point(model: str) -> str:
    """MODULE:FUNCTION of a model.

    Raises:
        UserError: there is no such model.
    """
    model = base_name(model)
    package, _, name = model.partition(":")
    if package in PACKAGES and name:
        return f"smallbatch.models.packaged:{package}.{name}"
    if model not in MODELS:
        known = [*MODELS, *(f"{package}:NAME" for package in PACKAGES)]
        raise UserError(
            f"model {model}: there is no such model{suggestion(model, list(MODELS))}; allowed: {', '.join(known)}; see "
            f"MODELS in {__file__}"
        )
    return MODELS[model]


def is_own(model: str) -> bool:
    """Whether a model is the user's own or from a package, not a project's model under its own name.

    Raises:
        UserError: there is no such model.
    """
    return entry_point(model) != BUILT_IN.get(base_name(model))


def content(model: str) -> str | None:
    """A hash of the code of a user's model: its file, files beside it that it imports, and the function's name.

    None for a project's model. The files are read when the hash is first requested.

    Raises:
        UserError: the model or its file does not exist.
    """
    return content_at(entry_point(model)) if is_own(model) else None


@functools.cache  # what this process has imported stays the same, even if the file changes
def content_at(entry_point: str) -> str:
    """As `content`, for a model given by its entry point, as in `MODELS`.

    Raises:
        UserError: the file does not exist.
    """
    return _content_now(entry_point)


def _content_now(entry_point: str) -> str:
    named = f"{entry_point}{_version(entry_point)}"
    return hashlib.sha256(f"{named} {files_digest(*files(entry_point))}".encode()).hexdigest()[:16]


def _version(entry_point: str) -> str:
    """Version of the package that a model is from; empty for other models."""
    module, _, name = entry_point.partition(":")
    if module != "smallbatch.models.packaged":
        return ""
    package, _, of_package = name.partition(".")
    named = f"{package}:{of_package}"
    try:
        return f" {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"model {named}: package {package} is not installed; `pip install {package}`") from error


def files(entry_point: str) -> set[Path]:
    """The file of a model's function and the files beside it that it imports; the entry point is as in `MODELS`.

    Raises:
        UserError: the file does not exist.
    """
    return _with_imported(source(entry_point))


def source(entry_point: str) -> Path:
    """The file of a model's function.

    Args:
        entry_point: entry point as in `MODELS`.

    Raises:
        UserError: the file does not exist.
    """
    module, _, name = entry_point.partition(":")
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        spec = _spec_without_import(module)
        if name and spec and spec.has_location and spec.origin:
            return Path(spec.origin)
    raise UserError(
        f"{__file__}: MODELS: {entry_point!r} is not allowed; allowed: MODULE:FUNCTION of a module that is there"
    )


def _spec_without_import(module: str) -> ModuleSpec | None:
    """As `importlib.util.find_spec`, which would import parent packages: their file accesses would go unseen."""
    top, *parts = module.split(".")
    spec, name = importlib.util.find_spec(top), top
    for part in parts:
        name = f"{name}.{part}"
        spec = spec and PathFinder.find_spec(name, spec.submodule_search_locations or [])
    return spec


def _with_imported(file: Path) -> set[Path]:
    """A file and the files beside it that it imports, directly or indirectly, without the project's own."""
    files: set[Path] = set()
    pending = {file.resolve()}
    while pending:
        path = pending.pop()
        files.add(path)
        packages = set(_packages_around(path))
        folders = {path.parent, Path(__file__).resolve().parent, *(file.parent for file in packages)}
        beside = {folder / f"{name}.py" for name in _imported(path) for folder in folders}
        beside |= {other for name in _imported(path) for other in (path.parent / name).glob("**/*.py")}
        pending |= {other for other in beside | packages if other.is_file() and not is_the_projects(other)} - files
    return files


def _packages_around(path: Path) -> Iterator[Path]:
    """The files that Python runs before a module: `__init__.py` of its package and of all parent packages."""
    for folder in path.parents:
        file = folder / "__init__.py"
        if folder == Path(__file__).resolve().parent or not file.is_file():
            return
        yield file


def is_the_projects(path: Path) -> bool:
    """Whether a file, with links resolved, is one of the project's files that models build on.

    Other library files that a model uses are imported already; one that only the model imports is the user's.
    """
    beside = Path(__file__).resolve().parent
    return path.parent == beside and path.suffix == ".py" and path.stem in PROJECT_FILES


def _imported(path: Path) -> frozenset[str]:
    """All components of the names that a file imports."""
    return _imported_by(path.read_bytes())


@functools.cache
def _imported_by(code: bytes) -> frozenset[str]:
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError):  # importing the file reports the error
        return frozenset()
    names = [alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return frozenset(part for name in names for part in name.split(".")) - {"*"}


def check_content(model: str, recorded: str | None) -> None:
    """Make sure that a model built by this process is the one recorded in its run's settings.

    Args:
        model: the run's model.
        recorded: `content` of the model in the run's settings.

    Raises:
        UserError: the model's file has changed.
    """
    now = _loaded.get(base_name(model)) or content(model)
    if now != recorded:
        raise UserError(
            f"model {model}: {entry_point(model)} in {source(entry_point(model))} is not what this run was named "
            f"after: its content has the hash {now}, the run's had {recorded}; allowed: the file and the function as "
            "they were (with these a study trains new runs)"
        )


def build(
    model: str,
    shape: tuple[int, int, int],
    classes: int,
    *,
    norm: str = "none",
    norm_layers: str = "all",
    bn_batch_size: int = 1,
    seed: int = 0,
) -> "nn.Module":
    """Make a model with the initial weights of `seed`: the paper's, or for a user's model, its own.

    Args:
        model: a key of `MODELS` or PACKAGE:NAME, with or without arguments.
        shape: channels, height, width of an image.
        classes: number of classes.
        norm: none, batch, group or own, see `normalisation.norms`.
        norm_layers: all, or conv for convolutions only.
        bn_batch_size: b, the examples that batch statistics are taken over.
        seed: seed of the initial weights.

    Raises:
        UserError: a user's model cannot be made.
    """
    from torch import nn

    from smallbatch.models.initialisation import initialise_as_in_paper, seeded
    from smallbatch.models.normalisation import norms

    with errors_in_one_line(model, "it cannot be made") if is_own(model) else contextlib.nullcontext():
        maker = _maker(model)
        with seeded(seed):
            made = maker(shape, classes, norms(norm, norm_layers, bn_batch_size), **arguments(model))
            if not isinstance(made, nn.Module):
                raise TypeError(f"a {type(made).__name__} was made, not a torch.nn.Module")
            return initialise_as_in_paper(made) if entry_point(model) in BUILT_IN.values() else made


_loaded: dict[str, str] = {}
"""User's model, without arguments -> its `content` as imported by this process."""


def _maker(model: str) -> Callable[..., "nn.Module"]:
    module, _, name = entry_point(model).partition(":")
    if is_own(model) and module not in sys.modules:
        forget_bytecode(entry_point(model))
        before = _content_now(entry_point(model))
        importlib.import_module(module)
        if _content_now(entry_point(model)) != before:
            raise UserError(f"model {model}: {source(entry_point(model))} was changed while it was read; call again")
        _loaded[base_name(model)] = before
    maker: Callable[..., nn.Module] = getattr(importlib.import_module(module), name)
    return maker


def forget_modules() -> None:
    """Remove all user's models and what they import from `sys.modules`, so that their next use imports them again.

    This makes all imports of a model visible, whatever other models have imported before.
    """
    files_of_own: set[Path] = set()
    for model in filter(is_own, MODELS):
        with contextlib.suppress(UserError):
            files_of_own |= files(entry_point(model))
    forgotten = [
        name
        for name, module in list(sys.modules.items())  # a list, since access to some modules imports others
        if file_of(module) in files_of_own
    ]
    for name in forgotten:
        del sys.modules[name]
    for name in forgotten:  # packages keep their modules as attributes; a removed package may still be in use
        package, _, last = name.rpartition(".")
        if package in sys.modules:
            vars(sys.modules[package]).pop(last, None)


def file_of(module: ModuleType) -> Path | None:
    """The file of an imported module, with links resolved; None if it has none."""
    name = getattr(module, "__file__", None)
    return _resolved(name) if isinstance(name, str) else None


@functools.cache
def _resolved(name: str) -> Path:
    """The resolved path; cached, since there are thousands of modules."""
    return Path(name).resolve()


def forget_bytecode(entry_point: str) -> None:
    """Delete Python's bytecode of the files that `content` hashes.

    Python would use it for any file of the same size and time in seconds, such as a copy that preserves times.

    Raises:
        UserError: a file cannot be deleted.
    """
    for file in files(entry_point):
        cached = Path(importlib.util.cache_from_source(str(file)))
        try:
            cached.unlink(missing_ok=True)
        except OSError as error:
            reason = f"cannot be deleted ({error.strerror}), and may be of an earlier {file.name}"
            raise UserError(
                f"{cached}: {reason}; allowed: no compiled form of it, or a folder that can be written"
            ) from error


@contextlib.contextmanager
def errors_in_one_line(model: str, what: str) -> Iterator[None]:
    """Turn any error of a user's model into a one-line error that names its file."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split()) or "without a word"
        line = f"{type(error).__name__}: {text[:300]}"
        raise UserError(f"model {model} ({source(entry_point(model))}): {what} ({line})") from error
