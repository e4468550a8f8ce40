"""Makes the order of sets in a model's own code deterministic: sorted in one process, reversed in another.

With another hash seed, the order would differ only by chance: with probability one half for a set of two.
"""

import ast
import contextlib
from collections.abc import Collection, Iterator
from importlib.machinery import SourceFileLoader
from types import CodeType
from typing import Any
from unittest import mock

NUMBERS = bool, int, float, complex
"""Types whose order in a set is the same in each process, unlike that of texts and of objects hashed by address."""

_GIVE_SETS = [
    "__or__",
    "__and__",
    "__sub__",
    "__xor__",
    "union",
    "intersection",
    "difference",
    "symmetric_difference",
    "copy",
]


class _Sorted:
    """Iterates over a set in the order of its members' texts, unless its own order is the same in each process."""

    reverse = False

    def __iter__(self) -> Iterator[Any]:
        members = list(super().__iter__())  # type: ignore[misc]
        if not all(map(_is_of_numbers, members)):
            members.sort(key=repr, reverse=self.reverse)
        return iter(members)


class SortedSet(_Sorted, set[Any]):
    """A set in a model's code."""

    def pop(self) -> Any:
        """Remove and return the first member."""
        for first in self:
            self.remove(first)
            return first
        return set().pop()


class SortedFrozenSet(_Sorted, frozenset[Any]):
    """As `SortedSet`."""


def _is_of_numbers(member: object) -> bool:
    return isinstance(member, NUMBERS) or (isinstance(member, tuple) and all(map(_is_of_numbers, member)))


def _giving(kind: type, name: str) -> Any:
    plain = getattr(kind, name)

    def method(self: Any, *others: Any) -> Any:
        found = plain(self, *others)
        return found if found is NotImplemented else kind(found)

    return method


for _kind in (SortedSet, SortedFrozenSet):
    for _name in _GIVE_SETS:
        setattr(_kind, _name, _giving(_kind, _name))


class _Sets(ast.NodeTransformer):
    """Replaces sets in code by `SortedSet` and `SortedFrozenSet`."""

    def visit_Set(self, node: ast.Set) -> ast.AST:
        """Replace {a, b}."""
        self.generic_visit(node)
        return _call("SortedSet", ast.List(node.elts, ast.Load()), node)

    def visit_SetComp(self, node: ast.SetComp) -> ast.AST:
        """Replace {a for a in b}."""
        self.generic_visit(node)
        return _call("SortedSet", ast.GeneratorExp(node.elt, node.generators), node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Replace set(a) and frozenset(a)."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset"):
            node.func = _class("SortedSet" if node.func.id == "set" else "SortedFrozenSet")
        return ast.fix_missing_locations(node)


def _class(name: str) -> ast.expr:
    """An expression for a class of this module that does not depend on names in the surrounding code."""
    return ast.parse(f"__import__({__name__!r}, fromlist=['']).{name}", mode="eval").body


def _call(name: str, argument: ast.expr, node: ast.expr) -> ast.AST:
    return ast.fix_missing_locations(ast.copy_location(ast.Call(_class(name), [argument], []), node))


@contextlib.contextmanager
def sorted_sets(files: Collection[str], *, reverse: bool) -> Iterator[None]:
    """Context in which files are imported with sorted sets; no bytecode of this is written to disk."""
    usual = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> CodeType | None:
        file = self.get_filename(fullname)
        if file not in files:
            return usual(self, fullname)
        tree = _Sets().visit(ast.parse(self.get_data(file), file))
        return compile(tree, file, "exec", dont_inherit=True)

    with mock.patch.object(SourceFileLoader, "get_code", get_code), mock.patch.object(_Sorted, "reverse", reverse):
        yield
