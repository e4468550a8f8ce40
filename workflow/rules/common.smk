# What the rules share: the library, the checked study, and which packs are still to be trained.
import functools
import math
import os
import re
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.iocontainers import Wildcards

from smallbatch import checksums
from smallbatch.analysis import selection
from smallbatch.bundles import take_in
from smallbatch.data import label as label_of
from smallbatch.data import reason_to_prepare
from smallbatch.data.prepared import ARRAYS, META, read_meta
from smallbatch.environment import origin, processors
from smallbatch.errors import UserError, refuse
from smallbatch.files import atomic, digest, folder_is_writable, set_aside
from smallbatch.packs import Plan, cost, with_rates
from smallbatch.speeds import Speeds
from smallbatch.store import RunStore
from smallbatch.study import PROTOCOL
from smallbatch.study_file import check_against_data, check_config, load_study

# A signal to all processes of a job, as clusters and closing terminals send it, must not end the shell, and with it the job, before the script.
shell.prefix("set -euo pipefail; trap : TERM HUP; ")

DATA, RESULTS, FIGURES = "data", "results", "paper_figures"

try:
    config = check_config(config)
    STUDY = load_study(config)
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


KINDS = ("runs", "epochs", "variance")
"""Of tables."""


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


def checksum_file(job):
    """Where the checksums of what a job made stand."""
    return f"{RESULTS}/{STUDY.name}/checksums/{job}.json"


def rates_of(e):
    """The rates that an experiment takes from others, as they are chosen now; none where it has its own."""
    return selection.read_chosen(chosen_file(e.name)) if e.best_of else {}


def pending(e):
    """Files that the tables of an experiment wait for, whose data and rates are known; none where they show its runs."""
    meta = read_meta(meta_file(e.setting.data))
    check_against_data(STUDY, meta.label, meta.train)
    return _pending(e.name, meta.fingerprint, tuple(rates_of(e).items()))


@functools.cache
def _pending(experiment, fingerprint, rates):
    """The witnesses of packs that have to train, and a file newer than the tables, which makes Snakemake look for both.

    Runs are no outputs that Snakemake knows, and behind whole tables it seeks nothing. Asked once a process: the answer
    must not change while jobs run.
    """
    packs, records = PLAN.pending(experiment, fingerprint, dict(rates))
    if not packs and records == checksums.made_from(Path(checksum_file(f"table-{experiment}"))):
        return []
    witnesses = [Path(RESULTS, "packs", f"{pack.name}.done") for pack in packs]
    for witness in witnesses:
        witness.unlink(missing_ok=True)  # of an earlier call, and wrong by now
    stamp = Path(RESULTS, "packs", f"{STUDY.name}.{experiment}.pending")
    with atomic(stamp, "w") as file:
        # Snakemake takes a newer file of the same content for unchanged; the time makes it differ.
        file.write("\n".join([f"pending at {time.time()}:", *map(str, witnesses)]) + "\n")
    return list(map(str, [stamp, *witnesses]))


def pending_runs(wildcards):
    """What the tables of an experiment wait for; Snakemake learns here that its data and its rates come first."""
    known = settle()
    e = STUDY.experiments[wildcards.experiment]
    checkpoints.prepare.get(label=e.setting.data)
    chosen = [checkpoints.choose.get(study=STUDY.name, experiment=e.name).output[0]] if e.best_of else []
    try:
        return known.get(e.name, []) + pending(e) + chosen
    except UserError as error:
        raise WorkflowError(str(error))


def data_files(wildcards):
    """The files of the study's data sets."""
    settle()
    return [f"{DATA}/{label}/{name}" for label in STUDY.labels for name in (META, *ARRAYS)]


@functools.cache
def settle():
    """Once, before Snakemake looks at any file: take in what was published and set aside what is damaged.

    Returns what each experiment waits for whose data and rates are known by then. Jobs on a cluster's nodes have been told.
    """
    if not workflow.is_main_process:
        return {}
    try:
        refuse_what_checkpoints_hide()
        check_folders()
        take_in(STORE)
        set_aside_damaged()
        waiting = {e.name: pending(e) for e in STUDY.experiments.values() if is_known(e)}
    except UserError as error:
        sys.exit(f"error: {error}")
    trains = any(name not in waiting or packs_of(waiting[name]) for name in STUDY.experiments)
    if trains and (incomplete := origin()[1]):
        print(incomplete, file=sys.stderr)
    return waiting


def check_folders():
    """Make sure that what is made can be written; data that are prepared may lie where nobody can write."""
    if not only_looks():
        for folder in (RESULTS, FIGURES, *[DATA] * any(map(unprepared, STUDY.labels))):
            folder_is_writable(Path(folder))


def only_looks():
    """Whether no job is to run: a dry run, or one that prints the graph of jobs."""
    return workflow.executor_plugin is None or workflow.dryrun


def is_known(e):
    """Whether an experiment's data are prepared and its rates chosen."""
    return meta_file(e.setting.data).exists() and (chosen_file(e.name).exists() or not e.best_of)


def refuse_what_checkpoints_hide():
    """Trainings are planned when data and rates are known; where options name their rules Snakemake passes over them."""
    asked = workflow.dag_settings
    for option, names in (("--until", asked.until), ("--omit-from", asked.omit_from)):
        for name in {"train", "choose", "table"} & set(names):
            allowed = (
                "prepare; `snakemake tables` trains and stops before figures, a figure's file trains for that figure"
            )
            refuse("command line", option, name, allowed)
    if "train" in asked.forcerun:
        allowed = "other rules; a run whose folder in results/runs is deleted is trained again"
        refuse("command line", "--forcerun", "train", allowed)


DAMAGED = "edited or damaged"


def set_aside_damaged():
    """Set aside what is not as it was made: Snakemake makes again what is missing."""
    for label in STUDY.labels:
        if reason := unprepared(label):
            make_again(meta_file(label), reason)
    for e in STUDY.experiments.values():
        try:
            rates_of(e)
        except UserError:
            make_again(chosen_file(e.name), f"{chosen_file(e.name)}: {DAMAGED}")
    for sums in sorted(Path(RESULTS, STUDY.name, "checksums").glob("*.json")):
        for file in checksums.damaged(sums):
            make_again(file, f"{file}: {DAMAGED}")


def make_again(file, reason):
    """Set a file aside and say so; where nothing is to be run, only say so."""
    if file.exists():
        done = "a call without -n would make" if only_looks() else f"set aside as {set_aside(file).name}, to make"
        print(f"{reason}; {done} {file.name} again", file=sys.stderr)


def unprepared(label):
    """Why a data set has to be prepared, or prepared anew, in words; none where it is as its settings say."""
    return reason_to_prepare(label, DATASETS[label], Path(DATA, label))


def pack_runs(wildcards):
    """Settings of a pack's runs, at the rates that were chosen for them."""
    pack = PLAN.packs[wildcards.pack]
    e = STUDY.experiments[pack.experiment]
    return [run.settings for run in with_rates(pack.runs, rates_of(e) if chosen_file(e.name).exists() else None)]


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
    """What a study to be published consists of; one with pending runs is refused rather than trained."""
    unfinished = [e.name for e in STUDY.experiments.values() if waits(e)]
    if not unfinished:  # and so the rates that others take from them can be chosen, if they are not yet
        dependent = [e for e in STUDY.experiments.values() if e.best_of]
        for e in dependent:
            checkpoints.choose.get(study=STUDY.name, experiment=e.name)
        unfinished = [e.name for e in dependent if packs_of(pending(e))]
    if unfinished:
        raise WorkflowError(
            f"study {STUDY.name} is not complete: {', '.join(unfinished)} lack runs; `snakemake all` trains them"
        )
    return [*rules.tables.input, *rules.figures.input, *rules.report.input]


def waits(e):
    """Whether data or, as far as they are known, runs of an experiment are still to be made."""
    return not meta_file(e.setting.data).exists() or bool(packs_of(settle().get(e.name, [])))


def packs_of(files):
    return [file for file in files if file.endswith(".done")]
