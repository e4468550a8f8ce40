"""What the measured variance of updates says: how it grows with m, and what an example's gradient varies by.

The seed is the unit: runs of one seed at several m begin with the same weights and see the same orders.
"""

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from smallbatch.analysis.statistics import SAMPLES, percentile_interval, slope
from smallbatch.study.rates import BaseLr, learning_rate

COLUMNS = ("experiment", "run", "norm", "seed", "trained_batch_size", "bn_batch_size")


def measured(runs: pd.DataFrame, variance: pd.DataFrame) -> pd.DataFrame:
    """The measurements of some runs.

    Args:
        runs: as `table.runs_table` gives them.
        variance: as `table.variance_table` gives it.

    Returns:
        A row a measurement that is finite and above 0: `COLUMNS` of its run; epoch, batch_size (m of the update) and
        trace; example_variance: m V, of `training.variance`; without batch statistics S^2 at every m.
    """
    settings = ["base_lr", "lr_scaling", "momentum", "momentum_scaled"]
    named = runs.rename(columns={"batch_size": "trained_batch_size"}).reindex(columns=[*COLUMNS, *settings])
    traces = variance.reindex(columns=["run", "epoch", "batch_size", "trace"])
    joined = named.astype({"run": "str"}).merge(traces.astype({"run": "str", "trace": float}), on="run")
    joined = joined[np.isfinite(joined["trace"]) & (joined["trace"] > 0)].reset_index(drop=True)
    rows = joined[["batch_size", "trace", *settings]].itertuples(index=False, name=None)
    per_example = [m * trace / _rate(m, *setting) ** 2 for m, trace, *setting in rows]
    measurements: pd.DataFrame = joined.drop(columns=settings)
    return measurements.assign(example_variance=np.array(per_example, dtype=float))


def _rate(m: int, base_lr: float, lr_scaling: str, momentum: float, momentum_scaled: object) -> float:
    """eta of an update of m examples."""
    eta = learning_rate(BaseLr(base_lr), int(m), lr_scaling)
    return eta * (1 - momentum) if momentum_scaled is True else eta


def slopes(rows: pd.DataFrame) -> np.ndarray:
    """The slope of log2 trace over log2 m of each seed, by least squares, mean over its runs; of none without two m.

    Args:
        rows: as `measured` gives them, of one experiment and epoch.
    """
    lines = [line for _, line in rows.groupby(["seed", "run"]) if line["batch_size"].nunique() > 1]
    points = [np.log2(line[["batch_size", "trace"]].to_numpy(float)).T for line in lines]
    of_lines = [float(slope(m, trace)) for m, trace in points]
    return pd.Series(of_lines, dtype=float).groupby([line["seed"].iloc[0] for line in lines]).mean().to_numpy()


def mean_samples(values: np.ndarray) -> np.ndarray:
    """(1 + SAMPLES): the mean of values, one a seed; then what the true mean may be, by Student's t.

    Not a bootstrap: of five seeds it draws too few that differ. The samples are quantiles, so that whoever takes their
    interval gets the same. With one value they are NaN: nothing tells how far off it is.
    """
    if not len(values):
        return np.full(1 + SAMPLES, np.nan)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    # Percentiles of samples are counted from the first to the last; 0.05 keeps those two finite.
    quantiles = stdtrit(max(1, len(values) - 1), (np.arange(SAMPLES) + 0.05) / (SAMPLES - 0.9))
    return np.concatenate([[values.mean()], values.mean() + error * quantiles])


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of values, one a seed; NaN with fewer than two."""
    return percentile_interval(mean_samples(values)[1:])


def at_own_batch(rows: pd.DataFrame) -> pd.DataFrame:
    """The variance of an example's gradient over training, for each m that is trained with: mean over its seeds.

    Taken at the m measured that is nearest to the one trained with, which matters with batch statistics alone. Means
    and intervals are of logarithms: it falls by orders of magnitude.

    Args:
        rows: as `measured` gives them, of one experiment.

    Returns:
        A row a batch_size (trained with) and epoch: mean, low, high; the last two NaN with one seed.
    """
    far = np.abs(np.log2(rows["batch_size"].astype(float)) - np.log2(rows["trained_batch_size"].astype(float)))
    nearest = rows.assign(far=far).sort_values(["far", "batch_size"]).drop_duplicates(["run", "epoch"])
    found = []
    for _, cell in nearest.groupby(["trained_batch_size", "epoch"]):
        batch_size, epoch = cell["trained_batch_size"].iloc[0], cell["epoch"].iloc[0]
        logs = np.log(cell.groupby("seed")["example_variance"].first().to_numpy(float))
        found.append((int(batch_size), epoch, *np.exp([logs.mean(), *mean_interval(logs)])))
    return pd.DataFrame(found, columns=["batch_size", "epoch", "mean", "low", "high"])
