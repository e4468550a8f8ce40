"""What the README shows works as shown."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from conftest import PROJECT, a_run, made_data, snakemake

from smallbatch import models
from smallbatch.data import prepare, prepared
from smallbatch.runs.store import RunStore
from smallbatch.study_file import check_config, load_study
from smallbatch.training.evaluation import evaluate
from smallbatch.training.pack import train_pack

README = (PROJECT / "README.md").read_text()
CONFIG = yaml.safe_load((PROJECT / "config" / "config.yaml").read_text())


def block(language: str, words: str) -> str:
    """The one code block of a language that has these words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if words in text]
    return found


def test_the_study_and_the_data_set(tmp_path, monkeypatch):
    datasets = CONFIG["datasets"] | yaml.safe_load(block("yaml", "source: image-folder"))
    check_config(CONFIG | {"datasets": datasets})
    (tmp_path / "config" / "studies").mkdir(parents=True)
    (tmp_path / "config" / "studies" / "mine.yaml").write_text(block("yaml", "config/studies/mine.yaml"))
    monkeypatch.chdir(tmp_path)
    assert len(load_study(CONFIG | {"study": "mine", "datasets": datasets}).runs()) == 4 * 4 * 3


def test_the_cifar_archive():
    check_config(CONFIG | {"datasets": yaml.safe_load(block("yaml", "cifar-10-python.tar.gz"))})


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_the_model_of_ones_own_trains_in_lanes(norm, tmp_path, monkeypatch):
    file, _, line = block("python", "def tiny").partition("# workflow/smallbatch/models/__init__.py")
    (tmp_path / "tiny_model.py").write_text(file)
    monkeypatch.syspath_prepend(tmp_path)
    name, place = re.search(r'"(\w+)": "([\w.:]+)"', line).groups()
    assert (name, place) == ("tiny", "smallbatch.models.tiny:tiny")
    monkeypatch.setitem(models.MODELS, "tiny", "tiny_model:tiny")
    runs = [a_run(model="tiny", norm=norm, seed=seed) for seed in (1, 2)]
    assert train_pack(runs, made_data(tmp_path / "made"), tmp_path) == 2
    logits = models.build("tiny", (1, 8, 8), 10, norm=norm, bn_batch_size=2).eval()(torch.zeros(2, 1, 8, 8))
    assert logits.shape == (2, 10)


def test_the_checkpoint(tmp_path, monkeypatch):
    (name,) = re.findall(r"^python -m smallbatch evaluate (\S+)$", README, re.MULTILINE)
    monkeypatch.chdir(PROJECT)
    runs = load_study(CONFIG).runs()
    monkeypatch.chdir(tmp_path)
    folder = Path("data", "digits")
    meta = prepare("digits", CONFIG["datasets"]["digits"], folder, tmp_path)
    train_pack([run for run in runs if run.name(meta.fingerprint) == name], folder, Path("results"), device="cpu")
    store = RunStore(Path("results"))
    recorded = evaluate(store, store.read(name), Path("data"), torch.device("cpu"))
    test = prepared.read(folder).test
    found = {"images": (torch.from_numpy(test.images) / 255 - meta.mean[0]) / meta.std[0]}
    exec(block("python", "load_file"), found)
    right = found["logits"].argmax(1) == torch.from_numpy(test.labels)
    assert right.double().mean() == recorded.accuracy == recorded.recorded > 0.9


def test_the_commands_name_targets_and_folders_that_exist():
    workflow = PROJECT / "workflow"
    rules = "".join(path.read_text() for path in [workflow / "Snakefile", *(workflow / "rules").iterdir()])
    for target in re.findall(
        r"^snakemake (?:-\S+ \S+ )*?(?:--config \S+ )?(all|figures|preview)", README, re.MULTILINE
    ):
        assert f"rule {target}:" in rules
    assert (PROJECT / "slurm" / "config.yaml").is_file() and (PROJECT / "data.dvc").is_file()
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert targets == ["all", "test"]
    assert all(re.search(rf"^{target}:", (PROJECT / "Makefile").read_text(), re.MULTILINE) for target in targets)


COMMANDS = [line.partition("#")[0].strip() for line in README.splitlines() if re.match(r"snakemake (?!-n)", line)]


@pytest.mark.parametrize("command", [c for c in COMMANDS if not re.search("--report|slurm|publish", c)])
def test_commands_are_understood(command, project):
    assert len(COMMANDS) >= 8
    done = snakemake(project, *shlex.split(command)[1:], "-n")
    assert done.returncode == 0, done.stdout
