"""Changes one place of the code at a time and sees whether a test notices: `make mutants`, some hours on two cores.

mutmut does it, in copies of the project under `.mutants/`: for each mutant of a function it runs the tests that call
this function. How many were noticed is printed for each module; the others are written with their diffs to
`.mutants/GROUP.diff`, and docs/mutants.md judges them. Tests that start processes know no mutant and are left out.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
COPY = PROJECT / ".mutants"

MODULES = {
    "tables": ["analysis/table", "analysis/selection"],
    "estimates": ["estimate/cost", "estimate/device_benchmark", "estimate/timings", "estimate/job_resources"],
    "status": ["runs/status", "runs/heartbeat"],
    "runs": ["study/experiments", "runs/packs", "study/rates", "training/schedule"],
    "settings": [
        "study/yaml_validation",
        "study_file/__init__",
        "study_file/data_compatibility",
        "study_file/experiment",
        "study_file/figure",
        "study_file/training_recipe",
    ],
    "reports": ["publish/report", "figures/captions", "analysis/words", "analysis/findings"],
    "statistics": [
        "analysis/statistics",
        "analysis/noise",
        "analysis/empirical_bayes_variance",
        "analysis/grid",
        "figures/accuracy_lines",
    ],
    "claims": ["analysis/claims/*", "analysis/predicates/*", "analysis/verdicts", "analysis/update_variance"],
}
"""What is mutated, by what is reported."""

CLAIMS = ("claims", "claim_comparisons", "claim_corners", "claim_readings", "claims_of_few_seeds", "own_claims")

TESTS = {
    "tables": ["table", "selection"],
    "estimates": ["cost", "timings", "job_resources"],
    "status": ["status", "heartbeat"],
    "runs": ["study", "rates_and_schedule", "job_resources", "table"],
    "settings": ["study", "status"],
    "reports": ["report", "results", "captions"],
    "statistics": ["statistics", "noise", "grid", *CLAIMS, "figures", "figure_cells", "table"],
    "claims": [*CLAIMS, "paper", "verdicts", "update_variance"],
}
"""Files of tests that are asked."""

NOTICED = ("killed", "timeout", "caught by type check", "segfault")
"""Ends of a mutant that a test run does not come through well with."""

STARTS_PROCESSES = ("another_process", "need_no_torch", "nothing_heavy", "lacks_a_letter", "as_snakemake_is")
"""Parts of the names of such tests."""

PARTS = (
    "config",
    "docs",
    "envs",
    "profiles",
    "slurm",
    "results",
    "benchmarks",
    "tests",
    "workflow",
    ".dvc",
)
FILES = ("Snakefile", "README.md", "LICENSE", "CITATION.cff", "Makefile", "data.dvc")

WORDS_ONLY = ["UserError\\(", "refuse\\(", "log\\.\\w+\\(", "_wrong\\("]
"""Expressions that are left as they are: what an error or a log says in words is no number."""


def main() -> None:
    """Mutate the groups of modules that the command line names; all of them unless it does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(MODULES)}")
    groups = parser.parse_args().groups or list(MODULES)
    if unknown := set(groups) - set(MODULES):
        parser.error(f"{', '.join(unknown)}: no such group; allowed: {', '.join(MODULES)}")
    for group in groups:
        folder = COPY / group
        shutil.rmtree(folder, ignore_errors=True)
        lay_out(folder, group)
        called = [sys.executable, "-m", "mutmut", "run", "--max-children", str(os.cpu_count() or 1)]
        with open(COPY / f"{group}.log", "w", encoding="utf-8") as log:
            subprocess.run(called, cwd=folder, stdout=log, check=False)
        report(folder)


def report(folder: Path) -> None:
    """Print for each module how many of its mutants tests noticed, and write the diffs of the others."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code

    diffs = []
    with contextlib.chdir(folder):
        for meta in sorted(Path("mutants", "src").rglob("*.meta")):
            source = meta.relative_to("mutants").with_suffix("")
            codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
            ends = {name: status_by_exit_code[code] for name, code in codes.items()}
            left = [name for name, end in ends.items() if end not in NOTICED]
            diffs += [f"{ends[name]}: {get_diff_for_mutant(name, path=source)}" for name in left]
            if ends:
                print(f"{source}: {len(ends)} mutants, {len(ends) - len(left)} noticed, {len(left)} not", flush=True)
    (folder.parent / f"{folder.name}.diff").write_text("\n".join(diffs), encoding="utf-8")


def lay_out(folder: Path, group: str) -> None:
    """Copy the project, its library as mutmut wants it, under `src/`, with a configuration for one group of modules."""
    for part in PARTS:
        trained = ["runs"] if part == "results" else []
        left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", *trained)
        shutil.copytree(PROJECT / part, folder / part, ignore=left_out)
    for file in FILES:
        shutil.copy(PROJECT / file, folder / file)
    (folder / "src").mkdir()
    (folder / "workflow" / "smallbatch").rename(folder / "src" / "smallbatch")
    own = (PROJECT / "pyproject.toml").read_text(encoding="utf-8").replace('"workflow"', '"src"')
    (folder / "pyproject.toml").write_text(own + settings(group), encoding="utf-8")


def settings(group: str) -> str:
    """Those of mutmut, as TOML."""
    values = {
        "source_paths": ["src"],
        "only_mutate": [f"src/smallbatch/{module}.py" for module in MODULES[group]],
        "also_copy": [*PARTS, *FILES],
        "do_not_mutate_patterns": WORDS_ONLY,
        "timeout_multiplier": 5.0,
        "pytest_add_cli_args_test_selection": [file_of(name) for name in TESTS[group]],
        "pytest_add_cli_args": ["-k", " and ".join(f"not {name}" for name in STARTS_PROCESSES)],
    }
    return "\n".join(["\n[tool.mutmut]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


def file_of(name: str) -> str:
    """The file of tests of this name, from the project's folder."""
    (file,) = PROJECT.glob(f"tests/*/test_{name}.py")
    return file.relative_to(PROJECT).as_posix()


if __name__ == "__main__":
    main()
