"""Models of the user's own: what their runs are named after."""

import importlib
import os
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from helpers import a_run
from helpers.own_models import CPU, DATASET

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.runs.store import RunStore
from smallbatch.training.own_models import suitability
from smallbatch.training.pack import train_pack
from smallbatch.training.trainer import LaneTrainer
from smallbatch.training.weights_evaluation import evaluate

pytestmark = pytest.mark.usefixtures("one_thread", "empty_cache")


def test_what_python_compiled_of_an_earlier_file_is_not_run(own, monkeypatch):
    """Though it has the size and the time, as files have that were copied with their times."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = own(end="return self.fc(x.mean((2, 3))) * 1.0")
    os.utime(file, (1, 1))
    images = torch.ones(2, 1, 8, 8)
    before = models.build("mine", (1, 8, 8), 4)(images)
    assert (file.parent / "__pycache__").is_dir()
    file.write_text(file.read_text().replace("* 1.0", "* 2.0"))
    os.utime(file, (1, 1))
    monkeypatch.delitem(sys.modules, file.stem)
    torch.testing.assert_close(models.build("mine", (1, 8, 8), 4)(images), 2 * before)


def test_a_model_that_is_edited_between_planning_and_its_import_is_refused(own, data_folder, tmp_path):
    """And one that is edited later goes on as it was imported."""
    file = own()
    planned, data = a_run(model="mine", epochs=1), prepared.read(data_folder)
    text = file.read_text()
    file.write_text(text.replace("mean((2, 3))", "amax((2, 3))"))
    with pytest.raises(UserError, match="is not what this run was named after"):
        LaneTrainer([planned], data, CPU)
    sys.modules.pop(file.stem)
    file.write_text(text)
    LaneTrainer([planned], data, CPU)
    file.write_text(text.replace("mean((2, 3))", "amax((2, 3))"))
    LaneTrainer([planned], data, CPU)


def test_names_of_runs_of_the_projects_models_are_as_recorded():
    assert a_run().name("f" * 64) == "made_alexnet-none_m4_log2lr-8_seed1-f75bf380e51e"
    batch = a_run(model="resnet8", norm="batch", b=2, momentum=0.9)
    assert batch.name("f" * 64) == "made_resnet8-batch_m4_b2_log2lr-8_seed1-5f74b12e5a56"


def test_packages_around_a_model_are_part_of_what_its_runs_are_named_after(tmp_path, monkeypatch):
    """Python runs their `__init__.py` before the model's file, whether that imports from them or not."""
    for name, text in {
        "outer/__init__.py": "", "outer/inner/__init__.py": "from outer.width import WIDTH\n",
        "outer/width.py": "WIDTH = 8\n", "outer/inner/net.py": "def mine(shape, classes, norms): ...\n",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    files = {path.relative_to(tmp_path).as_posix() for path in models.files("outer.inner.net:mine")}
    assert files == {"outer/__init__.py", "outer/inner/__init__.py", "outer/width.py", "outer/inner/net.py"}
    for name in [name for name in sys.modules if name.partition(".")[0] == "outer"]:
        monkeypatch.delitem(sys.modules, name)


def test_a_package_that_is_to_be_imported_again_still_works_for_who_has_it(tmp_path, monkeypatch):
    """Of a package and its modules Python lists the modules first."""
    (tmp_path / "held").mkdir()
    for name, text in {
        "__init__": "from held import width\n\ndef of_layers():\n    return width.WIDTH\n",
        "width": "WIDTH = 8\n", "net": "def mine(shape, classes, norms): ...\n",
    }.items():  # fmt: skip
        (tmp_path / "held" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(models.MODELS, "held", "held.net:mine")
    package = importlib.import_module("held")
    models.forget_modules()
    assert "held" not in sys.modules and "held.width" not in sys.modules
    assert package.of_layers() == 8


def test_modules_that_import_others_when_they_are_looked_at_stop_nothing(monkeypatch):
    """As those of libraries do that import their parts late."""

    class Late(ModuleType):
        def __getattr__(self, name):
            monkeypatch.setitem(sys.modules, "imported_late", ModuleType("imported_late"))
            raise AttributeError(name)

    monkeypatch.setitem(sys.modules, "late", Late("late"))
    models.forget_modules()
    assert "late" in sys.modules and "imported_late" in sys.modules


@pytest.mark.slow
def test_an_edited_model_names_new_runs_and_old_ones_cannot_be_evaluated(own, data_folder, tmp_path):
    file = own()
    old = a_run(model="mine")
    train_pack([old], data_folder, tmp_path)
    store, fingerprint = RunStore(tmp_path), prepared.read(data_folder).meta.fingerprint
    name = old.name(fingerprint)
    assert (
        evaluate(store, store.read(name), data_folder.parent, CPU).accuracy
        == store.read(name).outcome.epochs[-1].test_accuracy
    )
    assert store.read(name).run.setting.model_content == models.content("mine")
    file.write_text(file.read_text().replace("F.relu", "F.silu"))
    models.content_at.cache_clear()
    del sys.modules[file.stem]  # as in another process
    new = a_run(model="mine")
    assert new.name(fingerprint) != name and not store.has(new, fingerprint) and store.has(old, fingerprint)
    with pytest.raises(
        UserError, match=rf"model mine: {file.stem}:mine in {file} is not what this run was named after"
    ):
        evaluate(store, store.read(name), data_folder.parent, CPU)
    with pytest.raises(UserError, match="is not what this run was named after"):
        train_pack([replace(old, seed=9)], data_folder, tmp_path)


@pytest.mark.parametrize(
    "line", ["import parts_{n}", "from parts_{n} import x", "def f():\n    from parts_{n} import x"]
)
def test_what_a_model_imports_from_beside_it_is_part_of_it(line, own, tmp_path):
    file = own()
    part = tmp_path / f"parts_{file.stem}.py"
    part.write_text("x = 1\n")
    file.write_text(file.read_text() + line.format(n=file.stem) + "\n")
    before = models.content("mine")
    part.write_text("x = 2\n")
    models.content_at.cache_clear()
    assert models.content("mine") != before


IMPORTS = ["from {first} import x", "import importlib\nx = importlib.import_module('{first}'[:2] + '{first}'[2:]).x"]


@pytest.mark.parametrize(("line", "seen"), [(IMPORTS[0], True), (IMPORTS[1], False)], ids=["by name", "by stealth"])
def test_what_a_model_imports_is_seen_also_where_another_one_has_imported_it(line, seen, own, tmp_path, monkeypatch):
    """A model in a folder of its own imports the file of another model, which this process has examined."""
    first = own()
    first.write_text("x = 1\n" + first.read_text())
    suitability(a_run(model="mine").setting, DATASET.shape, DATASET.classes)
    assert first.stem in sys.modules
    (tmp_path / "elsewhere").mkdir()
    second = tmp_path / "elsewhere" / f"other_{first.stem}.py"
    second.write_text(f"{line.format(first=first.stem)}\n{first.read_text()}")
    monkeypatch.syspath_prepend(second.parent)
    monkeypatch.setitem(models.MODELS, "other", f"{second.stem}:mine")
    with pytest.raises(UserError, match=rf"model other .*: it reads {first}, which is no part of its runs' names"):
        suitability(a_run(model="other").setting, DATASET.shape, DATASET.classes)
    monkeypatch.setattr(models, "__file__", str(tmp_path / "__init__.py"))  # as if the folder of models were that one
    assert (first in models.files(models.MODELS["other"])) == seen


def test_which_function_of_a_file_a_model_is_is_part_of_it(own, data_folder, tmp_path, monkeypatch):
    file = own()
    file.write_text(file.read_text() + "\n\ndef other(*given):\n    return mine(*given)\n")
    run, before = a_run(model="mine"), models.content("mine")
    monkeypatch.setitem(models.MODELS, "mine", f"{file.stem}:other")
    assert models.content("mine") != before
    with pytest.raises(UserError, match=rf"model mine: {file.stem}:other in {file} is not what this run was named aft"):
        train_pack([run], data_folder, tmp_path)


def test_a_model_of_the_project_by_another_name_is_part_of_its_runs(monkeypatch):
    for function in ("resnet8", "resnet20"):
        monkeypatch.setitem(models.MODELS, "mine", f"smallbatch.models.resnet:{function}")
        assert models.is_own("mine") and not models.is_own(function) and models.content(function) is None
        assert a_run(model="mine").setting.model_content == models.content("mine") is not None
    contents = {models.content_at(f"smallbatch.models.resnet:resnet{depth}") for depth in (8, 20)}
    assert len(contents) == 2
