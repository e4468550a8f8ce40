"""Digests of code: they cover what a script runs, however far behind it, and nothing else."""

import ast

import pytest
from helpers import PROJECT

from smallbatch.core import code_digest as code
from smallbatch.core.errors import UserError

FILES = {
    "script.py": "import json\nfrom smallbatch.judge import verdict\n",
    "smallbatch/__init__.py": "",
    "smallbatch/judge.py": "def verdict():\n    from smallbatch import words\n",
    "smallbatch/words/__init__.py": "import smallbatch.words.plain",
    "smallbatch/words/plain.py": "from smallbatch import judge",
    "smallbatch/style.py": "",
}
RUN = {name for name in FILES if name != "smallbatch/style.py"}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_all_that_a_script_runs_is_reached(tree):
    assert {file.relative_to(tree).as_posix() for file in code.imported_files(tree / "script.py", tree)} == RUN


@pytest.mark.parametrize("edited", FILES)
def test_an_edit_changes_the_digest_of_who_runs_it(tree, edited):
    before = code.code_digest(tree / "script.py", tree)
    (tree / edited).write_text(FILES[edited] + "\n# edited\n")
    assert (code.code_digest(tree / "script.py", tree) != before) == (edited in RUN)


@pytest.mark.parametrize(
    "source",
    [
        "from a import (  # of (two)\n    b,\n    c as d,\n)\nimport e.f, g\nif True:\n    import h; import i",
        '"""Text\nfrom one line to the next\n"""\nfrom a import b',
        "from a import \\\n    b\nfrom . import c\n",
    ],
    ids=["brackets", "text", "continued"],
)
def test_imports_are_found_however_they_are_written(source):
    assert code._imported(source.encode()) == imported_by_the_whole(source)


def test_imports_of_each_module_are_those_of_its_whole_syntax_tree():
    for file in (PROJECT / "workflow").rglob("[!.]*.py"):
        assert code._imported(file.read_bytes()) == imported_by_the_whole(file.read_text(encoding="utf-8")), file


def imported_by_the_whole(source):
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.rsplit(".", cut)[0] for name in names for cut in range(name.count(".") + 1)}


@pytest.mark.parametrize(
    ("script", "runs", "not_run"),
    [
        ("claims", ["analysis/words", "analysis/verdicts", "study/rates"], ["figures/style", "publish/report"]),
        (
            "table",
            ["analysis/table", "runs/store", "data/prepared"],
            ["analysis/claims/verdict_table", "figures/style"],
        ),
        ("choose", ["analysis/selection", "runs/chosen_rates"], ["figures/style"]),
        ("figure", ["figures/style", "figures/accuracy", "analysis/words"], ["publish/report", "figures/preview"]),
        ("report", ["publish/report", "figures/style", "analysis/words"], ["training/trainer"]),
        ("crate", ["publish/crate", "publish/report", "analysis/words"], ["training/trainer"]),
    ],
)
def test_of_the_workflow_each_script_is_followed(script, runs, not_run):
    root = PROJECT / "workflow"
    found = code.imported_files(root / "scripts" / f"{script}.py", root)
    assert {root / "smallbatch" / f"{name}.py" for name in runs} <= found
    assert not found & {root / "smallbatch" / f"{name}.py" for name in not_run}


def test_whatever_judges_claims_is_in_their_digest_and_in_no_figures():
    root = PROJECT / "workflow"
    modules = {
        file for package in ("claims", "predicates") for file in root.glob(f"smallbatch/analysis/{package}/*.py")
    }
    assert len(modules) > 2
    assert modules <= code.imported_files(root / "scripts/claims.py", root)
    assert not modules & code.imported_files(root / "scripts/figure.py", root)


def test_code_that_changes_while_a_call_runs_is_refused(monkeypatch):
    root = PROJECT / "workflow"
    planned = code.code_digest(root / "scripts/claims.py", root)
    with code.require_unchanged_code("claims", planned):
        pass
    with (
        pytest.raises(UserError, match="its code was changed since this call began"),
        code.require_unchanged_code("claims", "old"),
    ):
        pytest.fail("began with other code")
    with (
        pytest.raises(UserError, match="its code was changed since this call"),
        code.require_unchanged_code("claims", planned),
    ):
        monkeypatch.setattr(code, "code_digest", lambda *_: "new")


def test_each_script_whose_code_is_noted_makes_sure_of_it():
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in (PROJECT / "workflow/scripts").glob("*.py")}
    rules = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "workflow/rules").glob("*.smk"))
    noted = {name for name in scripts if f'code=CODE["{name}"]' in rules}
    assert len(noted) == 7
    assert noted == {
        name for name, text in scripts.items() if f'require_unchanged_code("{name}", snakemake.params.code)' in text
    }
