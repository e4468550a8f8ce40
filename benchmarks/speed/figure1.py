"""How long Figure 1's whole grid takes, extrapolated from a few steps of each of its rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smallbatch.data.public_datasets import PUBLIC_DATASETS
from smallbatch.study.experiments import Run, Setting
from speed.cells import ROW

SETTING = Setting("cifar10", "alexnet", 5e-4, epochs=82)
BATCH_SIZES = tuple(2**k for k in range(1, 12))
"""Experiment `alexnet` of config/studies/paper.yaml, of which Figure 1 is drawn; a test compares them."""

CIFAR10 = PUBLIC_DATASETS["cifar10"]
IMAGES = {"cpu": 2048, "cuda": 8192}
"""Made images in either split, of which the steps take theirs."""


def speeds(device: str, seconds: float) -> Iterator[dict[str, Any]]:
    """For each m how many images/s of all its lanes the engine trains and tests.

    Args:
        device: cpu or cuda.
        seconds: of measuring each.
    """
    from smallbatch.study.rates import BaseLr
    from smallbatch.training.resources import device as devices
    from smallbatch.training.resources.throughput import benchmark_runs, random_dataset, testing_speed, training_speed
    from speed.trainers import lanes_chosen

    chosen, data = devices.pick(device), random_dataset(CIFAR10, IMAGES[device])
    for m in BATCH_SIZES:
        run = Run(SETTING, m, m, BaseLr(1), 1)
        lanes = lanes_chosen(run, CIFAR10.shape, device)
        runs = benchmark_runs(run, lanes)
        measured = (of(runs, data, chosen, seconds) for of in (training_speed, testing_speed))
        yield dict(zip(("batch_size", "lanes", "training", "testing"), (m, lanes, *measured), strict=True))


def extrapolated(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The whole grid as one process would train it, no run diverging: runs, and seconds by row and in all."""
    images = {"training": CIFAR10.train, "testing": CIFAR10.test}
    seconds = [ROW * SETTING.epochs * sum(images[part] / row[part] for part in images) for row in rows]
    told = [{**row, "seconds": spent} for row, spent in zip(rows, seconds, strict=True)]
    return {"runs": ROW * len(rows), "epochs": SETTING.epochs, **images, "rows": told, "seconds": sum(seconds)}
