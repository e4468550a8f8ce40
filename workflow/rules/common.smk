# What the rules share: the library, the checked study, and which packs are still to be trained.
import functools
import math
import os
import re
import shlex
import sys
import time

from snakemake.exceptions import WorkflowError
from snakemake.iocontainers import Wildcards

# Jobs find the library by this too, in whatever environment they run (`--sdm conda`).
LIBRARY = os.path.join(workflow.basedir, "workflow")
sys.path.insert(0, LIBRARY)
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [LIBRARY, os.getenv("PYTHONPATH")])))
# So that a training knows that it has a job of the cluster for itself.
if not workflow.is_main_process:
    os.environ.update(SMALLBATCH_SUBMITTED="yes")

from pathlib import Path

from smallbatch.analysis import selection
from smallbatch.bundles import take_in
from smallbatch.data import label as label_of
from smallbatch.data.prepared import ARRAYS, META, read_meta
from smallbatch.environment import origin, processors
from smallbatch.errors import UserError
from smallbatch.files import atomic, digest, folder_is_writable
from smallbatch.packs import Plan, cost, with_rates
from smallbatch.speeds import Speeds
from smallbatch.store import RunStore
from smallbatch.study import PROTOCOL
from smallbatch.study_file import check_against_data, check_config, load_study

# A signal to all processes of a job, as clusters send it, must not end the shell, and with it the job, before the script.
shell.prefix("set -euo pipefail; trap : TERM; ")

DATA, RESULTS, FIGURES = "data", "results", "paper_figures"

try:
    config = check_config(config)
    STUDY = load_study(config)
    for folder in (DATA, RESULTS, FIGURES):
        folder_is_writable(Path(folder))
    SPEEDS_FILE = Path(RESULTS, STUDY.name, "cost.json")
    SPEEDS = Speeds.read(SPEEDS_FILE)
except UserError as error:
    sys.exit(f"error: {error}")

DATASETS = {label_of(name, settings): settings for name, settings in config["datasets"].items()}
TRAINING = config["training"]
STORE = RunStore(Path(RESULTS))
PLAN = Plan(STUDY, TRAINING["runs_per_pack"] * TRAINING["side_by_side"], STORE)
# Tables and figures are made anew when the code that makes them is edited; Snakemake itself looks at scripts alone.
ANALYSIS_FILES = list(Path(LIBRARY, "smallbatch", "analysis").glob("*.py"))
ANALYSIS_CODE = digest(*ANALYSIS_FILES)
FIGURE_CODE = digest(
    *ANALYSIS_FILES, Path(LIBRARY, "smallbatch", "report.py"), *Path(LIBRARY, "smallbatch", "figures").glob("*.py")
)


wildcard_constraints:
    label="|".join(DATASETS),
    study=re.escape(STUDY.name),
    experiment="|".join(STUDY.experiments),
    figure="[a-z0-9-]+",
    pack="|".join(PLAN.packs),


def tables(kind, experiments):
    """Tables of one kind, `runs`, `epochs` or `variance`, of these experiments."""
    return [f"{RESULTS}/{STUDY.name}/experiments/{experiment}/{kind}.parquet" for experiment in experiments]


def chosen_file(experiment):
    return selection.chosen_file(Path(RESULTS), STUDY.name, experiment)


def meta_file(label):
    return Path(DATA, label, META)


@functools.cache
def witnesses(experiment, fingerprint, rates):
    """Of the packs that have to train something of an experiment.

    Runs are no outputs that Snakemake knows: it hears only of packs with something to train. Asked once a process: the
    answer must not change while jobs run.
    """
    packs = PLAN.lacking(experiment, fingerprint, dict(rates))
    found = [Path(RESULTS, "packs", f"{pack.name}.done") for pack in packs]
    for witness in found:
        witness.unlink(missing_ok=True)  # of an earlier call, and wrong by now
    return [str(witness) for witness in found]


def wanted(e, meta, chosen):
    """What experiment `e` waits for, once its data and its rates are known."""
    meta = read_meta(Path(meta))
    check_against_data(STUDY, meta.label, meta.train)
    return witnesses(e.name, meta.fingerprint, tuple(selection.read_chosen(Path(chosen)).items()) if e.best_of else ())


def lacking(wildcards):
    """What the tables of an experiment wait for; Snakemake learns here that its data and its rates come first."""
    e = STUDY.experiments[wildcards.experiment]
    meta = checkpoints.prepare.get(label=e.setting.data).output.meta
    chosen = checkpoints.choose.get(study=STUDY.name, experiment=e.name).output[0] if e.best_of else None
    try:
        return DUE.get(e.name, []) + wanted(e, meta, chosen) + ([chosen] if chosen else [])
    except UserError as error:
        raise WorkflowError(str(error))


def due():
    """For each experiment that lacks runs a file newer than its tables: behind whole tables Snakemake seeks nothing."""
    found = {}
    for e in STUDY.experiments.values():
        meta, chosen = meta_file(e.setting.data), chosen_file(e.name)
        known = meta.exists() and (chosen.exists() or not e.best_of)
        missing = wanted(e, meta, chosen) if known else []
        if missing:
            stamp = Path(RESULTS, "packs", f"{STUDY.name}.{e.name}.wanted")
            with atomic(stamp, "w") as file:
                # Snakemake takes a newer file of the same content for unchanged; the time makes it differ.
                file.write("\n".join([f"wanted at {time.time()}:", *missing]) + "\n")
            found[e.name] = [str(stamp)]
    return found


# Before Snakemake looks at any file; jobs on a cluster's nodes have been told already.
DUE = {}
try:
    if workflow.is_main_process:
        take_in(STORE)
        DUE = due()
        if DUE and (incomplete := origin()[1]):
            print(incomplete, file=sys.stderr)
except UserError as error:
    sys.exit(f"error: {error}")


def pack_runs(wildcards):
    """Settings of a pack's runs, at the rates that were chosen for them."""
    pack = PLAN.packs[wildcards.pack]
    chosen = chosen_file(pack.experiment)
    return [run.settings for run in with_rates(pack.runs, selection.read_chosen(chosen) if chosen.exists() else None)]


def figure_experiments(wildcards):
    """The experiments that a figure shows."""
    if wildcards.figure not in STUDY.figures:
        known = ", ".join(STUDY.figures)
        raise WorkflowError(
            f"{STUDY.file}: figures: it has no {wildcards.figure}, nor experiments for it; it has: {known}"
        )
    return STUDY.figures[wildcards.figure]["experiments"]


def training_slots(wildcards):
    """Threads that a training job takes of `--cores`: all jobs together keep each processor busy once."""
    at_once = TRAINING["processes"] * TRAINING["side_by_side"]
    return at_once * max(1, (workflow.resource_settings.cores or 1) // processors())


def training_memory(wildcards, attempt):
    """MB that a training job may take, doubled each time that they did not do.

    A quarter more than `snakemake cost` found, once that was called; before, what does for ResNet-32 on CIFAR.
    """
    runs = PLAN.packs[wildcards.pack].runs
    known = SPEEDS.memory(runs) if SPEEDS.know(runs) else 0
    # Rounded up, as minutes are: a cluster is not to be asked for as many kinds of jobs as there are packs.
    one = 500 * math.ceil(1.25 * known / 500e6) or 2000 * max(1, max(run.batch_size for run in runs) // 256)
    return one * TRAINING["side_by_side"] * 2 ** (attempt - 1)


def training_minutes(wildcards, attempt):
    """Minutes that a training job may take, more at each attempt: twice what `snakemake cost` found, once it was called.

    A day at most: on a cluster, what is not through by then goes on in another.
    """
    runs, steps = PLAN.packs[wildcards.pack].runs, (10, 20, 30, 60, 120, 240, 480, 960)
    minutes = 5 + 2 * SPEEDS.seconds(runs) / 60 / TRAINING["side_by_side"] if SPEEDS.know(runs) else 240
    return min(1440, attempt * next((step for step in steps if step >= minutes), 1440))


def training_priority(wildcards):
    """First what other trainings wait for, then long before short, so that the last ones end together.

    Below zero, the priority of the rest: tables and figures are made as soon as they can be.
    """
    pack = PLAN.packs[wildcards.pack]
    load = SPEEDS.seconds(pack.runs) if SPEEDS.know(pack.runs) else sum(map(cost, pack.runs))
    return -1 / (1 + load) - (pack.name not in PLAN.awaited)


def complete(wildcards):
    """What a study to be published consists of; one that lacks runs is refused rather than trained."""
    lacking = [e.name for e in STUDY.experiments.values() if e.name in DUE or not meta_file(e.setting.data).exists()]
    if not lacking:  # and so the rates that others take from them can be chosen, if they are not yet
        dependent = [e for e in STUDY.experiments.values() if e.best_of]
        chosen = {e: checkpoints.choose.get(study=STUDY.name, experiment=e.name).output[0] for e in dependent}
        lacking = [e.name for e in dependent if wanted(e, meta_file(e.setting.data), chosen[e])]
    if lacking:
        raise WorkflowError(
            f"study {STUDY.name} is not complete: {', '.join(lacking)} lack runs; `snakemake all` trains them"
        )
    return [*rules.figures.input, *rules.report.input]
