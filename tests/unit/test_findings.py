"""What a report says first of a study of one's own: a sentence and a row per experiment, with numbers by hand."""

import numpy as np
import pandas as pd
from helpers.claims import AS_FIGURE_1, DEAD, curve, lines

from smallbatch.analysis.findings import Finding, findings
from smallbatch.figures.accuracy_lines import best_cells

REACH = "m where its rate is within 1 point"
NOTHING = "–"  # noqa: RUF001


def found(*experiments: pd.DataFrame) -> dict[str, Finding]:
    runs = pd.concat(experiments, ignore_index=True)
    settings = {key: value for key, value in AS_FIGURE_1.items() if key not in runs}
    return findings(runs.assign(**settings), 1.0, 0)


def of_one(runs: pd.DataFrame) -> Finding:
    [finding] = found(runs).values()
    return finding


def test_the_best_what_the_largest_costs_and_where_the_rate_carries():
    runs = lines({2: [0.80, 0.70], 8: [0.85, 0.84], 32: [0.805, 0.82], 128: [0.60, 0.75]}, model="alexnet")
    finding = of_one(runs)
    assert finding.lead == "Best at m = 8: 85.0 %; all other batch sizes are worse."
    assert finding.row == {
        "best m": "8",
        "m not told apart from it": NOTHING,
        "best rate": "η / m = 2⁻⁸",
        "accuracy (%)": "85.0 (84.4 to 85.6)",
        "cost of the largest m (points)": "m = 128: 10.0 (9.6 to 10.4)",
        REACH: "2, 8",
    }


def test_what_noise_hides_is_said():
    finding = of_one(curve({2: 0.80, 8: 0.801, 32: 0.60}, spread=0.02))
    assert finding.lead.startswith("Best at m = 8: ") and finding.lead.endswith("; not told apart from it: m = 2.")
    assert finding.row["best m"] == "8" and finding.row["m not told apart from it"] == "2"
    assert finding.row["cost of the largest m (points)"].startswith("m = 32: 20.")


def test_the_largest_that_is_the_best_costs_nothing():
    row = of_one(curve({2: 0.6, 8: 0.8})).row
    assert row["best m"] == "8" and row["cost of the largest m (points)"] == NOTHING


def test_one_seed_tells_no_batch_sizes_apart():
    row = of_one(curve({2: [0.6], 8: [0.8], 32: [0.7]})).row
    assert row["m not told apart from it"] == "2, 32" and row["accuracy (%)"] == "80.0"


def test_of_a_single_batch_size_nothing_is_compared():
    finding = of_one(curve({8: 0.8}))
    assert finding.lead == "Best at m = 8: 80.0 %, the only batch size."
    assert [value for value in finding.row.values() if value != NOTHING] == ["8", "η / m = 2⁻⁸", "80.0 (79.4 to 80.6)"]


def test_each_experiment_has_a_row_but_for_those_in_which_nothing_converged():
    plain, other, dead = (
        curve(accuracies, experiment=name, norm=norm)
        for name, norm, accuracies in [
            ("plain", "none", {2: 0.6, 8: 0.8}),
            ("bn", "batch", {2: 0.6, 8: 0.9}),
            ("dead", "group", {2: DEAD, 8: DEAD}),
        ]
    )
    said = found(plain, other, dead)
    assert list(said) == ["reduced AlexNet, no BN", "reduced AlexNet, BN on conv + FC"]
    assert said["reduced AlexNet, BN on conv + FC"].lead.startswith("Best at m = 8: 90.0 %")
    assert len({tuple(finding.row) for finding in said.values()}) == 1, "one table has the same columns for all"


def test_of_several_bn_batches_for_a_batch_size_nothing_is_said():
    small, whole = (curve({8: 0.8, 32: 0.7}, norm="batch").assign(bn_batch_size=b) for b in (4, 8))
    assert found(pd.concat([small, whole], ignore_index=True)) == {}


def test_where_rates_are_chosen_on_other_images_the_largest_may_gain_in_the_test():
    runs = curve({2: 0.8, 8: 0.7}).assign(selection="validation")
    runs["selection_accuracy"] = runs["accuracy"].where(runs["batch_size"] == 2, 0.6)
    runs["accuracy"] = runs["accuracy"].where(runs["batch_size"] == 2, runs["accuracy"] + 0.2)
    row = of_one(runs).row
    assert row["best m"] == "2" and row["m not told apart from it"] == "8"
    assert row["cost of the largest m (points)"].startswith("m = 8: -10.0 (-10.") and row[REACH] == "2, 8"


def test_a_rate_does_not_carry_to_where_nothing_trains_nor_is_it_said_of_rates_that_were_not_trained():
    assert of_one(curve({2: 0.8, 8: DEAD})).row[REACH] == "2"
    each = pd.concat([curve({2: 0.8}), curve({8: 0.7}).assign(base_lr=2**-6)], ignore_index=True)
    assert of_one(each).row[REACH] == NOTHING


def test_nothing_is_said_of_nothing():
    assert found(curve({2: [float("nan")]})) == {}


def test_the_best_is_the_one_of_the_table_of_results_to_the_last_digit():
    runs = pd.concat(
        [curve({2: 0.80, 8: 0.801, 32: 0.60}, spread=0.02), curve({2: 0.7, 8: 0.65}, experiment="other", norm="batch")],
        ignore_index=True,
    )
    settings = {key: value for key, value in AS_FIGURE_1.items() if key not in runs}
    said = [finding.row for finding in findings(runs.assign(**settings), 1.0, 7).values()]
    for (_, own), row in zip(runs.groupby("experiment", sort=False), said, strict=True):
        best = best_cells(own, ["experiment"], np.random.default_rng(7)).iloc[0]
        assert row["accuracy (%)"] == f"{best['mean']:.1f} ({best['low']:.1f} to {best['high']:.1f})"
