"""The configuration and what a command line says of it: each mistake in one line."""

import copy
import math
import shutil
from pathlib import Path

import pytest
from helpers import PROJECT
from helpers.studies import CONFIG
from snakemake.utils import update_config

from smallbatch.core.errors import UserError
from smallbatch.study import yaml_validation
from smallbatch.study.yaml_validation import entries_of, read_yaml
from smallbatch.study_file import check_config

pytestmark = pytest.mark.usefixtures("folder_of_studies")


@pytest.mark.parametrize("values", ["claims", ["study"], 7, None])
def test_a_configuration_that_is_no_mapping_is_refused_in_one_line(values):
    with pytest.raises(UserError, match=r"^config/config.yaml: top level: .+ is not allowed; allowed: keys"):
        check_config(values)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stduy", "laptop", "stduy: unknown key (did you mean 'study'?)"),
        (1, "laptop", "top level: 1 is not allowed; allowed: keys that are a word; a number as a key is put in quotes"),
        ("claims", {"a\n": 1}, "claims: 'a\\n' is not allowed; allowed: keys that are a word"),
        (
            "convergence_threshold",
            1.5,
            "convergence_threshold: 1.5 is not allowed; allowed: a number above 0 and up to 1",
        ),
        (
            "training",
            CONFIG["training"] | {"lanes": 0},
            "training.lanes: 0 is not allowed; allowed: auto or a whole number",
        ),
        (
            "training",
            CONFIG["training"] | {"device": "tpu"},
            "training.device: 'tpu' is not allowed; allowed: auto, cpu",
        ),
        (
            "training",
            CONFIG["training"] | {"processes": 2, "side_by_side": 2},
            "training.side_by_side: 2 is not allowed; allowed: 1, as training.processes is 2",
        ),
        (
            "datasets",
            {
                name: {"source": "image-folder", "path": name, "size": 8, "test_fraction": 0.5, "label": "x"}
                for name in "ab"
            },
            "datasets.b.label: 'x' is not allowed; allowed: a label of its own; a has this one",
        ),
        ("datasets", {"a b": {"source": "digits"}}, "datasets: 'a b' is not allowed; allowed: a name of small letters"),
        ("datasets", {"downloads": {"source": "digits"}}, "datasets.downloads.label: 'downloads' is not allowed"),
        ("seeds", math.nan, "seeds: nan is not allowed; allowed: finite numbers"),
        ("seeds", 2**31 - 1, "seeds: 2147483647 is not allowed; allowed: study, or a whole number from 1 to 10000"),
        ("seeds", -(2**31), "seeds: -2147483648 is not allowed; allowed: whole numbers up to 2147483647"),
        ("seeds", 10001, "seeds: 10001 is not allowed; allowed: study, or a whole number from 1 to 10000"),
        ("scale", {"name": "a\n"}, "scale.name: 'a\\n' is not allowed; allowed: one line of text"),
        ("scale", {"name": "a", "batch_sizes": ["010"]}, "scale.batch_sizes.0: '010' is not allowed"),
        ("datasets", {"mine": {"source": "mnist"}}, "datasets.mine.source: 'mnist' is not allowed; allowed: digits"),
    ],
)
def test_mistakes_in_the_configuration_are_reported_in_one_line(key, value, words):
    with pytest.raises(UserError) as caught:
        check_config({**CONFIG, key: value})
    assert str(caught.value).startswith("config/config.yaml: ") and words in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"training": {"lanes": 0}}, "--config: training.lanes: 0 is not allowed"),
        ({"training": {"lanes": "0"}}, "--config: training.lanes: 0 is not allowed"),
        ({"claims": {"same": "1e-400"}}, "--config: claims.same: '1e-400' is not allowed; allowed: a number from 0 to"),
        ({"training": {"processes": 2, "side_by_side": 2}}, "--config: training.side_by_side: 2 is not allowed"),
        ({"training": {"kernels": 1}}, "--config: training.kernels: unknown key"),
        ({"nothing": 1}, "--config: nothing: unknown key"),
        ({"seeds": math.nan}, "--config: seeds: 'nan' is not allowed; allowed: study, or a whole number"),
        ({"scale": {"name": "a", "batch_sizes": [0]}}, "--config: scale.batch_sizes.0: 0 is not allowed"),
        ({"datasets": {"mine": {"source": "digits", "size": 8}}}, "--config: datasets.mine.size: 8 is not allowed"),
        ({"datasets": {"mine": {"source": "digits", "label": "digits"}}}, "--config: datasets.mine.label: 'digits' is"),
    ],
)
def test_mistakes_of_a_command_line_are_said_to_be_there(given, words):
    before, values = copy.deepcopy(given), copy.deepcopy(CONFIG)
    update_config(values, given)
    with pytest.raises(UserError) as caught:
        check_config(values, given=given)
    assert str(caught.value).startswith(words) and given == before
    with pytest.raises(UserError, match=r"^config/config.yaml: "):
        check_config(values, given={"study": "laptop", "training": {"device": "cpu"}, "datasets": {"other": {}}})


@pytest.mark.parametrize(
    ("arguments", "entries"),
    [
        (["snakemake", "-n", "all"], []),
        (["snakemake", "--config", "a=1", "b=x=2", "--cores", "8", "c=3"], ["a=1", "b=x=2"]),
        (["snakemake", "-n", "--config=b=2", "c=3"], ["b=2", "c=3"]),
        (["snakemake", "-Ca=1", "-n"], ["a=1"]),
        (["snakemake", "-C=a=b=", "c=3"], ["a=b=", "c=3"]),
        (["snakemake", "-n", "--cores", "8", "-Cx"], ["x"]),
        (["snakemake", "-C", "a=1", "--configfile", "x"], ["a=1"]),
    ],
)
def test_the_settings_among_the_arguments_of_snakemake(arguments, entries):
    assert entries_of(arguments) == entries


def test_what_is_no_setting_among_the_arguments_is_said_to_be_on_the_command_line():
    with pytest.raises(UserError, match=r"^command line: --config: 'a' is not allowed; allowed: KEY=VALUE"):
        yaml_validation.read_entries(["a"])


@pytest.mark.parametrize("second", [["--config", "b=2"], ["-C", "b=2"], ["-Cb=2"], ["--config=b=2"]])
def test_settings_at_two_places_of_which_snakemake_takes_the_last_are_refused(second):
    with pytest.raises(UserError, match=r"^command line: --config: stands twice; allowed: once, with all its values"):
        entries_of(["snakemake", "--config", "a=1", "-n", *second])
    with pytest.raises(UserError, match=r"^command line: --configfile: stands twice; allowed: once"):
        entries_of(["snakemake", "--configfile", "a.yaml", "--config", "a=1", "--configfiles=b.yaml"])


@pytest.mark.parametrize("more", [{"processes": 2, "side_by_side": 1}, {"processes": 1, "side_by_side": 2}])
def test_either_processes_or_trainings_side_by_side_may_be_several(more):
    config = CONFIG | {"training": CONFIG["training"] | more}
    assert check_config(config) == config


@pytest.fixture
def pictures(monkeypatch, tmp_path):
    """A configuration with a data set `pets` of pictures, and the file that has it."""
    shutil.copytree(PROJECT / "config", tmp_path / "here/config")
    monkeypatch.chdir(tmp_path / "here")
    file = Path("config/config.yaml")
    settings = "datasets:\n  pets: {source: image-folder, path: pets, size: 32}\n"
    file.write_text(file.read_text("utf-8").replace("datasets:\n", settings), encoding="utf-8")
    return read_yaml(file)


@pytest.mark.parametrize(
    "changed", [{"size": 64}, {"mode": "L"}, {"source": "image-folder", "size": 16, "label": "pets"}]
)
def test_data_of_one_label_are_prepared_in_one_way(changed, pictures):
    given = {"datasets": {"pets": changed}}
    datasets = pictures["datasets"] | {"pets": pictures["datasets"]["pets"] | changed}
    with pytest.raises(
        UserError, match=r"--config: datasets.pets: .* what config/config.yaml says of pets, or a `label"
    ):
        check_config(pictures | {"datasets": datasets}, given=given)


@pytest.mark.parametrize("changed", [{"path": "elsewhere"}, {"size": 64, "label": "large-pets"}])
def test_data_that_lie_elsewhere_are_the_same_and_another_label_has_others(changed, pictures):
    datasets = pictures["datasets"] | {"pets": pictures["datasets"]["pets"] | changed}
    assert check_config(pictures | {"datasets": datasets})["datasets"]["pets"] == datasets["pets"]


@pytest.mark.parametrize("file", ["datasets: {pets: 3}", "datasets:"])
def test_data_that_the_file_says_wrongly_may_be_said_by_a_call(file, pictures):
    Path("config/config.yaml").write_text(file + "\n", encoding="utf-8")
    assert check_config(pictures)["datasets"]["pets"]["size"] == 32
