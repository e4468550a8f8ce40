"""Data that a function of the user's own returns."""

import os
from pathlib import Path
from typing import Any

import pytest
from helpers import refusal

from smallbatch import data
from smallbatch.data import prepared

GOOD = """
import numpy as np

def load():
    images = np.arange(12, dtype="f4").reshape(6, 2)
    return images[:4], np.array([0, 1, 0, 1]), images[4:], np.array([1, 0])
"""


def settings_of(path: Path, text: str = GOOD, **more: Any) -> dict[str, Any]:
    path.write_text(text, encoding="utf-8")
    return {"source": "function", "path": str(path), "function": "load"} | more


def refused(path: Path, text: str, *parts: str, **more: Any) -> None:
    with refusal(path, *parts):
        data.check_source("config.yaml", "mine", settings_of(path, text, **more))


def test_what_a_function_returns_is_prepared(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "mine.py")
    data.check_settings("config.yaml", "mine", settings)
    assert data.check_source("config.yaml", "mine", settings) == ((2, 1, 1), 2, 4, 2, 4, None, None)
    data.prepare("mine", settings, tmp_path / "made", tmp_path)
    found = prepared.read(tmp_path / "made")
    assert found.train.images[:, :, 0, 0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert found.test.images[:, :, 0, 0].tolist() == [[8, 9], [10, 11]]
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([0, 1, 0, 1], [1, 0])


def test_it_is_called_again_where_the_content_of_its_file_changes(tmp_path: Path) -> None:
    path, folder = tmp_path / "mine.py", tmp_path / "made"
    settings = settings_of(path)
    meta = data.prepare("mine", settings, folder, tmp_path)
    os.utime(path, ns=(10**18, 10**18))
    assert data.reason_to_prepare("mine", settings, folder) is None, "touched, and the same"
    path.write_text(GOOD + "# a remark\n")
    assert "changed" in data.reason_to_prepare("mine", settings, folder)
    assert data.prepare("mine", settings, folder, tmp_path).fingerprint == meta.fingerprint, (
        "runs stay those of the data"
    )
    assert data.reason_to_prepare("mine", settings, folder) is None
    path.write_text(GOOD.replace("arange(12", "arange(1, 13"))
    assert data.prepare("mine", settings, folder, tmp_path).fingerprint != meta.fingerprint
    assert "function: 'load', which is now 'other'" in data.reason_to_prepare(
        "mine", settings | {"function": "other"}, folder
    )
    path.unlink()
    assert data.reason_to_prepare("mine", settings, folder) is None


def test_tensors_are_arrays(tmp_path: Path) -> None:
    text = """
import torch

def load():
    images = torch.zeros(4, 3, 5, 4, dtype=torch.uint8)
    return images, torch.arange(4) % 2, images, torch.arange(4) % 2
"""
    assert data.size_of_source(settings_of(tmp_path / "mine.py", text, channels="last")).shape == (4, 3, 5)


BAD = {
    "def load():\n    raise ValueError('no\\nfile')": ": load: it fails (ValueError: no file)",
    "def load():\n    raise SystemExit(0)": ": load: it fails (SystemExit: 0)",
    "import nothing_so_called\ndef load(): pass": ": load: it fails (ModuleNotFoundError: No module named 'nothing_so",
    "def load(): pass": ": load: it returns a NoneType; allowed: four arrays: training images, training labels, test",
    "def load(): return {}": ": load: it returns a dict; allowed: four arrays",
    "def load(): return 1, 2, 3": ": load: it returns a tuple of 3; allowed: four arrays",
    "def load(): return [[1], [2], [3], [4]]": ": load: it returns a list among its four; allowed: four arrays",
    GOOD.replace('"f4"', '"i8"'): ": load: train_images: int64 [4, 2]; allowed: uint8, or floats",
    GOOD.replace("array([1, 0])", "array([1, 2])"): ": load: test_labels: has 2; allowed: labels from 0 to 1",
    GOOD.replace(
        "images[4:]", "images[4:, :1]"
    ): ": load: test_images: float32 [2, 1], and train_images: float32 [4, 2]",
    GOOD.replace("reshape(6, 2)", "reshape(6, 2) / 0"): ": load: train_images: has nan in its row 0",
    "def load(:": ": path: ",
    "def other(): pass": ": function: 'load' is not allowed; allowed: a function of ",
    "def load(path): pass": ": function: 'load' is not allowed; allowed: a function without arguments",
    "import beside\ndef load(): pass": "imports installed packages alone; nobody would notice changes of beside",
}


TABLES = """
import numpy as np
import pandas as pd
import torch

def load():
    train, test = (pd.DataFrame(np.arange(8.0).reshape(4, 2), columns=list(names)) for names in ("ab", TEST))
    return IMAGES, np.array([0, 1, 0, 1]), test, np.array([1, 0, 1, 0])
"""


@pytest.mark.parametrize(
    ("test", "images", "message"),
    [
        ("ba", "train", "test_images: column 0 is b, and a in train_images; allowed: the same columns in one order"),
        ("ab", "np.ma.masked_greater(train.values, 5)", "train_images: 2 values are masked; allowed: a number"),
        ("ab", "torch.zeros(4, 2).bfloat16()", "train_images: numpy cannot read it (Got unsupported ScalarType"),
    ],
)
def test_what_numpy_would_leave_out_is_refused(test: str, images: str, message: str, tmp_path: Path) -> None:
    made = TABLES.replace("TEST", repr(test))
    refused(tmp_path / "mine.py", made.replace("IMAGES", images), message)
    good = settings_of(tmp_path / "mine.py", TABLES.replace("TEST", "'ab'").replace("IMAGES", "train"))
    assert data.check_source("config.yaml", "mine", good) == ((2, 1, 1), 2, 4, 4, 4, None, None)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("text", BAD, ids=[message[:40] for message in BAD.values()])
def test_functions_that_fail_or_return_something_else(text: str, tmp_path: Path) -> None:
    (tmp_path / "beside.py").touch()
    refused(tmp_path / "mine.py", text, BAD[text])
