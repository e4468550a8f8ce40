"""How often 95 % intervals cover: `python benchmarks/intervals.py [STUDIES]` makes studies of known truth.

Accuracies come from images that are drawn: each has a difficulty, in part the same for all cells, in part for the seeds
of one cell, so that correct answers correlate as they do in trained networks (docs/statistics.md). A run's own level
varies by its seed, in part as that of the other cells with that seed.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, ndtri

from smallbatch.analysis.grid import Grid, build_grid
from smallbatch.analysis.noise import completed_runs
from smallbatch.analysis.statistics import percentile_interval, slope

SEEDS = (1, 2, 3, 5, 10)
SIZES = np.array([2, 8, 32, 128, 512])
RATES = 2.0 ** np.array([-10, -8, -6, -4])
IMAGES = 1000


@dataclass(frozen=True)
class World:
    """What is true of a study.

    levels: (sizes, rates), accuracies over all seeds and images.
    spread: standard deviation over seeds of a run's accuracy on all images.
    by_seed: the part of its variance that runs of one seed have in common.
    all_cells, one_cell: the parts of an image's latent difficulty that all runs share, and those of one cell besides.
    border: the rate's place, for each size, up to which half of the seeds converge; none: all do everywhere.
    """

    levels: np.ndarray
    spread: float = 0.004
    by_seed: float = 0.3
    all_cells: float = 0.75
    one_cell: float = 0.1
    border: np.ndarray | None = None

    @property
    def shares(self) -> np.ndarray:
        """(sizes, rates), of seeds that converge."""
        if self.border is None:
            return np.ones(self.levels.shape)
        return expit((self.border[:, None] - np.arange(len(RATES))) / 0.25)

    def study(self, seeds: int, draws: np.random.Generator) -> pd.DataFrame:
        """A table of runs as a study has it."""
        cells = self.levels.size
        common, own = draws.standard_normal((1, seeds)), draws.standard_normal((cells, seeds))
        moved = self.spread * (np.sqrt(self.by_seed) * common + np.sqrt(1 - self.by_seed) * own)
        level = np.clip(self.levels.reshape(-1, 1) + moved, 0.001, 0.999)
        parts = np.sqrt([self.all_cells, self.one_cell, 1 - self.all_cells - self.one_cell])
        shapes = (1, 1, IMAGES), (cells, 1, IMAGES), (cells, seeds, IMAGES)
        hard = sum(
            part * draws.standard_normal(shape, dtype=np.float32) for part, shape in zip(parts, shapes, strict=True)
        )
        accuracy = (hard < ndtri(level)[..., None]).mean(axis=2)
        converged = draws.random((cells, seeds)) < self.shares.reshape(-1, 1)
        accuracy = np.where(converged, accuracy, 0.1)
        m, rate, seed = np.meshgrid(SIZES, RATES, np.arange(seeds), indexing="ij")
        return pd.DataFrame({
            "experiment": "made", "batch_size": m.ravel(), "bn_batch_size": m.ravel(), "base_lr": rate.ravel(),
            "seed": seed.ravel(), "test_images": IMAGES, "train_images": 10 * IMAGES, "norm": "none",
            "accuracy": accuracy.ravel(), "selection_accuracy": accuracy.ravel(), "converged": converged.ravel(),
        })  # fmt: skip


def _levels(top: int, lower: float) -> np.ndarray:
    """Accuracies of which so many, spread over the grid, are 95 %, and the others lower."""
    levels = np.full(len(SIZES) * len(RATES), 0.95 - lower)
    levels[np.linspace(1, levels.size - 2, top).round().astype(int)] = 0.95
    return levels.reshape(len(SIZES), len(RATES))


_HUMP = 0.95 - 0.004 * np.abs(np.log2(SIZES) - 3)[:, None] - 0.006 * np.abs(np.arange(len(RATES)) - 1.5)
_BORDER = np.array([3.2, 2.7, 2.2, 1.3, 0.7])

WORLDS = {
    "one best": World(_levels(1, 0.02)),
    "three tie": World(_levels(3, 0.02)),
    "all 20 tie": World(_levels(20, 0.0)),
    "a hump": World(_HUMP),
    "a hump, images alike": World(_HUMP, all_cells=0.9, one_cell=0.05),
    "a hump, images unlike": World(_HUMP, all_cells=0.3, one_cell=0.1),
    "a hump, seeds alike": World(_HUMP, by_seed=0.8),
    "a border": World(_levels(20, 0.0), border=_BORDER),
}


def estimates(grid: Grid, world: World) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What is estimated of a study: its name, its samples (samples, estimates), and the truths (estimates)."""
    levels, shares = world.levels, world.shares
    if world.border is not None:
        open_ = (shares > 0.02) & (shares < 0.98)
        yield "share of seeds", grid.converged[:, open_], shares[open_]
        widths, true = grid.converged.sum(axis=2) / 100, shares.sum(axis=1) / 100  # in rates, not in percent
        yield "rates that converge", widths, true
        yield "difference of such numbers", widths[:, :-1] - widths[:, 1:], true[:-1] - true[1:]
        return
    means, doublings, tops, best = (
        grid.accuracy.reshape(len(grid.accuracy), -1),
        np.log2(SIZES),
        levels.max(1),
        grid.best(),
    )
    yield "mean of a cell", means, levels.ravel()
    yield "difference of two cells", means - np.roll(means, 7, axis=1), levels.ravel() - np.roll(levels.ravel(), 7)
    at_rates = slope(doublings, np.moveaxis(grid.accuracy, 1, 2))
    yield "slope at one rate", at_rates, slope(doublings, levels.T)
    yield "best of the grid", grid.peak()[:, None], levels.max(keepdims=True).ravel()
    yield "best at one m", best, tops
    yield "slope of the bests", grid.slope()[:, None], slope(doublings, tops[None])
    yield "mean of the bests", best.mean(axis=1, keepdims=True), tops.mean(keepdims=True)
    small, large = grid.split(grid.sizes <= 8)
    yield (
        "best of small m less best of large",
        small.peak_difference(large)[:, None],
        tops[None, :2].max(1) - tops[2:].max(),
    )


def coverage(world: World, seeds: int, studies: int) -> dict[str, np.ndarray]:
    """For each estimate shares of intervals that lie below, cover and lie above, and their mean width; NaN: none."""
    counts = defaultdict(list)
    for number in range(studies):
        draws = np.random.default_rng([number, seeds])
        grid = build_grid(completed_runs(world.study(seeds, draws)), draws)
        for name, samples, truths in estimates(grid, world):
            low, high = np.transpose([percentile_interval(one) for one in samples[1:].T])
            below, above = high < truths - 1e-9, low > truths + 1e-9
            counts[name].append(np.mean([below, ~below & ~above, above, high - low], axis=1))
    return {name: np.mean(rows, axis=0) for name, rows in counts.items()}


def table(studies: int, seeds: tuple[int, ...] = SEEDS) -> Iterator[str]:
    """Lines of Markdown: percent covered, and in brackets the mean width, in points or rates."""
    yield "| truth | interval | " + " | ".join(f"{count} seeds" if count > 1 else "1 seed" for count in seeds) + " |"
    yield "|---|---|" + "---:|" * len(seeds)
    for truth, world in WORLDS.items():
        found = [coverage(world, count, studies) for count in seeds]
        for name in found[-1]:
            yield f"| {truth} | {name} | " + " | ".join(_told(own[name]) for own in found) + " |"


def _told(row: np.ndarray) -> str:
    _, covered, _, width = row
    return "none" if np.isnan(width) else f"{100 * covered:.1f} ({100 * width:.2f})"


if __name__ == "__main__":
    for line in table(int(sys.argv[1]) if len(sys.argv) > 1 else 500):
        print(line, flush=True)
