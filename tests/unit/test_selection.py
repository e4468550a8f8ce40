"""The best rate of each batch size."""

import json

import pandas as pd
import pytest

from smallbatch.analysis.selection import best_rates
from smallbatch.core.errors import UserError
from smallbatch.core.files import write_sealed
from smallbatch.runs.chosen_rates import chosen_file, read_chosen, records_and_code, write_chosen


def table(*rows):
    return pd.DataFrame(rows, columns=["batch_size", "base_lr", "seed", "selection_accuracy", "accuracy"])


def test_the_highest_mean_over_seeds_decides_and_of_equals_the_smallest():
    runs = table((2, 0.1, 1, 0.9, 0), (2, 0.1, 2, 0.5, 0), (2, 0.2, 1, 0.8, 0), (2, 0.2, 2, 0.7, 0))
    assert best_rates([runs]) == {2: 0.2}
    assert best_rates([table((4, 0.2, 1, 0.5, 0), (4, 0.1, 1, 0.5, 0))]) == {4: 0.1}


def test_rates_are_not_chosen_by_test_accuracy_where_another_split_is_held_out():
    assert best_rates([table((2, 0.1, 1, 0.6, 0.7), (2, 0.2, 1, 0.5, 0.9))]) == {2: 0.1}


def test_the_last_experiment_with_that_batch_size_decides_and_missing_runs_count_for_nothing():
    first = table((2, 0.1, 1, 0.9, 0), (256, 0.1, 1, 0.9, 0))
    last = table((256, 0.2, 1, 0.3, 0), (512, 0.2, 1, float("nan"), 0))
    assert best_rates([first, last]) == {2: 0.1, 256: 0.2}


def test_chosen_rates_come_back_from_their_file(tmp_path):
    path = chosen_file(tmp_path, "mine", "chosen")
    assert path == tmp_path / "mine" / "chosen" / "chosen.json"
    write_chosen(path, {8: 2**-8, 2: 0.001}, ["of a base"], "code")
    assert records_and_code(path) == (["of a base"], "code")
    whose = {key: value for key, value in json.loads(path.read_text()).items() if key in ("study", "experiment")}
    assert whose == {"study": "mine", "experiment": "chosen"}
    assert read_chosen(path) == {2: 0.001, 8: 2**-8} and list(json.loads(path.read_text())["rates"]) == ["2", "8"]
    other = path.replace(path.with_name("other.json"))
    with pytest.raises(UserError, match=r"other.json: not the rates that were chosen for this experiment"):
        read_chosen(other)
    other.replace(path)
    path.write_text(path.read_text().replace("0.001", "0.002"))
    with pytest.raises(UserError, match=r"chosen.json: damaged or edited"):
        read_chosen(path)
    write_sealed(path, whose)
    with pytest.raises(UserError, match=r"chosen.json: not the rates that were chosen for this experiment"):
        read_chosen(path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"chosen.json: damaged or edited"):
        read_chosen(path)
