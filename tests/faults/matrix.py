"""A finished study whose files are damaged or changed: what does the next call? `python tests/faults/matrix.py` says.

The whole workflow is called in a scratch copy for each group of files and each fault, for about a quarter of an hour.
The next call must name what is damaged and end in the same bytes as an undisturbed study, but for what a clock says of
it; or refuse in one line, after which the same bytes come of deleting what it names. Prints a table in Markdown.
"""

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # what pytest does for its own tests

import pandas as pd
from faults import CHANGES, FAULTS, children_keep_to_permissions, damage
from helpers import GRID, copy_project, write_study

from smallbatch.runs import bundles
from smallbatch.runs.chosen_rates import read_chosen
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Run
from smallbatch.training.checkpoint_folder import CheckpointFolder

STUDY = {
    "title": "Small",
    "seeds": [1],
    "experiments": {
        "alexnet": GRID | {"variance_batch_sizes": [16, 64]},
        "plain": GRID | {"model": "resnet8"},
        "bn": GRID | {"model": "resnet8", "norm": "batch", "base_lrs": {"best_of": ["alexnet"]}},
    },
    "figures": {
        "fig01": {"kind": "accuracy", "title": "A", "experiments": ["alexnet", "plain"]},
        "fig02": {"kind": "variance", "title": "B", "experiments": ["alexnet"]},
        "fig03": {"kind": "best", "title": "C", "experiments": ["bn"]},
    },
}  # fmt: skip
ALL = ("-m", "snakemake", "--cores", "2", "--config", "study=small", "--", "all")
COST = ("-m", "snakemake", "--cores", "2", "--config", "study=small", "--", "cost")

CLOCK = ["seconds", "images_per_second", "peak_memory_mb", "lanes", "ended"]
"""Columns that tell of this training, and not of its numbers."""

GROUPS: list[dict[str, str]] = [
    {"meta.json": "data/digits/meta.json"},
    {"train_images.npy": "data/digits/train_images.npy"},
    {"test_labels.npy": "data/digits/test_labels.npy"},
    {
        "run.json": "results/runs/*alexnet*m16_log2lr-8*/run.json",
        "metrics.csv": "results/runs/*resnet8-none*m16_log2lr-8*/metrics.csv",
        "variance.csv": "results/runs/*alexnet*m64_log2lr-8*/variance.csv",
        "checkpoint": "results/checkpoints/*/*.pt",
        "compiled kernels": ".cache/smallbatch/kernels-*.so",
        "heartbeat": "results/packs/*.json",
        "cost.json": "results/small/cost.json",
    },
    {
        "runs.parquet of an experiment": "results/small/experiments/alexnet/runs.parquet",
        "epochs.parquet of an experiment": "results/small/experiments/plain/epochs.parquet",
        "variance.parquet of an experiment": "results/small/experiments/bn/variance.parquet",
        "chosen rates": "results/small/chosen/bn.json",
        "runs.parquet": "results/small/runs.parquet",
        "runs.csv": "results/small/runs.csv",
        "epochs.parquet": "results/small/epochs.parquet",
        "variance.parquet": "results/small/variance.parquet",
        "claims.csv": "results/small/claims.csv",
        "report.html": "results/small/report.html",
        "figure": "paper_figures/small/fig01.svg",
    },
    {"digest of the kernels": ".cache/smallbatch/kernels-*.sha256", "bundle": "results/published/*.zip"},
    {"weights": "results/weights/*alexnet*m16_log2lr-8*.safetensors"},
]
"""Kinds of files, with a pattern of one; those of a group are damaged together."""

HARMLESS = {"heartbeat", "cost.json", "compiled kernels", "digest of the kernels", "bundle"}
"""What decides no number of a finished study: where nothing asks for it, it need not be named."""


def call(project: Path, *arguments: str) -> tuple[bool, str]:
    """Call Python in a project; returns whether all went well, and what was printed and logged."""
    shutil.rmtree(project / "logs", ignore_errors=True)
    places = {"XDG_CACHE_HOME": str(project / ".cache"), "PYTHONPATH": str(project / "workflow")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=os.environ | places, text=True, errors="replace", timeout=570,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=children_keep_to_permissions,
    )  # fmt: skip
    logs = [path.read_text(errors="replace") for path in (project / "logs").rglob("*.log")]
    return done.returncode == 0, "\n".join([done.stdout, *logs])


def scaffold(project: Path) -> Path:
    """A copy of the project in which nothing is trained yet of the small study."""
    copy_project(project)
    config = project / "config" / "config.yaml"
    config.write_text(config.read_text().replace("keep_weights: best", "keep_weights: all"))
    write_study(project, "small", STUDY)
    return project


def finished(project: Path) -> Path:
    """The small study, trained and measured."""
    scaffold(project)
    for arguments in (ALL, COST):
        well, said = call(project, *arguments)
        assert well, said
    return project


def interrupt(project: Path) -> None:
    """Lose a run whose training had begun; the others are in a bundle."""
    store = RunStore(project / "results")
    (lost,) = store.root.glob("*resnet8-none*m64_log2lr-10*")
    bundles.write_bundle(store, "small", [folder.name for folder in store.root.iterdir() if folder != lost])
    record = json.loads((lost / "run.json").read_text())
    run = Run.from_settings(record["settings"])
    CheckpointFolder(project / "results" / "checkpoints", run, record["data_fingerprint"]).create(
        {"runs": [run.settings]}
    )
    shutil.rmtree(lost)


def outcome(project: Path) -> dict[str, object]:
    """What a study came to, by file, without what only a clock decides."""
    found: dict[Path, object] = {}
    for pattern in ("runs/*/*.csv", "weights/*.safetensors", "small/claims.csv"):
        found |= {path: path.read_bytes() for path in _not_aside(project, f"results/{pattern}")}
    for path in _not_aside(project, "results/small/chosen/*.json"):
        found[path] = read_chosen(path)  # beside it stand digests of records, which say when they were trained
    for path in _not_aside(project, "paper_figures/small/fig*.???"):
        found[path] = path.read_bytes()
    for path in _not_aside(project, "results/runs/*/run.json"):
        record = json.loads(path.read_text())
        found[path] = record["settings"], record["outcome"]["diverged_at"]
    for path in [*_not_aside(project, "results/small/**/*.parquet"), project / "results/small/runs.csv"]:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        found[path] = table.drop(columns=CLOCK, errors="ignore").to_csv()
    report = project / "results/small/report.html"
    one_day = re.sub(r"(\d{4}-\d\d-\d\d) to \d{4}-\d\d-\d\d", r"\1", report.read_text())  # over midnight
    found[report] = re.sub(r"[\d.,:]+", "#", one_day)
    return {str(path.relative_to(project)): content for path, content in found.items()}


def _not_aside(project: Path, pattern: str) -> list[Path]:
    """Files of a project, without those that were set aside."""
    return [path for path in project.glob(pattern) if ".damaged-" not in str(path)]


def files_of(project: Path, pattern: str) -> tuple[Path, Path]:
    """A file of a kind, and another one of its kind (or the same, where there is one alone)."""
    path = sorted(project.glob(pattern))[0]
    others = [other for other in project.rglob(f"*{path.suffix}") if other.name == path.name or "*" in pattern]
    return path, next((other for other in others if other != path and other.parent != path.parent), path)


def tried(base: Path, whole: dict[str, object], kinds: dict[str, str], fault: str, scratch: Path) -> dict[str, str]:
    """What the next call makes of a fault in a file of each kind."""
    project = scratch / "project"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(base, project, symlinks=True)
    paths = {kind: files_of(project, pattern) for kind, pattern in kinds.items()}
    if fault == "swapped with another":
        paths = {kind: (path, other) for kind, (path, other) in paths.items() if path != other}
    for path, other in paths.values():
        if fault in CHANGES:
            CHANGES[fault](path)
        else:
            damage(FAULTS[fault], path, other)
    if not paths:
        return dict.fromkeys(kinds, "-")
    command = ALL
    if "weights" in kinds:
        command = ("-m", "smallbatch", "evaluate", paths["weights"][0].stem, "--device", "cpu")
    well, said = call(project, *command)
    if not well and len(kinds) > 1:
        return {kind: tried(base, whole, {kind: pattern}, fault, scratch)[kind] for kind, pattern in kinds.items()}
    words = {kind: _judged(kind, path.relative_to(project), fault, well, said) for kind, (path, _) in paths.items()}
    if not well:
        for path, _ in paths.values():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if not well or "weights" in kinds:
        well, said = call(project, *ALL)
    bad = "" if well else f" FAILS THEN: {_last_line(said)}"
    if well:
        try:
            differing = [name for name, content in outcome(project).items() if whole.get(name) != content]
            missing = [name for name in whole.keys() - outcome(project).keys() if "weights" not in name]
            bad = f" OTHER BYTES: {', '.join([*differing, *missing][:2])}" if differing or missing else ""
        except (OSError, ValueError) as error:
            bad = f" STILL DAMAGED: {' '.join(str(error).split())[-80:]}"
    return {kind: words.get(kind, "-") + bad * (kind in paths) for kind in kinds}


def _judged(kind: str, path: Path, fault: str, well: bool, said: str) -> str:
    named = path.stem in said or (str(Path(*path.parent.parts[-2:])) in said and "damaged" in said)
    if fault in CHANGES:
        return "as before" if well else "refused" if named and kind == "weights" else "REFUSED"
    if not well:
        return f"TRACEBACK {_last_line(said)}" if "Traceback" in said else "refused" if named else "REFUSED, NOT NAMED"
    return "named, mended" if named else "no effect" if kind in HARMLESS else "NOT NAMED"


def _last_line(said: str) -> str:
    lines = [line for line in said.splitlines() if re.search(r"[Ee]rror", line)]
    return (lines or [""])[-1][-120:]


def table(rows: Iterable[tuple[str, Sequence[str]]], heads: Sequence[str]) -> str:
    """A table in Markdown."""
    lines = [["file", *heads], ["---"] * (len(heads) + 1), *([name, *cells] for name, cells in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Try all groups and faults; fails where a cell is in capitals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", action="append", choices=[*FAULTS, *CHANGES], help="only these")
    parser.add_argument("--group", action="append", type=int, help="only these, counted from 0")
    arguments = parser.parse_args()
    faults, cells = arguments.fault or [*FAULTS, *CHANGES], collections.defaultdict(dict)
    with tempfile.TemporaryDirectory() as folder:
        base = finished(Path(folder, "base"))
        whole = outcome(base)
        interrupt(base)
        for number in arguments.group or range(len(GROUPS)):
            for fault in faults:
                for kind, word in tried(base, whole, GROUPS[number], fault, Path(folder)).items():
                    cells[kind][fault] = word
                    print(f"{kind}, {fault}: {word}", flush=True)
    print(table([(kind, [cells[kind][fault] for fault in faults]) for kind in cells], faults))
    sys.exit(any(re.match(r".*[A-Z]{4}", word) for words in cells.values() for word in words.values()))


if __name__ == "__main__":
    main()
