"""What is published says where it was trained."""

import pandas as pd
import pytest
from helpers import a_run, an_outcome

from smallbatch.core.errors import UserError
from smallbatch.publish.dvc_publish import RECORDED, check
from smallbatch.runs.store import RunStore


@pytest.mark.parametrize("commit", ["", "unknown", "unknown then abc", "abc then unknown", None])
def test_a_run_of_unknown_code_is_not_published(commit, tmp_path):
    store, run = RunStore(tmp_path), a_run()
    store.write(run, "f", an_outcome(run), {}, None)
    row = {key: "known then known" for key in RECORDED} | {"run": run.name("f")}
    assert check("mine", pd.DataFrame([row]), store).keys() == {run.name("f")}
    with pytest.raises(UserError, match=r"run.json: environment: commit is not recorded; allowed: runs that say where"):
        check("mine", pd.DataFrame([row | {"commit": commit}]), store)
