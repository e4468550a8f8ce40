"""One visit to a device: are its numbers right, and how fast is it? Needs no Snakemake.

    PYTHONPATH=workflow python benchmarks/visit.py --device cuda --out visit.json

Checks that lanes equal runs alone and that a resumed training is bit-identical, on images made here; then times the
reduced AlexNet on 3x32x32 by batch size and lanes. Prints a table last and writes it, with where it ran, to --out.
"""

import argparse
from pathlib import Path

import torch

from smallbatch import environment
from smallbatch.data import prepared
from smallbatch.data.outline import ORIGINALS
from smallbatch.files import write_json
from smallbatch.rates import BaseLr
from smallbatch.study import Run, Setting
from smallbatch.training import device as devices
from smallbatch.training import lanes
from smallbatch.training.engine import LaneTraining
from smallbatch.training.probe import noise, training_speed

CIFAR10 = ORIGINALS["cifar10"]
BATCH_SIZES = (2, 8, 32, 128, 512)
LANES = (1, 13)
"""Alone, and the 13 rates of the paper's grid."""


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


def main() -> None:
    """Make the visit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing a cell")
    arguments = parser.parse_args()
    device = devices.pick(arguments.device)
    data = noise(CIFAR10, 2048)
    pairs = [("alexnet", "none"), ("resnet8", "batch"), ("resnet8", "group")]
    checks = {f"{model} {norm}": lanes_against_alone(data, device, model, norm) for model, norm in pairs}
    same = resumed_is_identical(data, device)
    speeds = {
        m: {count: training_speed(runs(m, count), data, device, arguments.seconds) for count in LANES}
        for m in BATCH_SIZES
    }
    where = environment.describe() | devices.describe(device)
    results = {"environment": where, "lane against alone": checks, "resumed identical": same, "images/s": speeds}
    write_json(arguments.out, results)
    print(f"{where['device']}: resumed {'identical' if same else 'DIFFERENT'}; a lane against its run alone, relative:")
    print("\n".join(f"  {name:16} {difference:.1e}" for name, difference in checks.items()))
    print(f"images/s, reduced AlexNet 3x32x32\n  {'m':>4}" + "".join(f"{count:>12} lanes" for count in LANES))
    for m, row in speeds.items():
        print(f"  {m:>4}" + "".join(f"{speed:>18,.0f}" for speed in row.values()))


if __name__ == "__main__":
    main()
