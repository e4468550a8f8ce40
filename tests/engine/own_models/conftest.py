"""What tests of models of the user's own start from."""

import pytest
from helpers import PROJECT, training_settings
from helpers.own_models import NUMBERS, write

from smallbatch import models, study_file
from smallbatch.core.errors import UserError
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.training.own_models import check_processes, examination


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a file with the model `mine`, of which parts are said; returns the file."""

    def file(**parts):
        path = tmp_path / f"own_{next(NUMBERS)}.py"
        write(path, **parts)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(models.MODELS, "mine", f"{path.stem}:mine")
        return path

    return file


@pytest.fixture
def study(project_folder, monkeypatch):
    """Loads a study of the model `mine`."""

    def loaded(training=None, **experiment):
        values = {"data": "digits", "model": "mine", "weight_decay": 0, "epochs": 1, "batch_sizes": [2, 8]}
        values |= {"base_lrs": ["2^-8"], **experiment}
        (project_folder / "config/studies/own.yaml").write_text(
            str({"title": "Own", "seeds": [1], "experiments": {"one": values},
                 "figures": {"f": {"kind": "accuracy", "title": "F", "experiments": ["one"]}}})
        )  # fmt: skip
        config = read_yaml(PROJECT / "config" / "config.yaml") | {"study": "own"}
        return study_file.load_study(config | {"training": training_settings(**training or {})})

    return loaded


@pytest.fixture
def checked_here(monkeypatch):
    """This process checks the models of a study, without the seconds that processes of their own take."""

    def answer(asked):
        try:
            return {"suitability": examination.examine(asked)._asdict()}
        except UserError as error:
            return {"refused": str(error)}

    monkeypatch.setattr(check_processes, "check_models", lambda where, specs: [*map(answer, specs)])


@pytest.fixture
def project_folder(tmp_path, monkeypatch):
    (tmp_path / "here/config/studies").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"
