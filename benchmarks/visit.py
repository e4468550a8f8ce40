"""One visit to a device: are its numbers right, and how fast is it? Needs no Snakemake.

    PYTHONPATH=workflow python benchmarks/visit.py --device cuda --out visit.json

Its steps, in this order: the tests that need a GPU; whether lanes equal runs alone and a resumed training is
bit-identical, on images made here; whether recipes (optimisers, losses, metrics, augmentation, floats, variance of
updates) come out as on the CPU; how much faster the kernels are than torch; the others that train runs in lock-step; a
real study; and with the time that is left, the usual loop and Figure 1's rows. Each has a limit of its own and is left
out where the time is over. All that is found, with where it was, is written to --out after each step, and a table comes
last. What the study wrote is packed beside --out, as .results.tar.gz; what it is trained on has to be prepared
before: `python -m smallbatch prepare --config study=cifar10-length`.
"""

import argparse
import copy
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from smallbatch.core import environment
from smallbatch.core.errors import UserError
from smallbatch.core.files import write_json
from smallbatch.data import prepared
from smallbatch.data.public_datasets import PUBLIC_DATASETS
from smallbatch.study.experiments import Run, Setting
from smallbatch.study.rates import BaseLr
from smallbatch.training import lane_layers
from smallbatch.training.resources import device as devices
from smallbatch.training.resources.throughput import random_dataset
from smallbatch.training.trainer import LaneTrainer
from speed import figure1, report
from speed.bench import device_of, run
from speed.cells import CELLS as CELLS_AT_ALL
from speed.cells import CUDA_METHODS, ENGINE, METHODS, PEAK, PEERS_IN_LANES, ROW, USUAL, Cell, Method, methods
from speed.trainers import usual_speed

CIFAR10 = PUBLIC_DATASETS["cifar10"]
CELLS = (
    *(Cell("alexnet", m) for m in (2, 8, 32, 128, 512)),
    *(Cell(group, 2) for group in ("resnet8", "resnet20", "digits")),
)
"""What is compared, the most wanted first."""

PEER_CELLS = (Cell("alexnet", 2), Cell("resnet20", 2), *(Cell("alexnet", m) for m in (8, 32, 128)))
"""On which the others that train runs in lock-step are compared: small batches first."""

PATIENCE = 90.0
"""Seconds after which one of them is left out that has not compiled and trained an epoch."""

LEAST = 20.0
"""Seconds with which no step is begun."""

GRACE = 30.0
"""Seconds that a program has to save what it has done, before it is killed."""

PROJECT = Path(__file__).parents[1]


def runs(batch_size: int, count: int, **setting) -> list[Run]:
    """As many runs of a row, at rates that keep them finite."""
    values = {"data": "noise", "model": "alexnet", "weight_decay": 5e-4, "epochs": 1} | setting
    return [Run(Setting(**values), batch_size, batch_size, BaseLr(2.0**-14), seed) for seed in range(count)]


def steps(training: LaneTrainer, first: int, last: int) -> None:
    """Make the updates first ... last - 1 of the first epoch."""
    plan = training.loader.plan([run.seed for run in training.state.runs], 0)
    training.state.step = first
    while training.state.step < last:
        end = min(training.block_end(), last)
        training.train_block(plan, end)
        training.state.step = end


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference between two states of a model, relative to its largest value."""
    return max(((one[key] - other[key]).abs().max() / one[key].abs().max().clamp(min=1e-6)).item() for key in one)


def lanes_against_alone(data: prepared.Prepared, device: torch.device, model: str, norm: str) -> float:
    """How far a lane is from its run alone after 2 updates; more, and one rectifier that rounding flips decides."""
    row = runs(8, 3, model=model, norm=norm)
    together, alone = LaneTrainer(row, data, device), LaneTrainer(row[1:2], data, device)
    for training in (together, alone):
        steps(training, 0, 2)
    return furthest(lane_layers.lane_state(together.state.model, 1), lane_layers.lane_state(alone.state.model, 0))


def resumed_is_identical(data: prepared.Prepared, device: torch.device) -> bool:
    """Whether 16 updates give the same bits with and without a stop after 8."""
    row = runs(8, 3, model="resnet8", norm="batch")
    whole, stopped, resumed = (LaneTrainer(row, data, device) for _ in range(3))
    steps(whole, 0, 16)
    steps(stopped, 0, 8)
    resumed.restore(stopped.state.state_dict())
    steps(resumed, 8, 16)
    ours, theirs = whole.state.model.state_dict(), resumed.state.model.state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def checks(device: torch.device) -> dict[str, dict]:
    """Whether numbers are right: how far lanes are from their runs alone, and whether resuming changes a bit."""
    data = random_dataset(CIFAR10, 2048)
    pairs = [("alexnet", "none"), ("resnet8", "batch"), ("resnet8", "group")]
    apart = {f"{model} {norm}": lanes_against_alone(data, device, model, norm) for model, norm in pairs}
    return {"lane against alone": apart, "resumed identical": resumed_is_identical(data, device)}


RECIPES: dict[str, dict] = {
    "adamw": {"optimizer": "adamw", "betas": (0.9, 0.999), "lr_schedule": "cosine", "lr_scaling": "sqrt"},
    "lion, clipped": {"optimizer": "lion", "betas": (0.9, 0.99), "clip_norm": 0.5, "weight_decay_excludes": ("norms",)},
    "nesterov": {"optimizer": "nesterov", "momentum": 0.9, "label_smoothing": 0.1},
    "torch:RMSprop": {"optimizer": "torch:RMSprop"},
    "mixup": {"augment_mixup": 0.4, "augment_pad": 4, "augment_flip": True},
    "cutmix": {"augment_cutmix": 1.0, "augment_cutout": 8},
    "colours": {"augment_brightness": 0.4, "augment_contrast": 0.4, "augment_saturation": 0.4},
    "mse": {"loss": "mse", "metrics": ("r2",)},
    "binary": {"loss": "binary", "metrics": ("balanced_accuracy", "f1", "hamming", "likelihood")},
    "metrics": {"metrics": ("balanced_accuracy", "calibration", "f1", "likelihood", "top5")},
    "floats": {},
    "group norm": {"norm": "group"},
    "variance": {"variance_batch_sizes": (4, 8)},
}
"""Recipe -> its settings; each on a model with what it needs."""


def data_for(name: str, images: int) -> prepared.Prepared:
    """Noise of the kind that a recipe is for."""
    kind = {"mse": "numbers", "binary": "binary"}.get(name)
    data = random_dataset(CIFAR10._replace(targets=kind), images)
    if name != "floats":
        return data
    split = prepared.Split(data.train.images.astype(np.float32) / 255, data.train.labels)
    return prepared.Prepared(replace(data.meta, dtype="float32"), split, split)


def numbers_of(name: str, device: torch.device) -> list[float]:
    """What two updates of a recipe come to: their losses, the losses and metrics of a test, variances."""
    norm = RECIPES[name].get("norm", "batch")
    row = runs(8, 2, model="resnet8", **{**RECIPES[name], "norm": norm})
    training = LaneTrainer([replace(run, base_lr=BaseLr(2.0**-12)) for run in row], data_for(name, 64), device)
    losses = training.train_block(training.plan(), 2).flatten().tolist()
    training.measure_variance()
    variances = [one.trace / row[0].learning_rate ** 2 for lane in training.state.variance for one in lane]
    return [*losses, *training.test_split(training.loader.test_batches).losses, *variances]


def recipes(device: torch.device, names: Sequence[str] = tuple(RECIPES)) -> dict[str, float | str]:
    """For each recipe the largest relative difference to the CPU, or what went wrong."""
    found: dict[str, float | str] = {}
    for name in names:
        try:
            ours, theirs = (numbers_of(name, on) for on in (device, devices.pick("cpu")))
            found[name] = max(abs(one - other) / abs(other) for one, other in zip(ours, theirs, strict=True))
        except (RuntimeError, ValueError, UserError) as error:
            found[name] = str(error)[:300]
    return found


def program(command: Sequence[str], seconds: float) -> dict:
    """Run one of the project's programs and ask it to end after so long; how it ended, and its last lines."""
    started, paths = monotonic(), os.pathsep.join([str(PROJECT / "workflow"), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=PROJECT, stdout=said, stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        for limit, stop in ((seconds, process.terminate), (GRACE, process.kill)):
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                stop()
        process.wait()
        said.seek(0)
        lines = said.read().splitlines()
    return {"ended": process.returncode, "seconds": monotonic() - started, "said": lines[-15:]}


def study(name: str, more: Sequence[str], out: Path, seconds: float) -> dict:
    """Train what is missing of a prepared study for so long, and put what it wrote beside `out`."""
    found = program(["smallbatch", "train", "--config", f"study={name}", *more], seconds)
    results = PROJECT / "results"
    parts = [results / part for part in ("runs", "weights", "checkpoints") if (results / part).is_dir()]
    with tarfile.open(out.with_suffix(".results.tar.gz"), "w:gz") as archive:
        for part in parts:
            archive.add(part, part.name)
    return found | {"runs": len(list((results / "runs").glob("*")))}


class Row(NamedTuple):
    """A cell of the comparison of kernels: lanes of the kernels, and of torch as many as are fastest there."""

    model: str
    norm: str
    m: int
    lanes: int
    lanes_of_torch: int


KERNELS = (
    Row("alexnet", "none", 2, 13, 13),
    Row("resnet20", "batch", 2, 13, 13),
    Row("alexnet", "none", 512, 13, 4),
    Row("alexnet", "none", 32, 13, 13),
    Row("alexnet", "none", 8, 13, 13),
    Row("resnet32", "batch", 128, 13, 13),
    Row("alexnet", "none", 2048, 13, 2),
    Row("alexnet", "none", 128, 13, 4),
    Row("alexnet", "none", 2, 64, 64),
)
"""The most wanted first."""


def by_torch(training: LaneTrainer) -> LaneTrainer:
    """The same, without kernels of our own."""
    training.backend = training.backend.without_kernels()
    training.engine = training.make_engine()
    return training


def exact_changes(training: LaneTrainer) -> dict[str, torch.Tensor]:
    """What the first update changes of each parameter, by autograd in double precision."""
    model = copy.deepcopy(training.state.model).double().train()
    images, labels = (part[0] for part in training.loader.batches(training.plan(), 0, 1))
    scores = model(images.double()).unflatten(1, (len(training.state.runs), -1)).flatten(0, 1)
    losses = F.cross_entropy(scores, labels.flatten(), reduction="none").view(labels.shape)
    losses.mean(0).sum().backward()
    rates = training.state.optimizer.negative_rates([1.0])[0].double()
    return {
        name: rates.view(-1, *[1] * (own.dim() - 1)) * (own.grad + training.setting.weight_decay * own.detach())
        for name, own in model.named_parameters()
    }


def apart(data: prepared.Prepared, device: torch.device, row: Row) -> dict[str, float]:
    """How far kernels and torch are from an update in double precision, relative to the largest change of a tensor.

    The rates are powers of two below 1: a change is to be seen beside the weights.
    """
    few = [replace(run, base_lr=BaseLr(2.0**-6)) for run in runs(row.m, 3, model=row.model, norm=row.norm)]
    found = {}
    for name, change in (("kernels", lambda training: training), ("torch", by_torch)):
        training = change(LaneTrainer(few, data, device))
        exact, before = (
            exact_changes(training),
            {k: v.detach().clone() for k, v in training.state.model.named_parameters()},
        )
        steps(training, 0, 1)
        largest = max(change.norm() for change in exact.values())
        found[name] = max(
            ((own.detach().double() - before[k] - exact[k]).norm() / exact[k].norm().clamp(min=1e-2 * largest)).item()
            for k, own in training.state.model.named_parameters()
        )
    return found


def pace(training: LaneTrainer, device: torch.device, seconds: float) -> float:
    """Training images/s of all lanes, in one block of about so many seconds after two that are not counted."""
    plan = training.loader.plan([run.seed for run in training.state.runs], 0)

    def timed(count: int) -> float:
        training.state.step = 0
        started = monotonic()
        training.train_block(plan, count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return monotonic() - started

    most = training.block_end()
    timed(min(8, most))
    few = min(32, most)
    count = max(few, min(most, int(seconds * few / timed(few))))
    return count * training.batch_size * len(training.state.runs) / timed(count)


def tested(training: LaneTrainer, device: torch.device) -> float:
    """Test images/s of all lanes, in a test after one that is not counted."""
    took = 0.0
    for _ in range(2):
        started = monotonic()
        training.test_split(training.loader.test_batches)  # it ends with numbers on the host
        took = monotonic() - started
    return len(training.loader.test_labels) * len(training.state.runs) / took


def raced(row: Row, device: torch.device, seconds: float) -> dict:
    """A row's speeds in one process: kernels, torch, and the usual loop where it is a cell of its own."""
    data = random_dataset(CIFAR10, 10_000)  # as many as it has tests
    found = {"row": row._asdict()}
    started = monotonic()
    ours = LaneTrainer(runs(row.m, row.lanes, model=row.model, norm=row.norm), data, device)
    steps(ours, 0, 1)
    found["begun"] = monotonic() - started
    found["kernels"] = pace(ours, device, seconds)
    found["launches"] = len(ours.engine.program.launches) if hasattr(ours.engine, "program") else None
    found["tests"] = tested(ours, device)
    del ours
    theirs = runs(row.m, row.lanes_of_torch, model=row.model, norm=row.norm)
    other = by_torch(LaneTrainer(theirs, data, device))
    found["torch"], found["tests by torch"] = pace(other, device, seconds), tested(other, device)
    cell = Cell(row.model, row.m)
    if cell in CELLS_AT_ALL and row.lanes == ROW:
        found["usual"] = usual_speed(cell, device.type, seconds)
    return found


def race(device: torch.device, file: Path, rows: Sequence[Row], seconds: float, minutes: float) -> dict:
    """Check the kernels and race them against torch, row by row, writing what is known after each."""
    found: dict = {"where": environment.describe() | devices.describe(device), "apart": {}, "rows": []}
    started = monotonic()
    for row in (Row("alexnet", "none", 8, 3, 3), Row("resnet20", "batch", 8, 3, 3)):
        found["apart"][f"{row.model} {row.norm}"] = apart(random_dataset(CIFAR10, 64), device, row)
        print(found["apart"], flush=True)
        write_json(file, found)
    for row in rows:
        if monotonic() - started > 60 * minutes:
            break
        try:
            found["rows"].append(raced(row, device, seconds))
        except (RuntimeError, UserError) as error:
            found["rows"].append({"row": row._asdict(), "error": str(error)[:300]})
        print(found["rows"][-1], flush=True)
        write_json(file, found)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def figure1_minutes(rows: Sequence[dict]) -> dict[int, float]:
    """m -> minutes that Figure 1's row takes, epochs and tests: from the rows that were raced.

    Between two that were, the speed of training is interpolated in the logarithms of both; none outside.
    """
    raced = [one for one in rows if "error" not in one and Row(**one["row"])[:2] == ("alexnet", "none")]
    timings = {one["row"]["m"]: one for one in raced if one["row"]["lanes"] == ROW}
    known = sorted(timings)
    found = {}
    for m in (m for m in figure1.BATCH_SIZES if known and known[0] <= m <= known[-1]):
        training = np.interp(np.log(m), np.log(known), [np.log(timings[k]["kernels"]) for k in known])
        epoch = CIFAR10.train / np.exp(training) + CIFAR10.test / min(timings[k]["tests"] for k in known)
        found[m] = float(ROW * figure1.SETTING.epochs * epoch / 60)
    return found


def of_race(found: dict) -> str:
    """What came out of it, as a table."""
    lines = [
        f"an update against double precision, relative: {found['apart']}",
        "model     norm       m lanes launches   kernels     torch     x  usual x       tests  by torch",
    ]
    for one in found["rows"]:
        row = Row(**one["row"])
        if "error" in one:
            lines.append(f"{row}: {one['error']}")
            continue
        over = f"{one['kernels'] / one['usual']:.0f}" if "usual" in one else "-"
        lines.append(
            f"{row.model:10}{row.norm:7}{row.m:5}{row.lanes:6}{one['launches'] or 0:9}{one['kernels']:10,.0f}"
            f"{one['torch']:10,.0f}{one['kernels'] / one['torch']:6.2f}{over:>9}"
            f"{one['tests']:12,.0f}{one['tests by torch']:10,.0f}"
        )
    minutes = figure1_minutes(found["rows"])
    lines.append(f"Figure 1, minutes by m: { {m: round(spent, 1) for m, spent in minutes.items()} }")
    lines.append(f"in all {sum(minutes.values()):.1f}, of {len(minutes)} of {len(figure1.BATCH_SIZES)} rows")
    return "\n".join(lines)


def told(found: dict) -> str:
    """What the checks found, as text."""
    lines = [f"{name:16} {difference:.1e}" for name, difference in found["lane against alone"].items()]
    same = "identical" if found["resumed identical"] else "DIFFERENT"
    return "\n  ".join([f"resumed {same}; a lane against its run alone, relative:", *lines])


def of_recipes(found: dict) -> str:
    """How far recipes are from the CPU, as text."""
    words = (f"{name}: {apart if isinstance(apart, str) else format(apart, '.0e')}" for name, apart in found.items())
    return "\n  ".join(["recipes against the CPU, relative:", *words])


def of_program(found: dict) -> str:
    """How a program ended, as text."""
    return f"ended with {found['ended']} after {found['seconds']:.0f} s: {' '.join(found['said'][-1:])}"


class Visit:
    """The steps of a visit, each a function of the seconds that it has.

    Args:
        device: as `device_of` gives it.
        arguments: of the command line.
    """

    def __init__(self, device: dict, arguments: argparse.Namespace) -> None:
        self.device, self.arguments, self.chosen = device, arguments, devices.pick(device["device"])

    def tests(self, seconds: float) -> dict:
        """The tests that need a GPU."""
        return program(["pytest", "-vv", "-m", "gpu", "tests/engine"], seconds)

    def checks(self, seconds: float) -> dict:
        """As the function `checks`."""
        return checks(self.chosen)

    def recipes(self, seconds: float) -> dict:
        """As the function `recipes`."""
        return recipes(self.chosen)

    def kernels(self, seconds: float) -> dict:
        """As `race`."""
        rows, each = KERNELS[: self.arguments.rows], min(1.0, self.arguments.seconds)
        return race(self.chosen, self._file(".kernels.json"), rows, each, seconds / 60)

    def peers(self, seconds: float) -> dict:
        """The engine and the others that train runs in lock-step; the last cell may have to wait for each."""
        them = {name: CUDA_METHODS[name] for name in (*PEERS_IN_LANES, ENGINE)}
        minutes = max(1.0, seconds - len(PEERS_IN_LANES) * PATIENCE) / 60
        return self._compared(PEER_CELLS, them, ".peers.json", minutes=minutes, patience=PATIENCE)

    def study(self, seconds: float) -> dict:
        """As the function `study`."""
        return study(self.arguments.study, self.arguments.config, self.arguments.out, seconds)

    def usual(self, seconds: float) -> dict:
        """The engine and the usual loop, and Figure 1's rows."""
        kind = self.device["device"]
        them = methods(kind, [name for name in METHODS[kind] if name in (*USUAL, ENGINE, PEAK)])
        return self._compared(CELLS, them, ".usual.json", minutes=seconds / 60, whole_figure1=True)

    def _compared(self, cells: Sequence[Cell], them: Mapping[str, Method], ending: str, **options) -> dict:
        of = self.arguments
        return run(
            cells[: of.cells], them, self.device, self._file(ending), rounds=of.rounds, seconds=of.seconds, **options
        )

    def _file(self, ending: str) -> Path:
        return self.arguments.out.with_suffix(ending)


class Step(NamedTuple):
    """A step of a visit: seconds that it may take, what does it, and what turns its result into text."""

    seconds: float
    do: Callable[[Visit, float], dict]
    words: Callable[[dict], str]


STEPS = {
    "tests": Step(150, Visit.tests, of_program),
    "checks": Step(30, Visit.checks, told),
    "recipes": Step(60, Visit.recipes, of_recipes),
    "kernels": Step(150, Visit.kernels, of_race),
    "peers": Step(120 + len(PEERS_IN_LANES) * PATIENCE, Visit.peers, report.peers),
    "study": Step(270, Visit.study, of_program),
    "usual": Step(360, Visit.usual, report.short),
}


def make(visit: Visit, names: Sequence[str], out: Path, minutes: float) -> list[str]:
    """Make these steps in the order of `STEPS`, writing what is known after each; returns their results as text."""
    found: dict = {"where": environment.describe() | visit.device["words"], "steps": {}}
    words, end = [], monotonic() + 60 * minutes
    for name, step in ((name, step) for name, step in STEPS.items() if name in names):
        left = end - monotonic()
        if left < LEAST:
            words.append(f"{name}: left out, {minutes:g} minutes are over")
            continue
        print(f"{name}, {left:.0f} s before the end", flush=True)
        try:
            found["steps"][name] = step.do(visit, min(left, step.seconds))
            words.append(f"{name}: {step.words(found['steps'][name])}")
        except Exception as error:  # the others are still to be had
            found["steps"][name] = {"error": f"{type(error).__name__}: {error}"[:300]}
            words.append(f"{name}: FAILED: {found['steps'][name]['error']}")
        write_json(out, found)
        print(words[-1], flush=True)
    return words


def main() -> None:
    """Make the visit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS, help="default: all")
    parser.add_argument("--minutes", type=float, default=14.0, help="after which no further step is begun")
    parser.add_argument("--study", default="cifar10-length", help="to be trained")
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="of the study")
    parser.add_argument("--cells", type=int, default=len(CELLS), help="how many cells to compare at most")
    parser.add_argument("--rows", type=int, default=len(KERNELS), help="of kernels against torch, at most")
    parser.add_argument("--rounds", type=int, default=3, help="of comparing a cell")
    parser.add_argument("--seconds", type=float, default=4.0, help="that an epoch of the usual loop lasts")
    arguments = parser.parse_args()
    device = device_of(arguments.device)
    words = make(Visit(device, arguments), arguments.steps, arguments.out, arguments.minutes)
    print("\n".join(["", str(device["words"]), *words]))


if __name__ == "__main__":
    main()
