"""What optimisers cost in the kernels: `python benchmarks/optimizers.py` compares the time of an update with SGD's.

Each round makes some updates by every recipe in turn, on the same made images. Times are of the processor, so that
other programs of the machine count little. Ratios are medians of rounds, smallest and largest behind.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import a_run, made_data

from smallbatch.data import prepared
from smallbatch.training.trainer import LaneTrainer

ROUNDS, SECONDS = 7, 0.5
RECIPES = {
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "optimizer": "nesterov"},
    "adamw": {"optimizer": "adamw", "betas": (0.9, 0.999)},
    "lion": {"optimizer": "lion", "betas": (0.9, 0.99)},
    "clipped": {"clip_norm": 1.0},
    "smoothed labels": {"label_smoothing": 0.1},
}
CELLS = [
    (model, norm, shape, m, lanes)
    for model, norm, shape in [
        ("alexnet", "none", (1, 8, 8)),
        ("resnet8", "batch", (1, 8, 8)),
        ("alexnet", "none", (3, 32, 32)),
    ]
    for m, lanes in [(2, 1), (2, 16), (32, 16)]
]


def seconds_of_update(trainer: LaneTrainer, updates: int) -> float:
    """Of the processor, mean over some updates from the start of an epoch."""
    trainer.state.step = 0
    begun = time.process_time()
    trainer.train_block(trainer.plan(), updates)
    return (time.process_time() - begun) / updates


def measure(
    model: str, norm: str, shape: tuple[int, int, int], m: int, lanes: int, folder: Path
) -> tuple[float, dict[str, np.ndarray]]:
    """Milliseconds of an update by SGD, and by recipe the ratios to it, one a round."""
    data = prepared.read(made_data(folder / f"{shape[1]}", shape=shape, train=1437, classes=10))
    trainers = {
        name: LaneTrainer(
            [a_run(model=model, norm=norm, batch_size=m, base_lr=2**-14, seed=seed, **recipe) for seed in range(lanes)],
            data,
            torch.device("cpu"),
        )
        for name, recipe in {"sgd": {}, **RECIPES}.items()
    }
    once = seconds_of_update(trainers["sgd"], 1)
    updates = max(1, min(round(SECONDS / once), trainers["sgd"].loader.steps))
    times = np.array([[seconds_of_update(one, updates) for one in trainers.values()] for _ in range(ROUNDS)])
    ratios = times[:, 1:] / times[:, :1]
    return 1e3 * float(np.median(times[:, 0])), dict(zip(RECIPES, ratios.T, strict=True))


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=len(CELLS), help="how many of the table's rows")
    count = parser.parse_args().cells
    torch.set_num_threads(1)
    print(f"| model | image | m | lanes | SGD, ms | {' | '.join(RECIPES)} |\n|---|---|{'---:|' * (3 + len(RECIPES))}")
    with tempfile.TemporaryDirectory() as folder:
        for model, norm, shape, m, lanes in CELLS[:count]:
            sgd, ratios = measure(model, norm, shape, m, lanes, Path(folder))
            cells = [f"{np.median(one):.2f} ({one.min():.2f}-{one.max():.2f})" for one in ratios.values()]
            size = "x".join(map(str, shape))
            print(f"| {model}, {norm} | {size} | {m} | {lanes} | {sgd:.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
