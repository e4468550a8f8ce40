"""Models of the user's own: what is said of them before a study begins."""

import logging
import sys

import pytest
from helpers import a_run
from helpers.own_models import DATASET, write

from smallbatch import models
from smallbatch.core.environment import cache_folder
from smallbatch.core.errors import UserError
from smallbatch.core.files import read_sealed
from smallbatch.training.own_models import check_processes
from smallbatch.training.own_models.spec import SLOWER, Suitability, spec_of

pytestmark = pytest.mark.usefixtures("one_thread", "empty_cache")


@pytest.mark.slow
def test_a_study_is_checked_as_it_is_loaded_and_the_verdict_remembered(own, study, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    file = own(middle="return x - x.mean(1, keepdim=True)")
    setting = study().experiments["one"].setting
    assert setting.model_content == models.content("mine") and file.stem not in sys.modules
    [warning] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("config/studies/own.yaml: experiments.one: model mine is trained alone, since a layer mi")
    assert warning.endswith(SLOWER)
    assert "checked model mine in" in caplog.text
    caplog.clear()
    kept = list((cache_folder() / "models").iterdir())
    assert len(kept) == 2, "as the study asks, and as a job does, which does not know all batch sizes"
    [found] = {read_sealed(path)["why_alone"] for path in kept}
    asked = []

    def check_models(where, specs):
        asked.extend(specs)
        return [{"suitability": Suitability(found, False, True, 1)._asdict()} for _ in specs]

    monkeypatch.setattr(check_processes, "check_models", check_models)
    study()
    assert "model mine is trained alone" in caplog.text and not asked
    for path in kept:
        path.write_text(path.read_text().replace("a layer mixes", "a layer does"))
    study()
    assert len(asked) == 1 and {read_sealed(path)["why_alone"] for path in kept} == {found}
    write(file, middle="return x")
    models.content_at.cache_clear()
    assert study().experiments["one"].setting.model_content != setting.model_content
    assert len(asked) == 2 and asked[1].content != asked[0].content


@pytest.mark.slow
def test_a_file_that_ends_the_process_costs_a_line(own, study):
    file = own(make="import ctypes; ctypes.string_at(0)")
    with pytest.raises(UserError) as refused:
        study()
    assert str(refused.value) == f"config/studies/own.yaml: model mine ({file}): it ended the process: SIGSEGV"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "line"),
    [
        ("os._exit(0)", "it ended the process: exit 0"),
        ("print('hello'); sys.exit('bye')", "it cannot be made (SystemExit: bye)"),
    ],
)
def test_a_file_that_ends_the_process_quietly_costs_a_line(make, line, own, tmp_path):
    file = own(make=make)
    asked = spec_of(a_run(model="mine").setting, DATASET.shape, DATASET.classes)
    with check_processes.CheckProcess("a study", [asked], tmp_path / "check", other_environment=True) as process:
        assert process.answers() == [{"refused": f"model mine ({file}): {line}"}]


@pytest.mark.slow
def test_a_check_without_end_is_ended(own, study, monkeypatch):
    monkeypatch.setattr(check_processes, "CHECK_TIMEOUT_S", 8)
    own(make="time.sleep(100)")
    with pytest.raises(UserError, match=r"config/studies/own.yaml: model mine: no end of its check in 8 s"):
        study()


@pytest.mark.slow
def test_what_a_study_asks_of_a_model_that_is_trained_alone(own, study, checked_here):
    own(middle="return F.softmax(x, 1)")
    with pytest.raises(UserError, match=r"training.processes: 2 is not allowed; allowed: 1 with model mine, which is"):
        study(training={"processes": 2})
    own(middle="return x - x.mean(0) if self.training else x", end="return self.fc(x.amax((2, 3)))")
    with pytest.raises(UserError, match=r"training.processes: 2 .* with model mine, which needs all of a mini"):
        study(training={"processes": 2})
    with pytest.raises(UserError, match=r"experiments.one.variance_batch_sizes: \[2\] is not allowed"):
        study(variance_batch_sizes=[2])


def test_only_a_model_of_the_users_has_a_norm_of_its_own(study):
    with pytest.raises(UserError, match=r"one.norm: 'own' is not allowed; allowed: none, batch or group with resnet8"):
        study(model="resnet8", norm="own")


@pytest.mark.parametrize("place", ["none_such:mine", "smallbatch.none:mine", "nothing", ""])
def test_a_line_of_MODELS_that_names_nothing_is_said(place, monkeypatch):
    monkeypatch.setitem(models.MODELS, "mine", place)
    with pytest.raises(
        UserError, match=r"MODELS: .* is not allowed; allowed: MODULE:FUNCTION of a module that is there"
    ):
        models.content("mine")
