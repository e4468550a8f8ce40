"""Smaller studies of another name: by `scale`, and by what a call says otherwise."""

import shutil
from pathlib import Path

import pytest
from helpers import PROJECT
from helpers.studies import CONFIG, base_and_dependent, load, small

from smallbatch.core.errors import UserError
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import load_study, scaled

pytestmark = pytest.mark.usefixtures("folder_of_studies")


def test_scale_makes_a_smaller_study_of_another_name():
    study = load(scale={"name": "less", "epochs": 0.5, "train_images": 100, "batch_sizes": [4], "base_lrs": ["2^-8"]})
    assert study.name == "mine-less" and study.scale["epochs"] == 0.5
    assert [(run.batch_size, run.base_lr, run.seed) for run in study.runs()] == [(4, 2**-8, 1), (4, 2**-8, 2)]
    assert {(run.setting.epochs, run.setting.train_images) for run in study.runs()} == {(1, 100)}


def test_scale_drops_what_it_leaves_nothing_of():
    def change(values):
        base_and_dependent(values)
        values["experiments"]["large"] = small(values) | {"batch_sizes": [64]}
        values["experiments"]["later"]["base_lrs"]["best_of"].append("large")
        values["figures"]["fig02"] = {"kind": "best", "title": "Two", "experiments": ["large"]}
        values["figures"]["fig03"] = {"kind": "best", "title": "Three", "experiments": ["later", "large"]}

    study = load(change, scale={"name": "less", "batch_sizes": [4, 8]})
    assert list(study.experiments) == ["small", "later"] and study.experiments["later"].best_of == ("small",)
    assert list(study.figures) == ["fig01", "fig03"] and study.figures["fig03"]["experiments"] == ["later"]
    study = load(
        lambda v: (change(v), v["experiments"]["large"].update(data="cifar10")),
        scale={"name": "less", "data": ["digits"]},
    )
    assert list(study.experiments) == ["small", "later"] and list(study.figures) == ["fig01", "fig03"]
    study = load(change, scale={"name": "less", "figures": ["fig02"]})
    assert list(study.experiments) == ["large"]
    study = load(change, scale={"name": "less", "figures": ["fig03"]})
    assert list(study.experiments) == ["small", "later", "large"]


@pytest.mark.parametrize(
    ("scale", "own", "changed"),
    [
        ({}, {}, {}),
        ({"epochs": 0.3}, {}, {"epochs": 6}),
        ({"epochs": 0.01}, {}, {"epochs": 1}),
        ({"train_images": 100}, {}, {"train_images": 100}),
        ({"train_images": 100}, {"train_images": 500}, {"train_images": 100}),
        ({"train_images": 100}, {"train_images": 50}, {}),
        (
            {"batch_sizes": [2, 8]},
            {"bn_batch_sizes": [2, 4, 8], "variance_batch_sizes": [2, 4]},
            {"batch_sizes": [8], "bn_batch_sizes": [2, 8], "variance_batch_sizes": [2]},
        ),
        ({"base_lrs": [2**-6, 0.5]}, {}, {"base_lrs": ["2^-6"]}),
        ({"base_lrs": ["2^-3"]}, {}, {}),  # it has none of them: all stay
        ({"base_lrs": ["2^-6"]}, {"base_lrs": {"best_of": ["one"]}}, {}),
    ],
)
def test_of_an_experiment_a_scale_changes_what_it_names(scale, own, changed):
    one = {"data": "digits", "epochs": 20, "batch_sizes": [4, 8], "base_lrs": ["2^-8", "2^-6"]} | own
    assert scaled({"experiments": {"one": one}, "figures": {}}, scale)["experiments"] == {"one": one | changed}


def test_an_experiment_without_bn_batches_or_bases_that_are_left_is_dropped():
    def change(values):
        base_and_dependent(values)
        values["experiments"]["later"] |= {"bn_batch_sizes": [2], "batch_sizes": [4]}

    assert list(load(change, scale={"name": "less", "batch_sizes": [4]}).experiments) == ["small"]
    values = {"data": "digits", "epochs": 2, "batch_sizes": [4], "base_lrs": ["2^-8"]}
    both = {"base": values | {"data": "cifar10"}, "later": values | {"base_lrs": {"best_of": ["base"]}}}
    assert scaled({"experiments": both, "figures": {}}, {"data": ["digits"]})["experiments"] == {}


def test_batches_may_be_of_all_images_and_variances_of_half_of_an_epoch():
    assert load(dict(train_images=10, batch_sizes=[10], variance_batch_sizes=[2, 5])).runs()
    # Of 10 images an epoch at m = 4 has 8, though those at m = 3 and 5 have more.
    with pytest.raises(UserError, match=r"variance_batch_sizes: 5 is not allowed; .* 4, half the images .* at m = 4$"):
        load(dict(train_images=10, batch_sizes=[3, 4, 5], variance_batch_sizes=[2, 5]))


def test_each_experiment_is_checked_against_its_own_data():
    pictures = {"source": "image-folder", "path": "p", "size": 8}

    def change(values):
        values["experiments"]["large"] = small(values) | {"batch_sizes": [1438]}
        values["experiments"]["small"]["data"] = "pictures"

    def few(values):
        values["experiments"]["few"] = small(values) | {"data": "pictures", "train_images": 5}
        values["experiments"]["small"]["data"] = "pictures"

    datasets = CONFIG["datasets"] | {"pictures": pictures}
    with pytest.raises(UserError, match=r"experiments.large.batch_sizes: 1438 is not allowed"):
        load(change, datasets=datasets)
    with pytest.raises(UserError, match=r"experiments.few.batch_sizes: 8 is not allowed"):
        load(few, datasets=datasets)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ({"figures": ["fig1"]}, "scale.figures: 'fig1' is not allowed; allowed: fig01 (did you mean 'fig01'?)"),
        ({"data": ["cifar"]}, "scale.data: 'cifar' is not allowed; allowed: digits, cifar10"),
        ({"batch_sizes": [3]}, "allowed: values that leave an experiment of the study at least one run"),
    ],
)
def test_a_scale_that_fits_nothing_is_refused(scale, words):
    with pytest.raises(UserError) as caught:
        load(scale={"name": "less"} | scale)
    assert str(caught.value).startswith("config/config.yaml: scale") and words in str(caught.value)


def test_a_scale_of_a_command_line_is_said_to_be_there(monkeypatch):
    monkeypatch.chdir(PROJECT)
    scale = {"name": "a", "figures": ["fig99"]}
    with pytest.raises(UserError, match=r"^--config: scale.figures: 'fig99' is not allowed"):
        load_study(CONFIG | {"scale": scale}, {"scale": scale})
    with pytest.raises(UserError, match=r"^--config: study: '../x' is not allowed"):
        load_study(CONFIG | {"study": "../x"}, {"study": "../x"})


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "laptop"),
        ({"seeds": 3}, "laptop-seeds3"),
        ({"convergence_threshold": 0.5}, "laptop-convergence_threshold0.5"),
        ({"claims": {"margin": 1.5, "near": 3}}, "laptop-margin1.5-near3"),
        ({"claims": {"margin": 0.2}, "training": {"processes": 1, "device": "cpu"}}, "laptop"),
        ({"figures": {"pdf": "bare"}}, "laptop-pdfbare"),
        ({"scale": {"name": "look", "figures": ["fig01"]}, "seeds": 1}, "laptop-look-seeds1"),
    ],
)
def test_what_a_call_says_otherwise_than_the_configuration_is_in_the_name(changed, name, monkeypatch):
    monkeypatch.chdir(PROJECT)
    config = read_yaml(Path("config/config.yaml"))
    parts = {
        key: config[key] | value if key != "scale" and isinstance(value, dict) else value
        for key, value in changed.items()
    }
    study = load_study(config | parts)
    assert study.name == name
    assert {run.setting for run in study.runs()} <= {run.setting for run in load_study(config).runs()}, (
        "no run is another"
    )


def test_what_a_call_makes_has_the_name_of_no_study(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    shutil.copytree(PROJECT / "config", tmp_path / "here/config")
    monkeypatch.chdir(tmp_path / "here")
    shutil.copy("config/studies/laptop.yaml", "config/studies/laptop-seeds3.yaml")
    config = read_yaml(Path("config/config.yaml"))
    with pytest.raises(
        UserError, match=r"^config/studies/laptop-seeds3.yaml: has the name of what this call makes of "
    ):
        load_study(config | {"seeds": 3})
    assert load_study(config | {"study": "laptop-seeds3"}).name == "laptop-seeds3"
    file = Path("config/config.yaml")
    file.write_text(file.read_text("utf-8").replace("seeds: study", "seeds: 3"), encoding="utf-8")
    assert load_study(config | {"seeds": 3}).name == "laptop", "as the configuration says"
    file.write_text(file.read_text("utf-8").replace("seeds: 3", 'seeds: "3"'), encoding="utf-8")
    assert load_study(config | {"seeds": 3}).name == "laptop", "however it spells a number"
