# What the rules share: the checked study, and where its files lie.
import contextlib
import functools
import os
import re
import sys
import time
from pathlib import Path

from snakemake import __version__ as snakemake_version
from snakemake.cli import get_argument_parser
from snakemake.exceptions import WorkflowError
from snakemake.iocontainers import Wildcards

from smallbatch.core import checksums
from smallbatch.estimate import job_resources
from smallbatch.runs.bundles import records_to_import, import_published
from smallbatch.data import label as label_of
from smallbatch.data import check_source, original_size, reason_to_prepare
from smallbatch.data.dataset_info import size_of
from smallbatch.data.prepared import ARRAYS, META, read_meta
from smallbatch.core.code_digest import code_digest
from smallbatch.core.environment import git_commit, processors
from smallbatch.core.errors import UserError
from smallbatch.core.files import (
    atomic,
    check_folder_writable,
    check_path_kinds,
    files_digest,
    remove_abandoned,
    touch_future_files,
    writing_errors,
)
from smallbatch.publish.archive_files import user_files, workflow_files
from smallbatch.runs import chosen_rates
from smallbatch.runs import snakemake_option_checks
from smallbatch.runs import invalid_files
from smallbatch.runs import job_digests
from smallbatch.runs.packs import Plan, pack_size, with_rates
from smallbatch.estimate.timings import Timings
from smallbatch.runs.store import RunStore
from smallbatch.study.repository_url import repository
from smallbatch.study.claims import files_of
from smallbatch.study.experiments import PROTOCOL
from smallbatch.study.yaml_validation import entries_of, location, read_entries
from smallbatch.study_file import CONFIG_FILE, RESERVED_NAMES
from smallbatch.study_file import check_config, load_study, studies, studies_with
from smallbatch.study_file.data_compatibility import check_against_data

# A signal to all processes of a job, as clusters and closing terminals send it, must not end the shell, and with it the
# job, before the script.
shell.prefix("set -euo pipefail; trap : TERM HUP; ")

DATA, RESULTS, FIGURES = "data", "results", "paper_figures"

try:
    if workflow.is_main_process:  # of keys that stand twice Snakemake's own reader says nothing
        read_entries(entries_of(sys.argv))
    given = workflow.config_settings.config or {}
    files = list(map(str, workflow.config_settings.configfiles))
    for file in files if workflow.is_main_process else ():
        read_yaml(Path(file))
    CONFIG_FILES = " or ".join([CONFIG_FILE, *files])
    config = check_config(config, CONFIG_FILES, given)
    STUDY = load_study(config, given, CONFIG_FILES)
    TIMINGS_FILE = Path(RESULTS, STUDY.name, "cost.json")
    TIMINGS = Timings.read(TIMINGS_FILE)
except UserError as error:
    sys.exit(f"error: {error}")

DATASETS = {label_of(name, settings): settings for name, settings in config["datasets"].items()}
TRAINING = config["training"]
STORE = RunStore(Path(RESULTS))
PLAN = Plan(STUDY, pack_size(STUDY, TRAINING), STORE)


def script_path(name):
    """Of a script: beside the library, or, where that is installed alone, as Snakemake has fetched it."""
    beside = Path(LIBRARY, "scripts", f"{name}.py")
    return beside if beside.is_file() else workflow.source_path(f"../scripts/{name}.py")


CODE = job_digests.code_digests(script_path, Path(LIBRARY))
CHOICE = code_digest(Path(LIBRARY, "smallbatch", "analysis", "selection.py"), Path(LIBRARY))
TEMPLATE = Path(LIBRARY, job_digests.TEMPLATE)
# Snakemake remembers what decides how files are made in .snakemake alone, which is no part of what is shared.
JOB_DIGESTS = job_digests.job_digests(STUDY, config, CODE, Path(LIBRARY), snakemake_version)


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
    return chosen_rates.chosen_file(Path(RESULTS), STUDY.name, experiment)


def meta_file(label):
    return Path(DATA, label, META)


def checksum_file(job):
    """Where the checksums of what a job made stand."""
    return f"{RESULTS}/{STUDY.name}/checksums/{job}.json"


def table_checksums(e):
    """The checksums of the tables that the rates of an experiment are chosen from."""
    return [checksum_file(f"table-{base}") for base in e.best_of]


def rates_of(e):
    """The rates that an experiment takes from others, as they are chosen now; none where it has its own."""
    return chosen_rates.read_chosen(chosen_file(e.name)) if e.best_of else {}


def figure_experiments(wildcards):
    """The experiments that a figure shows."""
    if wildcards.figure not in STUDY.figures:
        known = ", ".join(STUDY.figures)
        # Of an exception here Snakemake tells where it was raised, too.
        sys.exit(f"error: {STUDY.file}: figures: it has no {wildcards.figure}, nor experiments for it; it has: {known}")
    return STUDY.figures[wildcards.figure]["experiments"]


def figure_labels(figure):
    """What Snakemake's own report says of a figure: its file, by whose name it sorts them, and its number and title."""
    from smallbatch.publish.report import figure_title

    return {"file": figure, "figure": figure_title(figure, STUDY.figures[figure]["title"])}


def sized_by_preparing(wildcards):
    """Of the study's data sets those whose size only preparing tells; an original's is known before it is downloaded."""
    preflight()
    labels = [label for label in STUDY.labels if original_size(DATASETS[label]) is None]
    for label in labels:
        check_source_of(label)
    return [str(meta_file(label)) for label in labels]
