"""Settings and code that README.md and docs/ show work as shown; tests/workflow/test_commands.py has the commands."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers import PROJECT, a_run, made_data

from smallbatch import models
from smallbatch.data import prepare, prepared
from smallbatch.runs.store import RunStore
from smallbatch.study_file import check_config, load_study
from smallbatch.training.pack import train_pack
from smallbatch.training.weights_evaluation import evaluate

PAGES = "".join(
    page.read_text(encoding="utf-8") for page in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
)
CONFIG = yaml.safe_load((PROJECT / "config" / "config.yaml").read_text())


def block(language: str, words: str) -> str:
    """The one code block of a language that has these words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGES, re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if words in text]
    return found


def test_the_study_and_the_data_set(tmp_path, monkeypatch):
    datasets = CONFIG["datasets"] | yaml.safe_load(block("yaml", "path: /where/they/are"))
    check_config(CONFIG | {"datasets": datasets})
    (tmp_path / "config" / "studies").mkdir(parents=True)
    (tmp_path / "config" / "studies" / "mine.yaml").write_text(block("yaml", "config/studies/mine.yaml"))
    monkeypatch.chdir(tmp_path)
    assert len(load_study(CONFIG | {"study": "mine", "datasets": datasets}).runs()) == 4 * 4 * 3


def test_each_kind_of_data():
    shown = re.findall(
        r"`(\{source: .*\})` \|$", (PROJECT / "docs" / "study.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(shown) >= 3
    own = {f"mine{number}": yaml.safe_load(text) for number, text in enumerate(shown)}
    check_config(CONFIG | {"datasets": CONFIG["datasets"] | own})


def test_the_cifar_archive():
    check_config(CONFIG | {"datasets": yaml.safe_load(block("yaml", "cifar-10-python.tar.gz"))})


@pytest.mark.slow
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
    (name,) = re.findall(r"^python -m smallbatch evaluate (\S+)$", PAGES, re.MULTILINE)
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
