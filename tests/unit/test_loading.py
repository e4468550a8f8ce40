"""`runs.csv` loads in one line, as docs/running.md shows it, in pandas, R and DuckDB."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from helpers import GRID, PROJECT, an_outcome, write_study

from smallbatch.analysis.table import collect, runs_table, write_table
from smallbatch.data.prepared import Meta
from smallbatch.runs.store import RunStore
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import load_study

SMALL = GRID | {"epochs": 3, "train_images": 100, "batch_sizes": [2, 4], "base_lrs": ["2^-8"]}
STUDY = {
    "title": "Mine",
    "seeds": [1, 2],
    "experiments": {"plain": SMALL},
    "figures": {"fig01": {"kind": "accuracy", "title": "One", "experiments": ["plain"]}},
}
PAGE = (PROJECT / "docs" / "running.md").read_text(encoding="utf-8")


def shown(line: str) -> str:
    """The one line of the page that matches."""
    [found] = re.findall(line, PAGE, re.MULTILINE)
    return found


@pytest.fixture(autouse=True)
def table(tmp_path, monkeypatch) -> pd.DataFrame:
    """A table of three kinds of runs, written where the page looks for it: finished, diverged, missing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config" / "studies").mkdir(parents=True)
    write_study(tmp_path, "mine", STUDY)
    config = read_yaml(PROJECT / "config" / "config.yaml")
    study = load_study(config | {"study": "mine"})
    meta = Meta("digits", ("0", "1"), (1, 8, 8), (0.5,), (0.5,), 1000, 100, "f")
    store, metas = RunStore(Path("results")), {"digits": meta}
    for run, diverged in zip(study.runs(), (None, 7, None), strict=False):
        store.write(run, "f", an_outcome(run, diverged_at=diverged), {"device": "cpu", "torch": "2.15.0"}, None)
    table = runs_table(study.planned(), collect(study.planned(), store, metas), metas, 0.5)
    Path("results/laptop").mkdir()
    write_table(table, Path("results/laptop/runs.csv"))
    return table


def test_pandas(table):
    runs: dict[str, pd.DataFrame] = {}
    exec("import pandas as pd\n" + shown(r"^runs = pd\.read_csv.*$"), runs)
    loaded = runs["runs"]
    assert list(loaded.columns) == list(table.columns) and list(loaded["run"]) == list(table["run"])
    assert list(loaded["status"]) == ["finished", "diverged", "finished", "missing"]
    for column in ("accuracy", "base_lr", "batch_size", "seed", "diverged_at"):
        assert pd.api.types.is_numeric_dtype(loaded[column]), column
    assert loaded["converged"].dtype == bool
    assert loaded["accuracy"].tolist()[:3] == table["accuracy"].tolist()[:3]


def test_duckdb(table):
    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql(shown(r"^(SELECT .*;) +-- DuckDB$").rstrip(";"))
    types = dict(zip(rows.columns, map(str, rows.types), strict=True))
    assert rows.columns == list(table.columns) and len(rows.fetchall()) == len(table)
    assert (types["accuracy"], types["seed"], types["converged"]) == ("DOUBLE", "BIGINT", "BOOLEAN")


def test_r(table):
    if not shutil.which("Rscript"):
        pytest.skip("no R")
    code = shown(r"^(runs <- .*\)) +# R$") + "; cat(nrow(runs), ncol(runs), is.numeric(runs$accuracy))"
    done = subprocess.run(["Rscript", "-e", code], text=True, capture_output=True, check=True)
    assert done.stdout.split() == [str(len(table)), str(len(table.columns)), "TRUE"]
