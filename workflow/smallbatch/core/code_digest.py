"""The files of the library that a script runs, so that its outputs are made again when one of them is edited."""

import ast
import contextlib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from smallbatch.core.errors import UserError
from smallbatch.core.files import files_digest


def code_digest(script: Path, root: Path) -> str:
    """A short hash over a script and the files of the library that it imports, see `imported_files`."""
    return files_digest(*imported_files(script, root))


@contextlib.contextmanager
def require_unchanged_code(script: str, planned: str) -> Iterator[None]:
    """Check, before and after the block, that the code is still the one recorded when the call began.

    Code may change while a call runs: by an editor, a switch of branches or a synchronised folder.

    Args:
        script: the name of a file in `workflow/scripts`, without its suffix.
        planned: its `code_digest` when the call began.

    Raises:
        UserError: the code has changed, before or after the block.
    """
    _check(script, planned)
    yield
    _check(script, planned)


def _check(script: str, planned: str) -> None:
    root = Path(__file__).parents[2]
    file = root / "scripts" / f"{script}.py"
    # Where the library is installed alone, it is not edited, and the script is a copy that Snakemake keeps.
    if file.is_file() and code_digest(file, root) != planned:
        raise UserError(f"{root}: its code was changed since this call began; call again: what is made is kept")


def imported_files(script: Path, root: Path) -> set[Path]:
    """The script and the modules of the library in `root` that it imports, directly or through other modules.

    Imports within functions count, and so do the packages that contain a module, since Python runs them first.
    """
    library = root / __name__.partition(".")[0]
    modules = {_module(str(path)[len(f"{root}/") :]): path for path in library.rglob("[!.]*.py")}
    found: set[Path] = set()
    coming = {script}
    while coming:
        file = coming.pop()
        found.add(file)
        coming |= {modules[name] for name in _imported(file.read_bytes()) if name in modules} - found
    return found


def _module(file: str) -> str:
    return file.removesuffix(".py").replace(os.sep, ".").removesuffix(".__init__")


_IMPORT = re.compile(rb"^[ \t]*((?:import|from)[ \t](?:[^\n(#]*\([^)]*\)|[^\n]*))", re.MULTILINE)
"""A statement that imports: it has its lines for itself."""


@functools.cache
def _imported(source: bytes) -> frozenset[str]:
    """The full names of everything imported, and of the packages that contain it.

    `from a import b` counts as `a.b`, whether `b` is a module or not.
    """
    names: set[str] = set()
    for node in ast.walk(_imports(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(
        ".".join(parts[:depth]) for name in names if (parts := name.split(".")) for depth in range(1, len(parts) + 1)
    )


def _imports(source: bytes) -> ast.AST:
    """The syntax tree of what imports: trees of whole files would take an eighth of a call that finds all made."""
    try:
        return ast.parse(b"\n".join(_IMPORT.findall(source)))
    except SyntaxError:  # a line of text that begins in such a way
        return ast.parse(source)
