# What the rules share: the library, the checked study, and which packs are still to be trained.
import functools
import os
import sys
import time

from snakemake.exceptions import WorkflowError

# Jobs find the library by this too, in whatever environment they run (`--sdm conda`).
LIBRARY = os.path.join(workflow.basedir, "workflow")
sys.path.insert(0, LIBRARY)
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [LIBRARY, os.getenv("PYTHONPATH")])))

from pathlib import Path

from smallbatch.data import label as label_of
from smallbatch.data.prepared import ARRAYS, META, read_meta
from smallbatch.environment import processors
from smallbatch.errors import UserError
from smallbatch.files import atomic, digest, folder_is_writable
from smallbatch.packs import make_packs
from smallbatch.settings import typed
from smallbatch.store import RunStore
from smallbatch.study import check_config, load_study

DATA, RESULTS, FIGURES = "data", "results", "paper_figures"

config = typed(config)
try:
    check_config(config)
    STUDY = load_study(config["study"], config["datasets"])
    for folder in (DATA, RESULTS, FIGURES):
        folder_is_writable(Path(folder))
except UserError as error:
    sys.exit(f"error: {error}")

DATASETS = {label_of(name, settings): settings for name, settings in config["datasets"].items()}
# Redraws when the code that draws is edited; Snakemake itself looks at scripts alone.
FIGURE_CODE = digest(Path(LIBRARY, "smallbatch", "report.py"), *Path(LIBRARY, "smallbatch", "figures").glob("*.py"))
PACKS = {pack.name: pack for pack in make_packs(STUDY.runs(), config["training"]["runs_per_pack"])}


wildcard_constraints:
    label="|".join(DATASETS),
    study=STUDY.name,
    figure="|".join(STUDY.figures),
    pack="|".join(PACKS),


def meta_file(label):
    return Path(DATA, label, META)


def prepared_fingerprint(label):
    """Of a data set that is prepared; before it is, Snakemake learns here that it comes first."""
    meta = read_meta(Path(checkpoints.prepare.get(label=label).output.meta))
    try:
        STUDY.check_against_data(label, meta.train)
    except UserError as error:
        raise WorkflowError(str(error))
    return meta.fingerprint


@functools.cache
def witnesses(**fingerprints):
    """Of the packs that the run store lacks something of.

    A run is there when its folder is whole, whatever its modification time, so Snakemake hears only of packs with
    something to train. Asked once a process: the answer must not change while jobs run.
    """
    store, found = RunStore(Path(RESULTS, "runs")), []
    for pack in PACKS.values():
        if not all(store.has(run, fingerprints[pack.data]) for run in pack.runs):
            witness = Path(RESULTS, "packs", f"{pack.name}.done")
            witness.unlink(missing_ok=True)  # of an earlier call, and wrong by now
            found.append(str(witness))
    return found


def lacking(wildcards):
    """What the tables wait for."""
    fingerprints = {label: prepared_fingerprint(label) for label in STUDY.labels}
    return DUE + witnesses(**fingerprints)


def due():
    """A file that is newer than the tables if they lack runs: Snakemake looks for no witness behind whole tables."""
    if not all(meta_file(label).exists() for label in STUDY.labels):
        return []
    try:
        wanted = witnesses(**{label: read_meta(meta_file(label)).fingerprint for label in STUDY.labels})
    except UserError as error:
        sys.exit(f"error: {error}")
    if not wanted:
        return []
    stamp = Path(RESULTS, "packs", f"{STUDY.name}.wanted")
    with atomic(stamp, "w") as file:
        # Snakemake takes a newer file of the same content for unchanged; the time makes it differ.
        file.write("\n".join([f"wanted at {time.time()}:", *wanted]) + "\n")
    return [str(stamp)]


# Before Snakemake looks at any file; jobs on a cluster's nodes have been told already.
DUE = due() if workflow.is_main_process else []


def training_slots(wildcards):
    """Threads that a training job takes of `--cores`: all jobs together keep each processor busy once."""
    return max(1, (workflow.resource_settings.cores or 1) // processors())
