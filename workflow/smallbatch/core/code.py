"""Which files of the library a script runs, so that what it made is made anew when one of them is edited."""

import ast
import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from smallbatch.core.errors import UserError
from smallbatch.core.files import digest


def code_of(script: Path, root: Path) -> str:
    """A short hash over a script and all that `reached` finds behind it."""
    return digest(*reached(script, root))


@contextlib.contextmanager
def as_planned(script: str, planned: str) -> Iterator[None]:
    """Make sure that what the block makes is made by the code that the call was planned with, and will note.

    Code may change while a call runs: by an editor, a branch that is switched, a folder that is synchronised.

    Args:
        script: name of a file in `workflow/scripts`.
        planned: `code_of` it, when the call began.

    Raises:
        UserError: it is another, before the block or after it.
    """
    _check(script, planned)
    yield
    _check(script, planned)


def _check(script: str, planned: str) -> None:
    root = Path(__file__).parents[2]
    if code_of(root / "scripts" / f"{script}.py", root) != planned:
        raise UserError(f"{root}: its code was changed since this call began; call again: what is made is kept")


def reached(script: Path, root: Path) -> set[Path]:
    """The script and the modules below `root` that it imports, those that these import, and so on.

    Imports within functions count, and so do the packages that a module lies in, as Python runs them first.
    """
    found: set[Path] = set()
    coming = {script}
    while coming:
        file = coming.pop()
        found.add(file)
        coming |= _imported(file, root) - found
    return found


def _imported(file: Path, root: Path) -> set[Path]:
    names = [name.split(".") for name in _names(file.read_bytes())]
    stems = {root.joinpath(*parts[:depth]) for parts in names for depth in range(1, len(parts) + 1)}
    files = {path for stem in stems for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")}
    return {path for path in files if path.is_file()}


@functools.cache
def _names(source: bytes) -> frozenset[str]:
    """What is imported, by full names; of `from a import b` that is `a.b`, whether a module or not."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    members = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return frozenset(plain | {f"{node.module}.{alias.name}" for node in members for alias in node.names})
