"""What a report says first of a study of one's own: sentences on made grids, with numbers by hand."""

import numpy as np
import pandas as pd
from helpers.claims import AS_FIGURE_1, DEAD, curve, lines

from smallbatch.analysis.findings import findings
from smallbatch.figures.cells import best_cells


def found(*experiments: pd.DataFrame) -> dict[str, list[str]]:
    runs = pd.concat(experiments, ignore_index=True)
    settings = {key: value for key, value in AS_FIGURE_1.items() if key not in runs}
    return findings(runs.assign(**settings), 1.0, 0)


def of_one(runs: pd.DataFrame) -> list[str]:
    [sentences] = found(runs).values()
    return sentences


def test_the_best_what_the_largest_costs_and_where_the_rate_carries():
    runs = lines({2: [0.80, 0.70], 8: [0.85, 0.84], 32: [0.70, 0.82], 128: [0.60, 0.75]}, model="alexnet")
    assert of_one(runs) == [
        "Best at m = 8 and η / m = 2⁻⁸: 85.0 % (84.4 to 85.6).",
        "All other batch sizes are worse.",
        "m = 128 costs 10.0 points (9.6 to 10.4).",
        "As measured, its rate comes within 1 points of each one's own best for m = 2, 8.",
    ]


def test_what_noise_hides_is_said():
    best, equal, cost, _ = of_one(curve({2: 0.80, 8: 0.801, 32: 0.60}, spread=0.02))
    assert best.startswith("Best at m = 8 and ") and equal == "Not told apart from it: m = 2."
    assert cost.startswith("m = 32 costs 20.")


def test_the_largest_that_is_the_best_costs_nothing():
    sentences = of_one(curve({2: 0.6, 8: 0.8}))
    assert sentences[0].startswith("Best at m = 8 and ") and not any("costs" in sentence for sentence in sentences)


def test_one_seed_tells_no_batch_sizes_apart():
    runs = curve({2: [0.6], 8: [0.8], 32: [0.7]})
    assert of_one(runs)[1] == "Not told apart from it: m = 2, 32."


def test_each_experiment_is_spoken_of_but_for_those_in_which_nothing_converged():
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
    assert said["reduced AlexNet, BN on conv + FC"][0].startswith("Best at m = 8 and η / m = 2⁻⁸: 90.0 %")


def test_of_several_bn_batches_for_a_batch_size_nothing_is_said():
    small, whole = (curve({8: 0.8, 32: 0.7}, norm="batch").assign(bn_batch_size=b) for b in (4, 8))
    assert found(pd.concat([small, whole], ignore_index=True)) == {}


def test_where_rates_are_chosen_on_other_images_the_largest_may_gain_in_the_test():
    runs = curve({2: 0.8, 8: 0.7}).assign(selection="validation")
    runs["selection_accuracy"] = runs["accuracy"].where(runs["batch_size"] == 2, 0.6)
    runs["accuracy"] = runs["accuracy"].where(runs["batch_size"] == 2, runs["accuracy"] + 0.2)
    best, told, largest, carried = of_one(runs)
    assert best.startswith("Best at m = 2 and") and told == "Not told apart from it: m = 8."
    assert largest.startswith("m = 8 gains 10.0 points (9.") and largest.endswith(") on the test images.")
    assert carried.endswith("for m = 2, 8.")


def test_a_rate_does_not_carry_to_where_nothing_trains_nor_is_it_said_of_rates_that_were_not_trained():
    sentences = of_one(curve({2: 0.8, 8: DEAD}))
    assert sentences[-1].endswith("best for m = 2.")
    each = pd.concat([curve({2: 0.8}), curve({8: 0.7}).assign(base_lr=2**-6)], ignore_index=True)
    assert not any("As measured" in sentence for sentence in of_one(each))


def test_nothing_is_said_of_nothing():
    assert found(curve({2: [float("nan")]})) == {}


def test_the_best_is_the_one_of_the_table_of_results_to_the_last_digit():
    runs = pd.concat(
        [curve({2: 0.80, 8: 0.801, 32: 0.60}, spread=0.02), curve({2: 0.7, 8: 0.65}, experiment="other", norm="batch")],
        ignore_index=True,
    )
    settings = {key: value for key, value in AS_FIGURE_1.items() if key not in runs}
    said = [sentences[0] for sentences in findings(runs.assign(**settings), 1.0, 7).values()]
    for (_, own), sentence in zip(runs.groupby("experiment", sort=False), said, strict=True):
        best = best_cells(own, ["experiment"], np.random.default_rng(7)).iloc[0]
        assert sentence.endswith(f"{best['mean']:.1f} % ({best['low']:.1f} to {best['high']:.1f}).")
