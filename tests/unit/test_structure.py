"""The order of knowledge in the library and in its tests, read from their imports: who stands on whom."""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import PROJECT

import smallbatch

LIBRARY = Path(smallbatch.__file__).parent
TESTS = PROJECT / "tests"

KNOWS = {
    "core": set(),
    "study": {"core"},
    "data": {"core", "study"},
    "models": {"core", "study"},
    "runs": {"core", "study", "data"},
    "analysis": {"core", "study", "data", "runs"},
    "training": {"core", "study", "data", "models", "runs", "analysis"},
    "estimate": {"core", "study", "data", "runs", "training"},
    "figures": {"core", "study", "data", "runs", "analysis"},
    "publish": {"core", "study", "data", "runs", "analysis", "figures"},
    "export": {"core", "study", "data", "runs", "analysis"},
    "cluster": {"core"},
    "terminal": {"core", "study", "data", "runs"},
    "study_file": {"core", "study", "data", "models", "figures", "training"},
}
"""Room of the library -> the other rooms that its modules may import."""

WITHOUT_TORCH = ("core", "study", "runs", "analysis", "figures", "publish", "export", "cluster", "terminal")


def imports(file: Path) -> Iterator[str]:
    """Full names of all that a module imports, wherever in it; of `from a import b` that is `a.b`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports are not read"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(room: str) -> set[tuple[str, str]]:
    """(module of a room, what it imports)."""
    files = (LIBRARY / room).rglob("*.py")
    return {(file.relative_to(LIBRARY).as_posix(), name) for file in files for name in imports(file)}


def test_each_room_is_in_the_order():
    assert {path.parent.name for path in LIBRARY.glob("*/__init__.py")} == set(KNOWS)


@pytest.mark.parametrize("room", KNOWS)
def test_a_room_knows_only_what_it_stands_on(room):
    allowed = {f"smallbatch.{other}" for other in KNOWS[room] | {room}} | {"smallbatch.__version__"}
    own = {(module, name) for module, name in imported(room) if name.partition(".")[0] == "smallbatch"}
    assert {(module, name) for module, name in own if ".".join(name.split(".")[:2]) not in allowed} == set()


def test_the_core_imports_the_standard_library_alone():
    roots = {(module, name.partition(".")[0]) for module, name in imported("core")}
    assert {(module, root) for module, root in roots if root not in {"smallbatch", *sys.stdlib_module_names}} == set()


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_what_reads_results_needs_no_torch(room):
    assert {(module, name) for module, name in imported(room) if name.partition(".")[0].startswith("torch")} == set()


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_what_reads_results_starts_quickly(room):
    """`scipy.stats` takes a second of each job; what is needed of it is in `scipy.special`."""
    assert {(module, name) for module, name in imported(room) if name.startswith("scipy.stats")} == set()


def test_no_test_is_imported_by_another_file():
    files = sorted(TESTS.rglob("*.py"))
    tests = {file.stem for file in files if file.stem.startswith("test_") or file.stem == "conftest"}
    assert len(tests) > 50
    assert {(file.name, name) for file in files for name in imports(file) if name.partition(".")[0] in tests} == set()


def module_name(file: Path) -> str:
    """A package's is that of its `__init__`."""
    path = file.parent if file.stem == "__init__" else file.with_suffix("")
    return ".".join(path.relative_to(LIBRARY.parent).parts)


@pytest.mark.parametrize("room", KNOWS)
def test_no_module_imports_itself_through_others(room):
    """Whatever the import is for, types included."""
    files = {module_name(file): file for file in (LIBRARY / room).rglob("*.py")}
    known = {
        name: {found if found in files else found.rpartition(".")[0] for found in imports(file)} & files.keys()
        for name, file in files.items()
    }
    graphlib.TopologicalSorter(known).prepare()
