"""How time and memory of tables, claims and figures grow with the runs of a study. Needs no data and trains nothing.

    PYTHONPATH=workflow python benchmarks/growth.py --runs 2200 4400 11000

Makes a store of runs that were never trained, about as many as asked for (the study is taken with more seeds), and then
does with it what the workflow does, stage by stage: the tables of each experiment, those of the study, claims, every
figure in every format; before that it asks `python -m smallbatch status` how far the study is. Experiments and figures
are shared among as many processes as there are processors. Prints seconds and the most memory of each stage.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from smallbatch.analysis.table import read_tables, write_table, write_tables
from smallbatch.core.environment import processors
from smallbatch.core.files import write_json, write_sealed
from smallbatch.data.prepared import META, Meta, read_meta
from smallbatch.data.public_datasets import PUBLIC_DATASETS
from smallbatch.runs.chosen_rates import chosen_file, write_chosen
from smallbatch.runs.heartbeat import DONE, HeartbeatWriter, first_heartbeat
from smallbatch.runs.packs import cut_into_packs, pack_size, with_rates
from smallbatch.runs.records import Epoch, Outcome, Variance
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Chosen, Run, Study
from smallbatch.study.rates import BaseLr
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import load_study

PROJECT = Path(__file__).parents[1]
CONFIG = PROJECT / "config" / "config.yaml"
KINDS = ("runs", "epochs", "variance")
PLACE = {"device": "made", "torch": "made", "python": "made", "system": "made", "commit": "made", "threads": "1"}


def chosen(study: Study, name: str) -> Chosen | None:
    """Rates for an experiment that takes the best of others: here the same for every batch size."""
    e = study.experiments[name]
    return dict.fromkeys(e.batch_sizes, BaseLr(2.0**-7)) if e.best_of else None


def planned(study: Study) -> list[tuple[str, Run]]:
    """Every (experiment, run)."""
    return [(name, run) for name, e in study.experiments.items() for run in e.runs(chosen(study, name))]


def with_about(runs: int) -> dict:
    """The configuration of study `paper` with as many seeds as make about so many runs, some 2,200 each."""
    config = read_yaml(CONFIG) | {"study": "paper"}
    of_a_seed = len(load_study(config | {"seeds": 1}).runs())
    return config | {"seeds": -(-runs // of_a_seed)}


def make(config: dict, folder: Path) -> int:
    """Make a project with a study's runs, data sets of which nothing but the size is known; returns how many runs."""
    study = load_study(config)
    write_json(folder / "config" / "config.yaml", config)  # JSON is YAML
    (folder / "config" / "studies").symlink_to(PROJECT / "config" / "studies")
    for label in study.labels:
        size = PUBLIC_DATASETS[label]
        gray = (0.5,) * size.shape[0]
        classes = tuple(map(str, range(size.classes)))
        meta = Meta(label, classes, size.shape, gray, gray, size.train, size.test, f"made {label}")
        write_sealed(folder / "data" / label / META, vars(meta))
    for name, e in study.experiments.items():
        if e.best_of:
            write_chosen(chosen_file(folder / "results", study.name, name), chosen(study, name), [], "")
    for pack in cut_into_packs(study, pack_size(study, config["training"])).values():
        runs = with_rates(pack.runs, chosen(study, pack.experiment))
        names = [run.name(f"made {pack.data}") for run in runs]
        HeartbeatWriter(folder / "results" / "packs" / f"{pack.name}.json", first_heartbeat(names)).update(
            state=DONE, at_once=True
        )
    store, runs = RunStore(folder / "results"), list(dict.fromkeys(run for _, run in planned(study)))
    for run in runs:
        store.write(run, f"made {run.setting.data}", made_outcome(run), PLACE, None)
    return len(runs)


def made_outcome(run: Run) -> Outcome:
    """What could have come out: the best rate falls with m, and far above it training diverges."""
    s, draws = run.setting, np.random.default_rng(zlib.crc32(run.name("").encode()))
    classes = PUBLIC_DATASETS[s.data].classes
    distance = np.log2(run.base_lr) + 6 + 0.3 * np.log2(run.batch_size)
    diverged = 5 if distance > 4 + draws.normal() else None
    accuracy = float(1 / classes + (0.9 - 1 / classes) * np.exp(-((distance / 4) ** 2)) + 0.005 * draws.normal())
    along = 1 - np.exp(-np.arange(1, s.epochs + 1) / s.epochs * 5)
    rows = [] if diverged else [row_of(epoch + 1, max(0.0, accuracy * float(part))) for epoch, part in enumerate(along)]
    sizes = s.variance_batch_sizes if not diverged else ()
    measured = [
        Variance(epoch, m, 1e-6 * m * float(draws.uniform(0.9, 1.1)), 32) for epoch in (0, s.epochs) for m in sizes
    ]
    return Outcome(rows, diverged, 100.0, 10**6, 8, 10**9, measured)


def row_of(epoch: int, accuracy: float) -> Epoch:
    """An epoch of a made run."""
    return Epoch(epoch, 0.01, 3 - 2 * accuracy, 3 - 1.9 * accuracy, accuracy, float("nan"))


def tables(study: Study, folder: Path, mine: slice) -> None:
    """The tables of each experiment, of those that are this process's."""
    for name, e in list(study.experiments.items())[mine]:
        rows = [(name, run) for run in e.runs(chosen(study, name))]
        outputs = {kind: folder / "experiments" / name / f"{kind}.parquet" for kind in KINDS}
        outputs["checksums"] = folder / "checksums" / f"table-{name}.json"
        write_tables(
            rows,
            RunStore(folder / "results"),
            read_meta(folder / "data" / e.setting.data / META),
            0.8,
            outputs,
            made_by="",
        )


def gathered(study: Study, folder: Path, mine: slice) -> None:
    """The tables of the study."""
    for kind in KINDS:
        table = read_tables(folder / "experiments" / name / f"{kind}.parquet" for name in study.experiments)
        write_table(table, folder / f"{kind}.parquet")
        if kind == "runs":
            write_table(table, folder / "runs.csv")


def claims(study: Study, folder: Path, mine: slice) -> None:
    """The verdicts."""
    from smallbatch.analysis.claims.verdict_table import (
        judge,
    )  # what takes seconds to import is left to those stages that need it

    tables = [read_tables([folder / f"{kind}.parquet"]) for kind in KINDS]
    thresholds = read_yaml(CONFIG)["claims"]
    write_table(judge(study.figures, *tables, thresholds, np.random.default_rng(0)), folder / "claims.csv")


def figures(study: Study, folder: Path, mine: slice) -> None:
    """Every figure, of those that are this process's, as the workflow saves it."""
    from smallbatch.figures import draw
    from smallbatch.figures.style import save

    for name, spec in list(study.figures.items())[mine]:
        parts = (
            read_tables(folder / "experiments" / one / f"{kind}.parquet" for one in spec["experiments"])
            for kind in KINDS
        )
        drawn = draw(spec, *parts, study.compared(name))
        save(drawn, [folder / "figures" / f"{name}.{form}" for form in ("pdf", "svg", "png")])


STAGES: dict[str, Callable[[Study, Path, slice], None]] = {
    "tables": tables,
    "gathered": gathered,
    "claims": claims,
    "figures": figures,
}


SHARED = ("tables", "figures")
"""Stages of many jobs, of which the workflow does several at a time."""


def measure(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Do each stage in processes of its own; gives its name, seconds from start to end, and their most memory in MB.

    A process that takes less than the one that starts it has that one's memory on its account.
    """
    yield "status", *_timed("status", folder, [["-m", "smallbatch", "status"]])
    for stage in STAGES:
        count = processors() if stage in SHARED else 1
        shares = [[str(number), str(count)] for number in range(count)]
        yield stage, *_timed(stage, folder, [[__file__, "--stage", stage, "--share", *share] for share in shares])


def _timed(stage: str, folder: Path, commands: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Run Python with these arguments at the same time; seconds, and MB of all together."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "workflow")}
    settings = {"cwd": folder, "env": environment, "stdout": subprocess.DEVNULL}
    started = time.perf_counter()
    processes = [subprocess.Popen([sys.executable, *command], **settings) for command in commands]
    ends = [os.wait4(process.pid, 0) for process in processes]
    seconds = time.perf_counter() - started
    for process, (_, status, _) in zip(processes, ends, strict=True):
        process.returncode = os.waitstatus_to_exitcode(status)
    if any(process.returncode for process in processes):
        raise RuntimeError(f"stage {stage} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, sum(usage.ru_maxrss for _, _, usage in ends) * unit / 1e6


def main() -> None:
    """Measure, or do one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=int, nargs="+", default=[2200, 4400, 11_000], help="about how many, each in turn"
    )
    parser.add_argument("--stage", choices=STAGES, help="do one stage with what was made in this folder")
    parser.add_argument(
        "--share", type=int, nargs=2, metavar=("K", "N"), default=(0, 1), help="of its N shares the Kth"
    )
    arguments = parser.parse_args()
    if arguments.stage:
        first, count = arguments.share
        STAGES[arguments.stage](load_study(read_yaml(Path("config", "config.yaml"))), Path(), slice(first, None, count))
        return
    os.fsync = lambda handle: None  # what is made here need not outlast a power cut
    print(f"{'runs':>7} {'stage':<10} {'seconds':>8} {'MB':>6}")
    for wanted in arguments.runs:
        with tempfile.TemporaryDirectory() as name:
            runs, total = make(with_about(wanted), Path(name)), 0.0
            for stage, seconds, megabytes in measure(Path(name)):
                total += seconds
                print(f"{runs:>7} {stage:<10} {seconds:>8.1f} {megabytes:>6.0f}", flush=True)
            print(f"{runs:>7} {'all':<10} {total:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
