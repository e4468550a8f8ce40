"""The benchmark of growth does with made runs what the workflow does with real ones."""

import importlib.util

import pandas as pd
import pytest
from helpers import PROJECT

_spec = importlib.util.spec_from_file_location("growth", PROJECT / "benchmarks" / "growth.py")
growth = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(growth)


@pytest.fixture
def config():
    """A little of study `paper`: a figure of each kind that takes part, one experiment that takes others' rates."""
    scale = {"name": "little", "epochs": 0.05, "batch_sizes": [2, 8], "base_lrs": ["2^-8", "2^-7"]}
    figures = {"figures": ["fig01", "fig04", "fig13a", "fig16", "variance"]}
    return growth.read_yaml(growth.CONFIG) | {"study": "paper", "seeds": 2, "scale": scale | figures}


def test_every_stage_is_done_and_measured(config, tmp_path):
    count = growth.make(config, tmp_path)
    measured = {stage: (seconds, megabytes) for stage, seconds, megabytes in growth.measure(tmp_path)}
    assert list(measured) == ["status", "tables", "gathered", "claims", "figures"]
    assert all(seconds > 0 and 20 < megabytes < 10_000 for seconds, megabytes in measured.values())
    runs = pd.read_parquet(tmp_path / "runs.parquet")
    assert runs["run"].nunique() == count == len(list(tmp_path.glob("results/runs/*/run.json")))
    assert set(runs["status"]) <= {"finished", "diverged"} and runs["converged"].any()
    assert len(pd.read_csv(tmp_path / "claims.csv")) == 26
    assert {path.stem for path in tmp_path.glob("figures/*.pdf")} == set(growth.load_study(config).figures)


def test_a_stage_that_fails_is_named(config, tmp_path, capfd):
    growth.make(config, tmp_path)
    next(tmp_path.glob("results/runs/*/run.json")).unlink()
    with pytest.raises(RuntimeError, match="stage tables failed"):
        list(growth.measure(tmp_path))
    assert "run.json is missing" in capfd.readouterr().err


def test_more_runs_are_more_seeds():
    seeds = [{run.seed for run in growth.load_study(growth.with_about(wanted)).runs()} for wanted in (1, 3000, 11_000)]
    assert [len(one) for one in seeds] == [1, 2, 5]
