"""Every claim gets every verdict from tables made for it, and no table makes judging fail."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from smallbatch.analysis.claims import CLAIMS, COLUMNS, judge
from smallbatch.analysis.grid import SAMPLES, read_grid, with_results
from smallbatch.errors import UserError
from smallbatch.study_file import check_config

CONFIG = Path(__file__).parents[1] / "config"
THRESHOLDS = yaml.safe_load((CONFIG / "config.yaml").read_text())["claims"]
NO_VARIANCE = pd.DataFrame(columns=["run", "epoch", "batch_size", "trace", "draws"])
RATE = 2**-8
DEAD = 0.1
"""The accuracy of a run that did not train: chance."""


def table(cells: dict, experiment: str = "made", **settings) -> pd.DataFrame:
    """Runs from {(m, b, base_lr): accuracies of the seeds}, NaN for a missing one. Above 0.5 a run has converged."""
    rows = []
    for (m, b, base_lr), accuracies in cells.items():
        for seed, accuracy in enumerate(accuracies):
            rows.append({
                "experiment": experiment, "classes": 10, "test_images": 10_000, "norm": "batch", "batch_size": m,
                "bn_batch_size": b, "base_lr": base_lr, "seed": seed, "accuracy": accuracy,
                "selection_accuracy": accuracy, "converged": accuracy > 0.5,
                "status": "missing" if np.isnan(accuracy) else "finished",
            } | settings)  # fmt: skip
    return pd.DataFrame(rows)


def seeds(accuracy: float, spread: float = 0.0) -> list[float]:
    """Five seeds around an accuracy, as few as can say that more than half of all converge; each cell in its order."""
    return [accuracy + step * spread for step in np.roll([-1, -0.5, 0, 0.5, 1], round(170 * accuracy))]


def curve(best: dict, spread: float = 0.0, **settings) -> pd.DataFrame:
    """Runs from {m: accuracy, or the accuracies of its seeds} at one rate."""
    cells = {m: accuracy if isinstance(accuracy, list) else seeds(accuracy, spread) for m, accuracy in best.items()}
    return table({(m, m, RATE): accuracies for m, accuracies in cells.items()}, **settings)


def lines(accuracies: dict) -> pd.DataFrame:
    """Runs from {m: [accuracy at each rate of 2^-8, 2^-7, ...]}, five seeds each, or a list of seeds for one."""
    return table({
        (m, m, RATE * 2**step): cell if isinstance(cell, list) else seeds(cell)
        for m, line in accuracies.items() for step, cell in enumerate(line)
    })  # fmt: skip


def bn_batches(accuracies: dict, spread: float = 0.0) -> pd.DataFrame:
    """Runs from {(m, b): accuracy} at one rate."""
    return table({(m, b, RATE): seeds(accuracy, spread) for (m, b), accuracy in accuracies.items()})


def study(**figures: pd.DataFrame) -> dict:
    """What `judge` takes of a study whose figures show an experiment each."""
    specs = {name: {"kind": "accuracy", "experiments": [f"of-{name}"]} for name in figures}
    if "fig04" in specs:
        specs["fig04"]["base_lr"] = RATE
    runs = pd.concat([runs.assign(experiment=f"of-{name}") for name, runs in figures.items()])
    return {"figures": specs, "runs": runs}


def measured(*traces: dict[int, float]) -> dict:
    """What `judge` takes of a study that measured variances, a run each."""
    rows = [(f"run{i}", 0, m, trace, 64) for i, line in enumerate(traces) for m, trace in line.items()]
    figures = {"variance": {"kind": "variance", "experiments": ["made"]}}
    return {"figures": figures, "variance": pd.DataFrame(rows, columns=NO_VARIANCE.columns)}


def judged(figures: dict, runs: pd.DataFrame | None = None, variance: pd.DataFrame = NO_VARIANCE) -> pd.DataFrame:
    runs = table({}) if runs is None else runs
    return judge(figures, runs, variance, THRESHOLDS, np.random.default_rng(0)).set_index("claim")


def best_at(inside: int, outside: int, *figures: str, **settings) -> dict[str, dict]:
    """A case of each verdict for a claim that the best is at `inside` rather than at `outside`."""

    def each(at_inside: float, spread: float = 0.0) -> dict:
        return study(**{name: curve({inside: at_inside, outside: 0.8}, spread, **settings) for name in figures})

    return {"supported": each(0.9), "refuted": each(0.7), "undecided": each(0.81, spread=0.1)}


def pair(first: dict, second: dict, *names: str, spread: float = 0.0) -> dict:
    return study(**dict(zip(names, (curve(first, spread), curve(second, spread)), strict=True)))


SOME = [0.9, 0.9, DEAD, DEAD, DEAD]
FLAT = {8: 0.8, 32: 0.8, 64: 0.8, 256: 0.8}
WARM = {8: 0.8, 32: 0.8, 64: 0.85, 256: 0.85}  # helps large m, and lifts them above small
HELPED = {8: 0.85, 32: 0.85, 64: 0.8, 256: 0.8}  # small m are above

CASES: dict[str, dict[str, dict]] = {
    "C1": best_at(8, 16, "fig01"),
    "C2": best_at(2, 8, "fig02", "fig03"),
    "C3": {
        "supported": study(fig01=curve({2: 0.9, 64: DEAD})),
        "refuted": study(fig01=curve({2: 0.9, 64: 0.8})),
        "undecided": study(fig01=curve({2: 0.9, 64: SOME})),
    },
    "C4": {
        "supported": study(fig01=curve({2: 0.9, 8: 0.8, 64: DEAD})),
        "refuted": study(fig01=curve({2: 0.8, 8: 0.9, 64: 0.95})),
        "undecided": study(fig01=curve({2: 0.9, 8: 0.8, 64: SOME})),
    },
    "C5": {
        "supported": study(fig02=lines({2: [0.9, 0.9, 0.9], 64: [0.9, 0.9, DEAD]})),
        "refuted": study(fig02=lines({2: [0.9, DEAD, DEAD], 64: [0.9, 0.9, DEAD]})),
        "undecided": study(fig02=lines({2: [0.9, SOME, DEAD], 64: [0.9, DEAD, DEAD]})),
    },
    "C6": {
        "supported": study(sec32=curve({4: 0.765, 8: 0.7, 16: DEAD})),
        "refuted": study(sec32=curve({4: 0.765, 8: 0.7, 16: 0.7})),
        "undecided": study(sec32=curve({4: 0.765, 8: 0.7, 16: SOME})),
    },
    "C7": {
        "supported": study(fig04=curve({4: 0.9, 64: 0.905, 128: 0.8})),
        "refuted": study(fig04=curve({4: 0.9, 64: 0.8, 128: 0.7})),
        "undecided": study(fig04=curve({4: 0.9, 64: 0.905, 128: 0.8}, spread=0.05)),
    },
    "C8": {
        "supported": pair({2: 0.8, 8: 0.8, 32: 0.8}, {2: 0.7, 8: 0.85, 32: 0.85}, "fig01", "fig05"),
        "refuted": pair({2: 0.8, 8: 0.8, 32: 0.8}, {2: 0.7, 8: 0.75, 32: 0.85}, "fig01", "fig06"),
        "undecided": pair({2: 0.8}, {2: 0.81}, "fig01", "fig05", spread=0.1),
    },
    "C9": {
        "supported": study(fig05=curve({2: 0.8, 8: 0.9, 128: 0.85})),
        "refuted": study(fig05=curve({2: 0.9, 8: 0.85, 128: 0.8})),
        "undecided": study(fig05=curve({2: 0.8, 8: 0.9, 128: 0.85}, spread=0.1)),
    },
    "C10": best_at(32, 64, "fig06"),
    "C11": {
        "supported": pair({8: 0.85}, {32: 0.855}, "fig05", "fig06"),
        "refuted": pair({8: 0.85}, {32: 0.87}, "fig05", "fig06"),
        "undecided": pair({8: 0.85}, {32: 0.855}, "fig05", "fig06", spread=0.02),
    },
    "C12": {
        "supported": study(fig08=curve({2: 0.85, 8: 0.9, 64: 0.8, 512: 0.7})),
        "refuted": study(fig08=curve({2: 0.95, 8: 0.9, 64: 0.8, 512: 0.7})),
        "undecided": study(fig08=curve({2: 0.85, 8: 0.9, 64: 0.88, 512: 0.9}, spread=0.1)),
    },
    "C13": {
        "supported": study(fig08=curve({2: 0.9, 16: 0.9, 32: DEAD}), fig09=curve({2: 0.9, 16: DEAD})),
        "refuted": study(fig08=curve({2: 0.9, 16: 0.9, 32: DEAD}), fig09=curve({2: 0.9, 16: 0.9})),
        "undecided": study(fig08=curve({2: 0.9, 16: 0.9, 32: SOME})),
    },
    "C14": {
        "supported": pair(FLAT, WARM, "fig09", "fig11"),
        "refuted": pair(FLAT, HELPED, "fig08", "fig10"),
        "undecided": pair(FLAT, WARM, "fig08", "fig10", spread=0.1),
    },
    "C15": {
        "supported": study(fig10=curve({2: 0.85, 8: 0.9, 128: 0.89, 512: 0.7})),
        "refuted": study(fig10=curve({2: 0.85, 8: 0.9, 128: 0.8, 512: 0.7})),
        "undecided": study(fig10=curve({2: 0.7, 8: 0.9, 128: [0.83, 0.88, 0.93], 512: 0.7})),
    },
    "C16": {
        "supported": pair({16: 0.9, 64: 0.88}, {16: 0.7, 64: 0.6}, "fig10", "fig11"),
        "refuted": pair({16: 0.9, 64: 0.8}, {16: 0.7, 64: 0.68}, "fig10", "fig11"),
        "undecided": pair({16: 0.9, 64: 0.85}, {16: 0.7, 64: 0.64}, "fig10", "fig11", spread=0.05),
    },
    "C17": {
        "supported": pair(HELPED, HELPED, "fig08", "fig10"),
        "refuted": pair(FLAT, WARM, "fig09", "fig11"),
        "undecided": study(fig10=curve({8: 0.81, 64: 0.8}, spread=0.1)),
    },
    "C18": best_at(64, 128, "fig12"),
    "C19": {
        "supported": study(fig12=lines({8: [0.7, 0.8], 64: [0.69, 0.6]})),
        "refuted": study(fig12=lines({8: [0.7, 0.8], 64: [0.5, 0.75]})),
        "undecided": study(fig12=lines({8: [0.7, 0.8, SOME], 64: [0.69, 0.6, 0.7]})),
    },
    "C20": {
        "supported": study(fig13=bn_batches({(8, 2): 0.8, (64, 2): 0.7, (8, 4): 0.8, (64, 4): 0.79})),
        "refuted": study(fig14=bn_batches({(8, 2): 0.8, (64, 2): 0.7, (8, 4): 0.8, (64, 4): 0.81})),
        "undecided": study(fig13a=bn_batches({(8, 2): 0.8, (64, 2): 0.79}, spread=0.1)),
    },
    "C21": {
        "supported": study(fig13b=bn_batches({(8, 4): 0.8, (8, 8): 0.79, (64, 8): 0.8, (64, 64): 0.7})),
        "refuted": study(fig13b=bn_batches({(8, 4): 0.79, (8, 8): 0.8, (64, 8): 0.8, (64, 64): 0.7})),
        "undecided": study(fig13a=bn_batches({(64, 8): 0.8, (64, 64): 0.79}, spread=0.1)),
    },
    "C22": {
        "supported": study(fig14=bn_batches({(64, 64): 0.8, (64, 8): 0.7, (256, 32): 0.8, (256, 128): 0.7})),
        "refuted": study(fig14=bn_batches({(64, 64): 0.8, (64, 8): 0.7, (256, 32): 0.7, (256, 128): 0.8})),
        "undecided": study(fig14=bn_batches({(64, 64): 0.8, (64, 8): 0.79}, spread=0.1)),
    },
    "C23": best_at(2, 64, "fig15", norm="none"),
    "C24": {
        "supported": study(fig16=lines({2: [0.9, 0.9, 0.9], 8: [0.9, 0.9, DEAD], 64: [0.9, DEAD, DEAD]})),
        "refuted": study(fig16=lines({2: [0.9, DEAD, DEAD], 8: [0.9, 0.9, 0.9], 64: [0.9, DEAD, DEAD]})),
        "undecided": study(fig16=lines({2: [0.9, 0.9, 0.9], 8: [0.9, 0.9, SOME]})),
    },
    "C25": {
        "supported": pair({8: 0.85, 64: 0.7}, {8: 0.86, 64: 0.75}, "fig17", "fig08"),
        "refuted": pair({8: 0.85, 64: 0.7}, {8: 0.9, 64: 0.72}, "fig17", "fig18"),
        "undecided": pair({8: 0.85, 64: 0.7}, {8: 0.86, 64: 0.75}, "fig08", "fig18", spread=0.1),
    },
    "C26": {
        "supported": measured({2: 1.0, 4: 2.0, 8: 4.0}, {2: 3.0, 4: 6.1, 8: 12.0}),
        "refuted": measured({2: 1.0, 4: 4.0, 8: 16.0}),
        "undecided": measured({2: 1.0, 4: 8.0, 8: 4.0, 16: 32.0}),
    },
}  # fmt: skip


@pytest.mark.parametrize("claim", CASES)
@pytest.mark.parametrize("verdict", ["supported", "refuted", "undecided"])
def test_each_claim_gets_each_verdict(claim: str, verdict: str):
    row = judged(**CASES[claim][verdict]).loc[claim]
    assert row["verdict"] == verdict, row["evidence"]
    assert row["low"] <= row["high"]
    assert row["effect"] and row["unit"] and row["figures"] and row["evidence"]


@pytest.mark.parametrize("claim", CASES)
def test_each_claim_is_not_run_without_data(claim: str):
    case = CASES[claim]["supported"]
    nothing = {key: value.iloc[:0] if isinstance(value, pd.DataFrame) else value for key, value in case.items()}
    missing = {**case, "runs": case["runs"].assign(accuracy=np.nan, status="missing")} if "runs" in case else nothing
    for told in (judged({}), judged(**nothing), judged(**missing)):
        row = told.loc[claim]
        assert row["verdict"] == "not run"
        assert np.isnan(row["low"]) and np.isnan(row["high"]) and row["effect"] == row["unit"] == row["figures"] == ""


def test_there_is_a_case_and_a_row_for_every_claim_in_order():
    assert [claim.name for claim in CLAIMS] == [f"C{number}" for number in range(1, 27)] == list(CASES)
    told = judge({}, pd.DataFrame(), pd.DataFrame(), THRESHOLDS, np.random.default_rng(0))
    assert list(told["claim"]) == list(CASES) and list(told.columns) == list(COLUMNS)
    assert not told["predicate"].str.contains("[{}]").any()
    assert "at any m ≤ 8 minus" in told["predicate"][4]


def test_what_is_told_of_a_claim():
    row = judged(**study(fig01=curve({2: 0.975, 8: 0.9, 16: 0.96}))).loc["C1"]
    assert row["effect"] == "+1.5 points" and row["unit"] == "points"
    assert 1 < row["low"] < 1.5 < row["high"] < 2  # seeds agree, but images are 10,000
    assert row["evidence"] == "fig01: best inside at m = 2 at 2⁻⁸ (97.5 %), outside at m = 16 at 2⁻⁸ (96.0 %)"
    assert (row["section"], row["figures"], row["absent"]) == ("3.2", "fig01", "")


def test_figures_that_are_absent_are_named_and_the_others_judged():
    told = judged(**study(fig02=curve({2: 0.9, 8: 0.8}), fig13=bn_batches({(8, 4): 0.8, (8, 2): 0.7})))
    assert tuple(told.loc["C2", ["verdict", "figures", "absent"]]) == ("supported", "fig02", "fig03")
    assert tuple(told.loc["C21", ["verdict", "figures", "absent"]]) == ("supported", "fig13", "fig13b")
    assert tuple(told.loc["C8", ["verdict", "evidence"]]) == (
        "not run", "the study has no results of fig01, fig05, fig06"
    )  # fmt: skip


def test_a_grid_without_the_batch_sizes_of_a_claim_is_not_run():
    row = judged(**study(fig01=curve({2: 0.9, 8: 0.8}))).loc["C1"]
    assert (row["verdict"], row["absent"]) == ("not run", "")
    assert row["evidence"] == "fig01: the study lacks batch sizes that this compares"


def test_one_figure_that_refutes_a_claim_decides_it():
    case = study(fig02=curve({2: 0.9, 8: 0.8}), fig03=curve({2: 0.8, 8: 0.9}))
    row = judged(**case).loc["C2"]
    assert row["verdict"] == "refuted" and row["evidence"].startswith("fig03: ")
    assert row["evidence"].endswith("; of 2 comparisons 1 supported, 1 refuted")


def test_an_experiment_in_which_nothing_converged_decides_nothing():
    told = judged(**study(fig01=curve({2: DEAD, 16: DEAD}), sec32=curve({2: DEAD, 16: DEAD})))
    for claim in ("C1", "C3", "C5"):
        assert told.loc[claim, "verdict"] == "undecided"
        assert told.loc[claim, "evidence"].startswith("fig01: no run has converged")
    assert told.loc["C6", "verdict"] == "refuted"


def test_rates_are_chosen_on_the_validation_split_and_the_test_accuracy_there_counts():
    cells = {(8, 8, RATE): [0.80], (8, 8, 2 * RATE): [0.90], (16, 16, RATE): [0.85]}
    runs = table(cells, test_images=10**9)
    assert judged(**study(fig01=runs)).loc["C1", "effect"] == "+5.0 points"
    honest = runs.assign(selection_accuracy=[0.9, 0.8, 0.8])
    assert judged(**study(fig01=honest)).loc["C1", "effect"] == "-5.0 points"


def one_seed(accuracies: dict[int, list[float]]) -> pd.DataFrame:
    """Runs from {m: [accuracy at each rate]}, a seed each."""
    return lines({m: [[accuracy] for accuracy in line] for m, line in accuracies.items()})


def test_with_one_seed_the_border_decides_nothing_and_the_inside_does():
    at_border = one_seed({2: [0.9, 0.9, 0.9, 0.9], 64: [0.7, DEAD, DEAD, DEAD]})
    assert judged(**study(fig01=at_border)).loc["C5", "verdict"] == "supported"  # 4 against 1, give or take 2
    at_border = one_seed({2: [0.9, 0.9, 0.9, DEAD], 64: [0.7, 0.7, DEAD, DEAD]})
    assert judged(**study(fig01=at_border)).loc["C5", "verdict"] == "undecided"


@pytest.mark.parametrize("accuracies", [{2: [0.9, 0.8], 64: [DEAD, 0.7]}, {2: [0.9, 0.8, 0.8], 64: [DEAD, DEAD, 0.7]}])
def test_with_one_seed_any_rate_that_trains_may_be_the_best(accuracies: dict):
    assert judged(**study(fig01=one_seed(accuracies))).loc["C3", "verdict"] == "undecided"


@pytest.mark.parametrize("accuracy", [0.81, 0.95, 0.6])
def test_one_seed_decides_no_difference_of_accuracies(accuracy: float):
    row = judged(**study(fig01=one_seed({8: [accuracy], 16: [0.8]}))).loc["C1"]
    assert row["verdict"] == "undecided" and row["effect"] == f"{100 * (accuracy - 0.8):+.1f} points"
    assert np.isnan(row["low"]) and np.isnan(row["high"])


def grid_of(runs: pd.DataFrame):
    return read_grid(with_results(runs), np.random.default_rng(0))


def test_a_grid_has_means_over_seeds_and_nan_where_nothing_is():
    cells = {(2, 2, 0.5): [0.8, 0.6], (2, 2, 0.25): [np.nan, np.nan], (8, 8, 0.25): [0.7, np.nan], (8, 8, 0.5): [0.1]}
    grid = grid_of(table(cells))
    assert list(grid.sizes) == [2, 8] and list(grid.base_lrs) == [0.25, 0.5]
    np.testing.assert_allclose(grid.accuracy[0], [[np.nan, 0.7], [0.7, 0.1]])
    np.testing.assert_allclose(grid.converged[0], [[np.nan, 1], [1, 0]])
    np.testing.assert_array_equal(grid.seeds, [[0, 2], [1, 1]])
    assert grid.accuracy.shape == (1 + SAMPLES, 2, 2)
    assert np.isnan(grid.accuracy[:, 0, 0]).all() and not np.isnan(grid.accuracy[:, :, 0]).all()
    np.testing.assert_allclose(grid.best()[0], [0.7, 0.7])
    assert grid.told() == "m = 2 at 2⁻¹ (70.0 %)"


def test_a_slope_is_of_the_samples_and_with_one_seed_of_the_residuals_from_the_line():
    several = grid_of(table({(2, 2, RATE): [0.8, 0.81], (8, 8, RATE): [0.76, 0.75], (32, 32, RATE): [0.7, 0.71]}))
    np.testing.assert_allclose(several.slope(), (several.best()[:, 2] - several.best()[:, 0]) / 4)
    # Over log2 m = 1, 3, 5: slope -0.02, residuals 0.01 / 3, -0.02 / 3, 0.01 / 3, one degree of freedom, t = 12.71.
    one = grid_of(table({(2, 2, RATE): [0.80], (8, 8, RATE): [0.75], (32, 32, RATE): [0.72]}))
    error = (6 * 0.0001 / 9 / 1 / 8) ** 0.5
    found = one.slope()
    assert found[0] == pytest.approx(-0.02)
    assert np.percentile(found[1:], [2.5, 97.5]) == pytest.approx(-0.02 + 12.71 * error * np.array([-1, 1]), rel=0.05)
    assert np.isnan(grid_of(table({(2, 2, RATE): [0.8], (8, 8, RATE): [0.7]})).slope()[1:]).all()  # two make any line


def test_groups_that_are_compared_do_not_tie_together():
    grid = grid_of(table({(m, m, RATE): seeds(0.8 + m / 10_000, 0.01) for m in (2, 8, 32, 64)}))
    inside, outside = grid.split(grid.sizes <= 8)
    assert abs(np.corrcoef(inside.ties[1], outside.ties[1])[0, 1]) < 0.15
    assert abs(np.corrcoef(grid.ties[0], grid.ties[1])[0, 1]) < 0.15


def test_samples_of_shares():
    cells = {(2, 2, 0.25): [0.9] * 5, (2, 2, 0.5): [0.9, DEAD], (8, 8, 0.25): [0.9], (8, 8, 0.5): [DEAD]}
    shares = grid_of(table(cells)).converged[1:]
    # Mid-P: of 5 of 5 seeds an end at 0.05^(1/5); of 1 of 2 ends where (1 - p)^2 and then 2 p (1 - p) / 2 make 2.5 %.
    assert np.percentile(shares[:, 0, 0], 2.5) == pytest.approx(0.05 ** (1 / 5), abs=0.05)
    assert np.percentile(shares[:, 0, 1], 2.5) == pytest.approx(1 - 0.975, abs=0.02)
    assert (shares[:, 0, 0] == 1).mean() == pytest.approx(0.5, abs=0.06)
    assert shares[:, 1, 0].mean() == pytest.approx(0.75, abs=0.03) == 1 - shares[:, 1, 1].mean()


def test_a_border_lies_beside_the_next_rate_that_has_a_result_and_beside_the_ends_of_the_grid():
    def flips(*accuracies: float) -> list[bool]:
        cells = {(2, 2, 2.0**k): [a] for k, a in enumerate(accuracies)}
        return list(grid_of(table(cells)).converged[1:, 0].std(axis=0) > 0)

    assert flips(DEAD, DEAD, np.nan, 0.9, 0.9, 0.9, DEAD) == [False, True, True, False, True, True]
    assert flips(0.9, 0.9, 0.9) == [True, False, True]  # beyond the grid training may fail
    assert flips(0.9) == flips(DEAD) == [True]


def test_the_same_generator_gives_the_same_judgement():
    case = CASES["C14"]["undecided"]
    pd.testing.assert_frame_equal(judged(**case), judged(**case))


def test_a_figure_of_several_experiments_is_judged_for_each():
    runs = pd.concat([curve({2: 0.9, 64: 0.8}, experiment="first"), curve({8: 0.8, 64: 0.9}, experiment="second")])
    row = judged({"fig15": {"kind": "best", "experiments": ["first", "second"]}}, runs).loc["C23"]
    assert row["verdict"] == "refuted" and row["evidence"].startswith("fig15, second: ")


def test_thresholds_are_a_closed_list():
    config = yaml.safe_load((CONFIG / "config.yaml").read_text())
    check_config(config)
    for key, value, words in (
        ("margn", 0.2, r"claims.margn: unknown key \(did you mean 'margin'\?\); allowed: margin, same"),
        ("same", -1, "claims.same: -1 is not allowed; allowed: a number from 0 to 100, points of accuracy"),
    ):
        with pytest.raises(UserError, match=f"config/config.yaml: {words}"):
            check_config(config | {"claims": THRESHOLDS | {key: value}})


def random_study(generator: np.random.Generator) -> dict:
    """All figures of the paper over random parts of small grids: missing cells, seeds, columns, whole experiments."""
    names = [*(f"fig{number:02}" for number in range(1, 19)), "fig13a", "fig13b", "sec32"]
    names = [name for name in names if generator.random() < 0.8]
    tables = []
    for name in names:
        sizes = generator.choice([2, 4, 8, 16, 32, 64, 128, 512], generator.integers(1, 6), replace=False)
        bs = [2, 8, 64] if name in ("fig13a", "fig13b", "fig14") else [None]
        rates = [RATE * 2.0**k for k in range(generator.integers(1, 4))]
        cells = {
            (m, b or m, rate): generator.choice([0.9, 0.85, 0.3, DEAD, np.nan], generator.integers(1, 4)).tolist()
            for m in sizes for b in bs for rate in rates if generator.random() < 0.7
        }  # fmt: skip
        runs = table(cells, experiment=f"of-{name}", norm=generator.choice(["none", "batch"]))
        if len(runs) and generator.random() < 0.2:
            runs[generator.choice(["test_images", "selection_accuracy", "converged", "norm", "base_lr"])] = np.nan
        tables.append(runs)
    specs = {name: {"kind": "accuracy", "experiments": [f"of-{name}"]} for name in names}
    for name in {"fig04"} & set(names):
        specs[name]["base_lr"] = RATE
    points = [(f"run{i}", 0, m, generator.choice([np.nan, 0, 1.0, 2.0]), 8) for i in range(3) for m in (2, 8, 32, 64)]
    variance = pd.DataFrame(points, columns=NO_VARIANCE.columns).sample(frac=generator.random(), random_state=generator)
    return {"figures": specs, "runs": pd.concat(tables or [table({})]), "variance": variance}


@pytest.mark.parametrize("seed", range(12))
def test_judging_never_fails_on_part_of_a_study(seed: int):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = judged(**random_study(np.random.default_rng(seed)))
    assert list(told.index) == list(CASES)
    assert set(told["verdict"]) <= {"supported", "refuted", "undecided", "not run"}
    decided = told[told["verdict"].isin(["supported", "refuted"])]
    assert decided[["low", "high"]].notna().all(axis=None)
