# What the rules share: the library, the checked study, and which packs are still to be trained.
import functools
import os
import sys

from snakemake.exceptions import WorkflowError

# Jobs find the library by this too, in whatever environment they run (`--sdm conda`).
LIBRARY = os.path.join(workflow.basedir, "workflow")
sys.path.insert(0, LIBRARY)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [LIBRARY, os.environ.get("PYTHONPATH")]))

from pathlib import Path

from smallbatch.data import label as label_of
from smallbatch.data.prepared import ARRAYS, META, read_meta
from smallbatch.errors import UserError
from smallbatch.files import folder_is_writable
from smallbatch.packs import make_packs
from smallbatch.store import RunStore
from smallbatch.study import check_config, load_study

DATA, RESULTS, FIGURES = "data", "results", "paper_figures"

try:
    check_config(config)
    STUDY = load_study(config["study"], config["datasets"])
    for folder in (DATA, RESULTS, FIGURES):
        folder_is_writable(Path(folder))
except UserError as error:
    raise WorkflowError(str(error))

DATASETS = {label_of(name, settings): settings for name, settings in config["datasets"].items()}
PACKS = {pack.name: pack for pack in make_packs(STUDY.runs(), config["training"]["runs_per_pack"])}


wildcard_constraints:
    label="|".join(DATASETS),
    study=STUDY.name,
    figure="|".join(STUDY.figures),
    pack="|".join(PACKS),


def meta_of(label):
    """What is known of a prepared data set; before it is prepared, Snakemake learns here that it comes first."""
    meta = read_meta(Path(checkpoints.prepare.get(label=label).output.meta))
    try:
        STUDY.check_against_data(label, meta.train)
    except UserError as error:
        raise WorkflowError(str(error))
    return meta


@functools.cache
def packs_to_train():
    """Witnesses of the packs that the run store lacks something of.

    A run is there when its folder is whole, whatever its modification time, so Snakemake hears only of packs with
    something to train. Asked once a process: what is needed must not change while it is being made.
    """
    store = RunStore(Path(RESULTS, "runs"))
    witnesses = []
    for pack in PACKS.values():
        fingerprint = meta_of(pack.data).fingerprint
        if not all(store.has(run, fingerprint) for run in pack.runs):
            witness = Path(RESULTS, "packs", f"{pack.name}.done")
            witness.unlink(missing_ok=True)  # left behind by an interrupted call, and wrong by now
            witnesses.append(str(witness))
    return witnesses


def training_slots(wildcards):
    """Threads that a training job takes of `--cores`: all jobs together keep each processor busy once."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (workflow.cores or 1) // processors)
