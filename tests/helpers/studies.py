"""A sound study and its configuration, to be changed by tests, which then load it."""

from pathlib import Path

import yaml

from helpers import PROJECT, write_study
from smallbatch.study_file import load_study

CONFIG = yaml.safe_load((PROJECT / "config" / "config.yaml").read_text())

GOOD = {
    "title": "A study",
    "seeds": [1, 2],
    "experiments": {
        "small": {
            "data": "digits",
            "model": "alexnet",
            "weight_decay": 5e-4,
            "epochs": 2,
            "norm": "batch",
            "batch_sizes": [4, 8],
            "base_lrs": ["2^-8", 0.001],
        }
    },
    "figures": {"fig01": {"kind": "accuracy", "title": "One", "experiments": ["small"]}},
}


def enter_project(folder, monkeypatch, study):
    """Make a folder that of a project with the study `mine`, and the current one."""
    (folder / "config" / "studies").mkdir(parents=True)
    (folder / "config" / "config.yaml").write_text((PROJECT / "config" / "config.yaml").read_text())
    write_study(folder, "mine", study)
    monkeypatch.chdir(folder)


def load(change=None, name="mine", **config):
    values = yaml.safe_load(yaml.safe_dump(GOOD, sort_keys=False))
    if isinstance(change, dict):
        small(values).update(change)
    elif change:
        change(values)
    write_study(Path(), name, values)
    return load_study(CONFIG | {"study": name} | config)


def small(values):
    return values["experiments"]["small"]


def base_and_dependent(values):
    values["experiments"]["later"] = small(values) | {
        "bn_batch_sizes": [4], "base_lrs": {"best_of": ["small"]}, "batch_sizes": [4, 8]
    }  # fmt: skip
