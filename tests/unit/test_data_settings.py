"""Data sources: what is checked of their settings before any job starts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smallbatch import data
from smallbatch.core.errors import UserError

OTHER = "0" * 32
FOLDER = {"source": "image-folder", "path": "photos", "size": 32}

GOOD = [
    ("digits", {"source": "digits"}),
    ("cifar10", {"source": "cifar10"}),
    ("cifar100", {"source": "cifar100", "archive": "a.tar.gz"}),
    ("cifar10", {"source": "cifar10", "archive": "a.tar.gz", "md5": data.ORIGINAL_MD5["cifar10"]}),
    ("mine", {"source": "cifar10", "label": "cifar10"}),
    ("cifar10", {"source": "cifar10", "archive": "a.tar.gz", "md5": OTHER, "label": "cifar10-jpeg"}),
    ("photos", FOLDER),
    ("photos", FOLDER | {"test_fraction": 0.1, "split_seed": 3, "mode": "L", "broken_images": "skip", "label": "p"}),
]

BAD = [
    ({"source": "cifar1"}, "source", "'cifar1'", "digits, cifar10, cifar100, imagenet, image-folder"),
    ({}, "source", "None", "digits"),
    ({"source": "digits", "size": 8}, "size", "8", "source, label"),
    ({"source": "cifar10", "path": "x"}, "path", "'x'", "archive, md5"),
    (FOLDER | {"md5": OTHER}, "md5", OTHER, "test_fraction"),
    ({"source": "image-folder", "path": "photos"}, "size", "None", "image-folder"),
    ({"source": "image-folder", "size": 32}, "path", "None", "image-folder"),
    ({"source": "cifar10", "md5": OTHER, "label": "mine"}, "md5", OTHER, "archive"),
    ({"source": "cifar10", "md5": OTHER, "archive": "a.tar.gz"}, "label", "None", "md5"),
    ({"source": "cifar10", "md5": OTHER, "archive": "a.tar.gz", "label": "cifar10"}, "label", "'cifar10'", "md5"),
    ({"source": "cifar10", "md5": OTHER, "archive": "a.tar.gz", "label": "CIFAR-10"}, "label", "'CIFAR-10'", "md5"),
    ({"source": "cifar10", "label": "cifar100"}, "label", "'cifar100'", "cifar100"),
    ({"source": "digits", "label": "cifar-10"}, "label", "'cifar-10'", "cifar10"),
    (FOLDER | {"label": "cifar100"}, "label", "'cifar100'", "cifar100"),
    (FOLDER | {"split_seed": 1}, "split_seed", "1", "test_fraction"),
]


@pytest.mark.parametrize(("key", "settings"), GOOD)
def test_settings_that_fit_are_taken(key: str, settings: dict[str, Any]) -> None:
    data.check_settings("config.yaml", key, settings)


@pytest.mark.parametrize(("settings", "key", "value", "allowed"), BAD)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], key: str, value: str, allowed: str) -> None:
    with pytest.raises(UserError) as caught:
        data.check_settings("config.yaml", "mine", settings)
    message = str(caught.value)
    assert message.startswith(f"config.yaml: datasets.mine.{key}: ")
    assert value in message
    assert allowed in message.split("allowed:")[1]
    assert "\n" not in message


def test_a_key_alone_does_not_give_the_name_of_the_original() -> None:
    with pytest.raises(UserError, match=r"datasets.cifar10.label: 'cifar10' is not allowed"):
        data.check_settings("config.yaml", "cifar10", FOLDER)


def test_prepare_refuses_before_it_touches_anything(tmp_path: Path) -> None:
    settings = {"source": "cifar10", "archive": "none.tar.gz", "md5": OTHER}
    with pytest.raises(UserError, match="'cifar10' is not allowed"):
        data.prepare("cifar10", settings, tmp_path / "out", tmp_path / "downloads")
    assert not list(tmp_path.iterdir())


def test_the_label_is_the_key_unless_given() -> None:
    assert data.label("photos", FOLDER) == "photos"
    assert data.label("photos", FOLDER | {"label": "birds"}) == "birds"


def test_known_numbers_of_training_images() -> None:
    known = data.known_train_images
    assert known({"source": "cifar10"}) == 50_000
    assert known({"source": "cifar100", "archive": "copy.tar.gz"}) == 50_000
    assert known({"source": "cifar10", "archive": "a.tar.gz", "md5": OTHER, "label": "mine"}) is None
    assert known(FOLDER) is None


def test_importing_the_sources_is_light() -> None:
    heavy = ["numpy", "torch", "PIL", "sklearn", "requests", "tqdm"]
    code = f"import sys, smallbatch.data; print([name for name in {heavy} if name in sys.modules])"
    root = Path(data.__file__).parents[2]
    answer = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("path", ["~nobody-of-this-name/pictures", "x" * 300, "pictures\0"])
def test_a_path_that_cannot_be_looked_at_is_refused_as_one_that_is_missing(path: str) -> None:
    settings = {"source": "image-folder", "path": path, "size": 8}
    with pytest.raises(
        UserError, match=r"datasets\.pets\.path: .* allowed: an existing file or folder that can be read"
    ):
        data.check_source("here", "pets", settings)
