"""What the measured variance of updates says: values by hand, and whether its interval holds the truth."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import a_run

from smallbatch.analysis import update_variance
from smallbatch.analysis.claims.verdict_table import judge
from smallbatch.figures.variance import slope_words
from smallbatch.training import variance
from smallbatch.training.batches import EpochPlan
from smallbatch.training.distributed import ALONE

SIZES = (2, 4, 8, 16, 32, 64, 128)


def a_row(**changed) -> dict:
    plain = {"experiment": "one", "run": "a", "norm": "none", "seed": 1, "batch_size": 8, "bn_batch_size": 8}
    return plain | {"base_lr": 0.5, "lr_scaling": "linear", "momentum": 0.0, "momentum_scaled": False} | changed


def rows_of(lines: dict[tuple[int, str], list[float]], m=(2, 4, 8)) -> pd.DataFrame:
    """Measurements of {(seed, run): traces}."""
    rows = [
        {"seed": seed, "run": run, "epoch": 0, "batch_size": size, "trace": trace}
        for (seed, run), traces in lines.items() for size, trace in zip(m, traces, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 4 * 3.0 / 2**2),  # eta = 0.5 * 4; m V = 4 * 3 / eta^2
        ({"lr_scaling": "sqrt"}, 4 * 3.0 / 1**2),
        ({"momentum": 0.5}, 4 * 3.0 / 2**2),
        ({"momentum": 0.5, "momentum_scaled": True}, 4 * 3.0 / 1**2),
    ],
)
def test_the_variance_of_an_example_takes_the_rate_out_again(changed, expected):
    traces = pd.DataFrame(
        [("a", 3, 4, 3.0, 8), ("b", 3, 4, 1.0, 8)], columns=["run", "epoch", "batch_size", "trace", "n"]
    )
    [row] = update_variance.measured(pd.DataFrame([a_row(**changed)]), traces).to_dict("records")
    assert row["example_variance"] == expected
    assert (row["trained_batch_size"], row["batch_size"], row["epoch"], row["seed"]) == (8, 4, 3, 1)


def test_what_is_no_variance_is_left_out():
    traces = [("a", 0, m, trace, 8) for m, trace in zip(SIZES, [math.nan, math.inf, 0.0, 2.0], strict=False)]
    traces = pd.DataFrame(traces, columns=["run", "epoch", "batch_size", "trace", "draws"])
    assert update_variance.measured(pd.DataFrame([a_row()]), traces)["batch_size"].tolist() == [16]


def test_the_seed_is_the_unit_of_slopes():
    # log2 of 1, 2, 4 has slope 1; of 1, 4, 16 slope 2; of 1, 1, 8 slope 1.5
    rows = rows_of({(1, "a"): [1, 2, 4], (1, "b"): [1, 4, 16], (2, "c"): [1, 1, 8]})
    assert update_variance.slopes(rows) == pytest.approx([1.5, 1.5])
    assert update_variance.slopes(rows[rows["batch_size"] < 8]) == pytest.approx([1.5, 0])
    assert len(update_variance.slopes(rows[rows["batch_size"] == 2])) == 0
    assert slope_words(rows) == "slope 1.50 (1.50 to 1.50)"
    assert slope_words(rows[rows["seed"] == 2]) == "slope 1.50"
    assert slope_words(rows[rows["batch_size"] == 2]) == "no slope"
    # 2 ** -0.002 of a slope
    assert slope_words(rows_of({(1, "a"): [1, 1, 0.998]})) == "slope 0.00"


def test_the_interval_is_students():
    # mean 2, standard error 1 / sqrt(3), t of 2 degrees of freedom at 97.5 %: 4.3027
    low, high = update_variance.mean_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=0.01)
    assert np.isnan(update_variance.mean_interval(np.array([1.0]))).all()
    assert update_variance.mean_samples(np.array([1.0]))[0] == 1.0
    nothing = update_variance.mean_samples(np.zeros(0))
    assert np.isnan(nothing).all() and nothing.shape == update_variance.mean_samples(np.ones(2)).shape == (1001,)


def test_an_example_varies_as_at_the_size_nearest_to_the_one_trained_with():
    rows = [
        {"run": run, "seed": seed, "epoch": 0, "trained_batch_size": m, "batch_size": size, "example_variance": value}
        for run, seed, m, values in [("a", 1, 8, (9, 4, 9)), ("b", 2, 8, (9, 16, 9)), ("c", 1, 64, (9, 9, 5))]
        for size, value in zip((2, 8, 32), values, strict=True)
    ]
    found = update_variance.at_own_batch(pd.DataFrame(rows)).set_index("batch_size")
    assert found.loc[8, "mean"] == pytest.approx(8)  # sqrt(4 * 16)
    # log: mean log 8, standard error log(2), t of 1 degree of freedom: 12.706
    assert found.loc[8, "high"] == pytest.approx(8 * 2**12.706, rel=0.1)
    assert found.loc[64, "mean"] == pytest.approx(5) and np.isnan(found.loc[64, "low"])
    assert list(found.columns) == ["epoch", "mean", "low", "high"] and list(found["epoch"]) == [0, 0]


def heavy_tailed(examples: int = 1437, values: int = 8) -> torch.Tensor:
    """Gradients of examples, five of which carry 60 % of their variance."""
    draws = torch.Generator().manual_seed(0)
    gradients = torch.randn(examples, values, generator=draws, dtype=torch.float64)
    few = gradients[:5]
    few *= (1.5 * gradients[5:].square().sum() / few.square().sum()).sqrt()
    return gradients


class Known:
    """Updates whose examples' gradients are known: those that the labels name."""

    def __init__(self, gradients: torch.Tensor, lanes: int) -> None:
        self.of, parameter = gradients, torch.zeros(lanes, gradients.shape[1])
        model = SimpleNamespace(zero_grad=lambda: None)
        device = torch.device("cpu")
        self.network = SimpleNamespace(world=ALONE, lanes=lanes, device=device, parameters=[parameter], model=model)
        self.loader = self
        self.batch_size, self.steps, self.image_values = 1, len(gradients), 1

    def plan(self, seeds, epoch):
        draws = torch.Generator()
        orders = [torch.randperm(len(self.of), generator=draws.manual_seed(seed)) for seed in seeds]
        return EpochPlan(tuple(seeds), epoch, torch.stack(orders, 1)[:, None], None, None, None)

    def batches(self, plan, first, last):
        return plan.order[first:last], plan.order[first:last]

    def normalising(self, sub_batch):
        return torch.no_grad()

    def seeded_rng(self, plan, step):
        return torch.no_grad()

    def gradients(self, images, labels):
        return [self.of[labels].mean(0)]


def studies(seeds: int, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of runs and variances of `count` experiments, each of as many seeds."""
    runs = [a_run(seed=seed, batch_size=8, variance_batch_sizes=SIZES) for seed in range(seeds * count)]
    lanes = variance.measure(Known(heavy_tailed(), len(runs)), runs, 0)
    rows = [(f"{place}", *row) for place, measured in enumerate(lanes) for row in measured]
    told = [a_row(experiment=f"study{i // seeds}", run=f"{i}", seed=i, base_lr=2**-8) for i in range(len(runs))]
    return pd.DataFrame(told), pd.DataFrame(rows, columns=["run", "epoch", "batch_size", "trace", "draws"])


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 5])
def test_the_interval_of_the_slope_holds_the_truth_though_five_examples_carry_most_of_the_variance(seeds):
    few = heavy_tailed()
    assert few[:5].square().sum() == pytest.approx(0.6 * few.square().sum().item())
    joined = update_variance.measured(*studies(seeds, 400))
    slopes = [update_variance.slopes(rows) for _, rows in joined.groupby("experiment")]
    assert np.mean(slopes) == pytest.approx(1, abs=0.005)
    intervals = [update_variance.mean_interval(own) for own in slopes]
    assert 0.93 <= np.mean([low <= 1 <= high for low, high in intervals]) <= 0.97


def test_figure_and_claim_show_the_same_interval_of_the_same_number():
    runs, measured = studies(5, 1)
    runs = runs.assign(accuracy=0.9, selection_accuracy=0.9, converged=True, test_images=100, classes=10, data="made")
    figures = {"variance": {"kind": "variance", "experiments": ["study0"]}}
    thresholds = {"slope_tolerance": 0.1}
    claims = judge_c26(figures, runs, measured, thresholds)
    shown = slope_words(update_variance.measured(runs, measured))
    assert claims["verdict"] == "supported"
    assert shown == f"{claims['effect']} ({claims['low']:.2f} to {claims['high']:.2f})"


def judge_c26(figures, runs, measured, thresholds) -> pd.Series:
    import yaml
    from helpers import PROJECT

    config = yaml.safe_load((PROJECT / "config/config.yaml").read_text(encoding="utf-8"))
    epochs = pd.DataFrame(columns=["run", "epoch", "test_accuracy"])
    table = judge(figures, runs, epochs, measured, config["claims"] | thresholds, np.random.default_rng(0))
    return table.set_index("claim").loc["C26"]


def test_where_statistics_are_of_the_whole_batch_nothing_is_claimed():
    runs, measured = studies(2, 1)
    figures = {"variance": {"kind": "variance", "experiments": ["study0"]}}
    runs = runs.assign(accuracy=0.9, selection_accuracy=0.9, converged=True, test_images=100, norm="batch")
    assert judge_c26(figures, runs, measured, {})["verdict"] == "not run"
    parts = runs.assign(bn_batch_size=2)
    assert judge_c26(figures, parts, measured, {})["verdict"] != "not run"
