"""Functions in a file of the user's own, checked without running the file."""

import ast
from collections.abc import Iterable
from pathlib import Path

from smallbatch.core.errors import refuse
from smallbatch.study.yaml_validation import suggestion


def check_function(
    where: str | Path, keys: tuple[str, str], file: str, name: str, arguments: int, allowed: str
) -> None:
    """Check that a file can be read, imports installed packages alone and defines a function.

    Args:
        where: the file that names them.
        keys: its keys of the file and of the function's name.
        file: path of the file.
        name: name of the function.
        arguments: the number of positional arguments that it must take.
        allowed: that in words.

    Raises:
        UserError: names the key and what is allowed.
    """
    path, (key_of_file, key_of_name) = Path(file).expanduser(), keys
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        refuse(where, key_of_file, file, f"a file of Python that can be read ({reason})")
    known = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    if name not in known:
        there = f"{', '.join(known) or 'it has none'}{suggestion(name, list(known))}"
        refuse(where, key_of_name, name, f"a function of {file}: {there}")
    if beside := _imported_beside(path, body):
        only = f"a file that imports installed packages alone; nobody would notice changes of {beside}"
        refuse(where, key_of_file, file, only)
    if not _takes(known[name].args, arguments):
        refuse(where, key_of_name, name, allowed)


def check_in_project(where: str, key: str, file: str) -> None:
    """Check that the path of a file is within the project's folder.

    Raises:
        UserError: it is not.
    """
    path = Path(file)
    if path.is_absolute() or ".." in path.parts:
        refuse(where, key, file, "a file below the project's folder, to be kept and shared with it")


def _imported_beside(path: Path, body: Iterable[ast.stmt]) -> str | None:
    """The first module that a file imports from its own folder; None if there is none."""
    for node in (inner for statement in body for inner in ast.walk(statement)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            top = name.partition(".")[0]
            if not top or (path.parent / f"{top}.py").exists() or (path.parent / top).is_dir():
                return name or "."
    return None


def _takes(parameters: ast.arguments, count: int) -> bool:
    """Whether a function can be called with `count` positional arguments."""
    positional = len(parameters.posonlyargs) + len(parameters.args)
    needed = positional - len(parameters.defaults)
    named = len(parameters.kwonlyargs) - sum(default is not None for default in parameters.kw_defaults)
    return needed <= count and (count <= positional or parameters.vararg is not None) and not named
