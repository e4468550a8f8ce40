"""One visit to a device: are its numbers right, and how fast is it? Needs no Snakemake.

    PYTHONPATH=workflow python benchmarks/visit.py --device cuda --out visit.json

Checks that lanes equal runs alone and that a resumed training is bit-identical, on images made here; then times Figure
1's rows and, as far as --minutes go, compares the engine with the usual loop, cell by cell. Prints a table last and
writes all, with where it ran, to --out after each step.
"""

import argparse
from pathlib import Path

import torch

from smallbatch.data import prepared
from smallbatch.data.outline import ORIGINALS
from smallbatch.study.experiments import Run, Setting
from smallbatch.study.rates import BaseLr
from smallbatch.training import lanes
from smallbatch.training.engine import LaneTraining
from smallbatch.training.resources import device as devices
from smallbatch.training.resources.probe import noise
from speed import report
from speed.bench import device_of, run
from speed.cells import ENGINE, METHODS, PEAK, USUAL, Cell, methods

CIFAR10 = ORIGINALS["cifar10"]
CELLS = (
    *(Cell("alexnet", m) for m in (2, 8, 32, 128, 512)),
    *(Cell(group, 2) for group in ("resnet8", "resnet20", "digits")),
)
"""What is compared, the most wanted first."""

MINUTES = 6.0
"""After which no further cell is begun: with the checks and the last cell, less than nine."""


def runs(batch_size: int, count: int, **setting) -> list[Run]:
    """As many runs of a row, at rates that keep them finite."""
    values = {"data": "noise", "model": "alexnet", "weight_decay": 5e-4, "epochs": 1} | setting
    return [Run(Setting(**values), batch_size, batch_size, BaseLr(2.0**-14), seed) for seed in range(count)]


def steps(training: LaneTraining, first: int, last: int) -> None:
    """Make the updates first ... last - 1 of the first epoch."""
    plan = training.feed.plan([run.seed for run in training.runs], 0)
    training.step = first
    while training.step < last:
        end = min(training._block_end(), last)
        training._train_block(plan, end)
        training.step = end


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference between two states of a model, relative to its largest value."""
    return max(((one[key] - other[key]).abs().max() / one[key].abs().max().clamp(min=1e-6)).item() for key in one)


def lanes_against_alone(data: prepared.Prepared, device: torch.device, model: str, norm: str) -> float:
    """How far a lane is from its run alone after 2 updates; more, and one rectifier that rounding flips decides."""
    row = runs(8, 3, model=model, norm=norm)
    together, alone = LaneTraining(row, data, device), LaneTraining(row[1:2], data, device)
    for training in (together, alone):
        steps(training, 0, 2)
    return furthest(lanes.lane_state(together.model, 1), lanes.lane_state(alone.model, 0))


def resumed_is_identical(data: prepared.Prepared, device: torch.device) -> bool:
    """Whether 16 updates give the same bits with and without a stop after 8."""
    row = runs(8, 3, model="resnet8", norm="batch")
    whole, stopped, resumed = (LaneTraining(row, data, device) for _ in range(3))
    steps(whole, 0, 16)
    steps(stopped, 0, 8)
    resumed.restore(stopped.state())
    steps(resumed, 8, 16)
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def checks(device: torch.device) -> dict[str, dict]:
    """Whether numbers are right: how far lanes are from their runs alone, and whether resuming changes a bit."""
    data = noise(CIFAR10, 2048)
    pairs = [("alexnet", "none"), ("resnet8", "batch"), ("resnet8", "group")]
    apart = {f"{model} {norm}": lanes_against_alone(data, device, model, norm) for model, norm in pairs}
    return {"checks": {"lane against alone": apart, "resumed identical": resumed_is_identical(data, device)}}


def told(found: dict) -> str:
    """What the checks found, as text."""
    lines = [f"{name:16} {difference:.1e}" for name, difference in found["checks"]["lane against alone"].items()]
    same = "identical" if found["checks"]["resumed identical"] else "DIFFERENT"
    return "\n  ".join([f"resumed {same}; a lane against its run alone, relative:", *lines])


def main() -> None:
    """Make the visit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--cells", type=int, default=len(CELLS), help="how many cells to compare at most")
    parser.add_argument("--rounds", type=int, default=3, help="of comparing a cell")
    parser.add_argument("--seconds", type=float, default=2.0, help="that an epoch of the usual loop lasts")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which no further cell is begun")
    arguments = parser.parse_args()
    device = device_of(arguments.device)
    kind = device["device"]
    found = checks(devices.pick(kind))
    print(told(found), flush=True)
    compared = methods(kind, [name for name in METHODS[kind] if name in (*USUAL, ENGINE, PEAK)])
    results = run(
        CELLS[: arguments.cells], compared, device, arguments.out, known=found,
        rounds=arguments.rounds, seconds=arguments.seconds, minutes=arguments.minutes, whole_figure1=True,
    )  # fmt: skip
    print("\n".join([report.where(results), told(found), report.short(results)]))


if __name__ == "__main__":
    main()
