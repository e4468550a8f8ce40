"""Every kind of file that the project reads: how one is made, and what the project takes from it.

`read` returns what is taken, which must be the same for a damaged file as for the whole one; or none where the project
says that it is damaged by taking nothing. Else it raises a `UserError`. What a reader cannot know to be another file
than was written, since whoever wrote it may write what he likes, is compared by its promises alone: `promised`.
"""

import ctypes
import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
import yaml
from helpers import PROJECT, a_run, made_data
from helpers.cifar import archive, cifar10_contents, python3

from smallbatch import study_file
from smallbatch.analysis.table import read_tables, write_table
from smallbatch.core import checksums
from smallbatch.core.environment import ENVIRONMENT
from smallbatch.core.errors import UserError
from smallbatch.data import archives, cifar, prepared
from smallbatch.data.download import md5_of
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.estimate import timings
from smallbatch.runs import bundles
from smallbatch.runs.chosen_rates import read_chosen, write_chosen
from smallbatch.runs.heartbeat import HeartbeatWriter, first_heartbeat
from smallbatch.runs.records import (
    METRICS_FILE,
    RECORD_FILE,
    SCORES_FILE,
    VARIANCE_FILE,
    Epoch,
    Outcome,
    Score,
    Variance,
)
from smallbatch.runs.status import format_status, study_status
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Experiment, Study
from smallbatch.study.rates import BaseLr
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import check_config, load_study
from smallbatch.training.checkpoint_folder import CheckpointFolder
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.engines.native import library
from smallbatch.training.resources import lane_count

FINGERPRINT = "0" * 64
RUN = a_run(variance_batch_sizes=(4,))
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    make: writes a whole one, and all that belongs to it, into a new folder; another number, another file. Its path.
    read: what the project takes from it.
    decides: whether numbers depend on it, so that damage must be named.
    movable: whether another whole one in its place is no damage.
    written: by a person or a stranger, so that another content is not damage.
    text: how its content is written, json or yaml, if it is structured text.
    """

    make: Callable[[Path, int], Path]
    read: Callable[[Path], Any]
    decides: bool = True
    movable: bool = False
    written: bool = False
    text: str = ""


def promised(promise: bool) -> bool:
    """What is taken of a file whose content is its writer's affair."""
    assert promise, "it took what it does not allow"
    return True


# Prepared data


def make_data(folder: Path, number: int) -> Path:
    return made_data(folder / "data" / "made", train=8, test=4, shape=(1, 8, 2), classes=2 * number)


def read_data(path: Path) -> tuple:
    data = prepared.read(path.parent)
    return data.meta, *(array.tobytes() for s in (data.train, data.test) for array in (s.images, s.labels))


def array_kind(name: str) -> Kind:
    def make(folder: Path, number: int) -> Path:
        return make_data(folder, number) / name

    return Kind(make, read_data)


# The run store


def make_store(folder: Path, number: int, *names: str) -> Path:
    """A store with one run; returns one of its files."""
    scored = replace(RUN.setting, metrics=("f1",))
    store, run = RunStore(folder / "results"), replace(RUN, setting=scored, seed=number)
    epochs = [Epoch(epoch, 2.0**-6, 1.5, 1.25 / number, 0.5 / number, math.nan) for epoch in (1, 2)]
    scores = [Score(epoch, "f1", 0.5 / number, 0.125, math.nan, math.nan) for epoch in (1, 2)]
    outcome = Outcome(epochs, None, 1.5, 128, 1, 1 << 20, [Variance(0, 4, 0.5 / number, 8)], scores)
    store.write(run, FINGERPRINT, outcome, dict.fromkeys(ENVIRONMENT, "known"), b"weights" * number)
    return store.root.joinpath(run.name(FINGERPRINT), *names)


def read_run(path: Path) -> str:
    record = RunStore(path.parents[2]).read(path.parent.name)
    in_order = dict(sorted(record.environment.items()))  # in whatever order an editor leaves its keys
    return repr(replace(record, environment=in_order))  # as text: NaN is not itself


def make_weights(folder: Path, number: int) -> Path:
    make_store(folder, number)
    (path,) = (folder / "results" / "weights").iterdir()
    return path


def read_weights(path: Path) -> bytes:
    store = RunStore(path.parents[1])
    (run,) = store.root.iterdir()
    return store.read_weights(store.read(run.name))


def make_bundle(folder: Path, number: int) -> Path:
    store, run = RunStore(folder / "results"), make_store(folder, number)
    path = bundles.write_bundle(store, "study", [run.name])
    shutil.rmtree(store.root)
    return path


def read_bundle(path: Path) -> dict[str, bytes]:
    store = RunStore(path.parents[1])
    try:
        bundles.import_published(store)
        return {file.name: file.read_bytes() for file in store.root.rglob("*") if file.is_file()}
    finally:
        shutil.rmtree(store.root, ignore_errors=True)


def make_checkpoint(folder: Path, number: int) -> Path:
    checkpoints = CheckpointFolder(folder / "checkpoints", RUN, FINGERPRINT)
    model = {"weight": torch.arange(6.0).view(2, 3) + number}
    return checkpoints.create(
        {"runs": [replace(RUN, seed=number).settings], "model": model, "epoch": 1, "seconds": [1.5]}
    )


def read_checkpoint(path: Path) -> str | None:
    folder = CheckpointFolder(path.parents[1], RUN, FINGERPRINT)
    found = [
        Checkpoint(begun).load() for begun, runs in folder.unfinished(lambda run: run == RUN).items() if RUN in runs
    ]
    return repr(found[0]) if found else None


# Tables and what is chosen from them


def make_table(folder: Path, number: int) -> Path:
    """A table, and the checksums that a job leaves beside what it makes."""
    path = folder / "runs.parquet"
    write_table(pd.DataFrame({"run": ["a", "b"], "accuracy": [0.5, 0.25 * number]}), path)
    with chdir(folder):  # as in a project, whose files are named from there
        checksums.write(Path("checksums.json"), [Path(path.name)])
    return path


def read_table(path: Path) -> str:
    """As a call of the workflow does, which looks for damage before its jobs read anything."""
    with chdir(path.parent):
        if found := checksums.damaged(Path("checksums.json"), ["runs.parquet"]):
            raise UserError(", ".join(str(path.parent / file) for file in found))
        return read_tables([Path("runs.parquet")]).to_csv()


def make_chosen(folder: Path, number: int) -> Path:
    path = folder / "study" / "chosen" / f"experiment{number}.json"
    write_chosen(path, {4: BaseLr(2.0**-8), 16: BaseLr(2.0**-6 / number)}, ["of a base"], "code")
    return path


def make_cost(folder: Path, number: int) -> Path:
    of_sizes = {4: timings.Timing(0.01 * number, 0.002, 10**9), 16: timings.Timing(0.02, 0.001, 10**9)}
    known = timings.Measured(64, 32, of_sizes)
    timings.Timings({timings.kind_of(RUN.setting): known}, "cpu").write(folder / "cost.json")
    return folder / "cost.json"


def read_cost(path: Path) -> tuple | None:
    known = timings.Timings.read(path)
    return (known.kinds, known.seconds([RUN]), known.memory([RUN])) if known.kinds else None


# What people write


STUDY = {
    "title": "Small",
    "seeds": [1, 2],
    "experiments": {
        "base": {
            "data": "digits", "model": "alexnet", "weight_decay": 5e-4, "epochs": 3, "batch_sizes": [4, 16],
            "base_lrs": ["2^-10", 0.5], "augment": {"flip": True}, "lr_drops": [0.5, "3/4"],
            "lr_drop_factor": 0.2, "warmup": True, "warmup_fraction": 0.1, "warmup_start": 0,
            "optimizer": "adamw", "betas": [0.9, 0.95], "clip_norm": 2,
        },
        "best": {
            "data": "digits", "model": "resnet8", "weight_decay": 1e-4, "epochs": 2, "norm": "batch",
            "batch_sizes": [16], "bn_batch_sizes": [8, 16], "base_lrs": {"best_of": ["base"]},
        },
    },
    "figures": {"fig01": {"kind": "accuracy", "title": "A", "experiments": ["base"]}},
}  # fmt: skip
CONFIG = yaml.safe_load((PROJECT / "config" / "config.yaml").read_text())


def make_study(folder: Path, number: int) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(STUDY | {"title": f"Small {number}"}))
    return path


def read_study(path: Path) -> bool:
    with mock.patch.object(study_file, "STUDIES", path.parent):
        study = load_study(CONFIG | {"study": path.stem})
    runs = study.runs()
    json.dumps(study.as_json(), allow_nan=False)
    waits = {name for name, e in study.experiments.items() if e.best_of}
    rates = [run.base_lr for name, run in study.planned() if name not in waits]
    decays = [run.setting.weight_decay for run in runs]
    return promised(all(0 < x < math.inf for x in rates) and all(0 <= x < math.inf for x in decays))


def make_config(folder: Path, number: int) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG | {"seeds": number}))
    return path


def read_config(path: Path) -> bool:
    config = read_yaml(path)
    check_config(config, str(path))
    return promised(json.dumps(config, allow_nan=False) != "")


# Archives from elsewhere


def make_archive(folder: Path, number: int) -> Path:
    path = archive(folder, cifar10_contents(per_batch=number))
    (folder / "md5").write_text(md5_of(path))
    return path


def read_archive(path: Path) -> tuple:
    settings = {"source": "cifar10", "archive": str(path), "md5": (path.parent / "md5").read_text(), "label": "small"}
    with mock.patch.object(cifar, "write", lambda *parts, **_: parts):  # instead of arrays
        _, _, classes, train, test = cifar.prepare("small", settings, path.parent / "prepared", path.parent)
    return classes, *(array.tobytes() for split in (train, test) for array in (split.images, split.labels))


def read_members(path: Path) -> bool:
    """As of an archive whose md5 is that of the damaged one: only what is not read can be other."""
    layout = cifar.LAYOUTS["cifar10"]
    return promised(set(archives.read_members(path, (layout.test, layout.meta))) == {layout.test, layout.meta})


def make_pickle(folder: Path, number: int) -> Path:
    path = folder / "test_batch"
    path.write_bytes(python3({b"data": np.full((number, 3072), 7, np.uint8), b"labels": [*range(number)]}))
    return path


def read_pickle(path: Path) -> bool:
    layout = cifar.LAYOUTS["cifar10"]
    batch = cifar.read_batch(str(path), path.read_bytes(), layout)
    return promised(len(batch.labels) == len(batch.images) and set(batch.labels.tolist()) <= set(range(layout.classes)))


# What watches, and what is remembered for this user


def make_heartbeat(folder: Path, number: int) -> Path:
    path = folder / "results" / "packs" / "pack.json"
    heartbeat = first_heartbeat([run.name(FINGERPRINT) for run in WATCHED.runs()], "logs/train/pack.log")
    HeartbeatWriter(path, heartbeat).update(
        at_once=True, epoch=1, epochs=2, images=128 * number, trained=64, group=heartbeat.runs, speed=10.0
    )
    return path


WATCHED_GRID = Experiment("e", RUN.setting, (4,), None, (BaseLr(2.0**-8),), (1,))
WATCHED = Study("study.yaml", "study", "Small", "", {"e": WATCHED_GRID}, {})


def read_heartbeat(path: Path) -> bool:
    """The status is shown, whatever a heartbeat says."""
    meta = prepared.Meta("made", ("a", "b"), (1, 2, 2), (0.5,), (0.5,), 8, 4, FINGERPRINT)
    with (
        mock.patch("smallbatch.runs.status.read_meta", lambda _: meta),
        mock.patch.object(Path, "exists", os.path.lexists),  # as if the data were there
    ):
        return promised(format_status(study_status(WATCHED, path.parents[2] / "results", path.parents[1])) != "")


def make_kernels(folder: Path, number: int) -> Path:
    path = folder / "kernels-0.so"
    with compiling(b"library" * number):
        library._loaded(["c++"], path)
    return path


@contextmanager
def compiling(content: bytes) -> Iterator[None]:
    """A compiler that needs no time; what is loaded is the library's bytes."""

    def compiled(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        Path(command[command.index("-o") + 1]).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "")

    with (
        mock.patch.object(subprocess, "run", compiled),
        mock.patch.object(ctypes, "CDLL", lambda path: Path(path).read_bytes()),
    ):
        yield


def read_kernels(path: Path) -> bytes:
    with compiling(b"library"):
        return library._loaded(["c++"], path.with_suffix(".so"))


def make_kernels_digest(folder: Path, number: int) -> Path:
    return make_kernels(folder, number).with_suffix(".sha256")


DATASET = DatasetInfo((1, 2, 2), 2, 8, 4)


def make_lanes(folder: Path, number: int) -> Path:
    path = folder / "smallbatch" / "lanes.json"
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(folder)):
        kind = lane_count.training_kind(RUN, DATASET, CPU, 1)
        lane_count.save_throughputs(kind, lane_count.CachedThroughputs({1: 100.0 * number, 2: 150.0 * number}, 8))
    return path


def read_lanes(path: Path) -> bool:
    """Whatever is remembered, some number of lanes is chosen; which one is a matter of speed."""
    with (
        mock.patch.dict(os.environ, XDG_CACHE_HOME=str(path.parents[1])),
        mock.patch.object(lane_count.native, "layout_of", lambda *_: None),
        mock.patch.object(lane_count, "_measure", lambda run, lanes, *_: 100.0 * lanes),
        mock.patch.object(lane_count, "save_throughputs", lambda *_: None),
    ):
        return promised(1 <= lane_count.best_lane_count(RUN, 4, DATASET, CPU, 1) <= 4)


KINDS: dict[str, Kind] = {
    "meta.json": Kind(lambda folder, number: make_data(folder, number) / prepared.META, read_data, text="json"),
    **{name: array_kind(name) for name in prepared.ARRAYS},
    "run.json": Kind(lambda folder, number: make_store(folder, number, RECORD_FILE), read_run, text="json"),
    "metrics.csv": Kind(lambda folder, number: make_store(folder, number, METRICS_FILE), read_run),
    "scores.csv": Kind(lambda folder, number: make_store(folder, number, SCORES_FILE), read_run),
    "variance.csv": Kind(lambda folder, number: make_store(folder, number, VARIANCE_FILE), read_run),
    "weights": Kind(make_weights, read_weights),
    "bundle": Kind(make_bundle, read_bundle),
    "checkpoint": Kind(make_checkpoint, read_checkpoint),
    "table": Kind(make_table, read_table),
    "checksums": Kind(
        lambda folder, number: make_table(folder, number).with_name("checksums.json"),
        read_table,
        decides=False,
        text="json",
    ),
    "chosen rates": Kind(make_chosen, read_chosen, text="json"),
    "cost.json": Kind(make_cost, read_cost, movable=True, text="json"),
    "study": Kind(make_study, read_study, written=True, text="yaml"),
    "config": Kind(make_config, read_config, written=True, text="yaml"),
    "CIFAR archive": Kind(make_archive, read_archive),
    "members of an archive": Kind(make_archive, read_members, written=True),
    "pickle": Kind(make_pickle, read_pickle, written=True),
    "heartbeat": Kind(make_heartbeat, read_heartbeat, decides=False, text="json"),
    "kernels": Kind(make_kernels, read_kernels),
    "digest of the kernels": Kind(make_kernels_digest, read_kernels),
    "lanes.json": Kind(make_lanes, read_lanes, decides=False, text="json"),
}
