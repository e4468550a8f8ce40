"""Models of the user's own: what only another process, or another place, shows."""

import pytest
from helpers import a_run
from helpers.own_models import DATASET, united, write

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.training.own_models import check_processes
from smallbatch.training.own_models.spec import spec_of

pytestmark = pytest.mark.usefixtures("one_thread", "empty_cache")


ELSEWHERE = {
    "the order of a set": "[ord(letter) for letter in {'a', 'b', 'c', 'd', 'e', 'f'}][0]",
    "the order of two": "(2 if list({'alpha', 'beta'})[0] == 'alpha' else 3)",
    "the order of what two sets have": "(2 if list({'alpha', 'beta', 'c'} - {'c'})[0] == 'alpha' else 3)",
    "a set made of a list": "(2 if [*frozenset(['alpha', 'beta'])][0] == 'alpha' else 3)",
    "one out of a set": "(2 if {word for word in ('alpha', 'beta')}.pop() == 'alpha' else 3)",
    "a hash": "hash('alpha') % 1000",
    "an address": "id(object()) // 16 % 1000",
    "arguments": "len(sys.argv[-1])",
    "the host": "len(__import__('platform').node())",
    "the user": "len(__import__('getpass').getuser())",
    "the folder": "len(os.getcwd())",
    "threads": "torch.get_num_threads()",
    "processors": "__import__('multiprocessing').cpu_count()",
    "the time": "np.datetime64('now').astype(int) % 1000",
    "the day": "np.datetime64('today').astype(int) % 1000",
    "the time zone": "time.timezone",
    "the locale": "len(__import__('locale').setlocale(__import__('locale').LC_ALL, ''))",
    "the process": "os.getpid() % 1000",
    "a random name": "__import__('uuid').uuid4().int % 1000",
    "models made before": "(globals().setdefault('MADE', []).append(1) or len(MADE))",
}
"""Numbers that a model has from outside, some of them in ways that only another process shows."""


SAME = {
    "nothing": "1",
    "a set of numbers": "list({3, 1, (2, 0.5)} - {(2, 0.5)})[0]",
    "whether a set has it": "('alpha' in {'alpha', 'beta'}) + len(frozenset('abc') | {'d'})",
    "a sorted set": "ord(sorted({letter for letter in 'acb'})[0])",
}
"""Numbers that are the same everywhere."""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Of the models of `SAME` and `ELSEWHERE`: questions, and what a process in another place says to each."""
    folder, asked = tmp_path_factory.mktemp("elsewhere"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("LC_ALL", "C.UTF-8")
        for place, (name, number) in enumerate((SAME | ELSEWHERE).items()):
            model = f"elsewhere_{place}"
            write(folder / f"{model}.py", init=f"self.k = 1 + 0.01 * {number}", middle="return x * self.k")
            patch.setitem(models.MODELS, model, f"{model}:mine")
            setting = a_run(model=model).setting
            asked[name] = spec_of(setting, DATASET.shape, DATASET.classes)
        with check_processes.CheckProcess(
            "a study", list(asked.values()), folder / "there", other_environment=True
        ) as process:
            yield asked, dict(zip(asked, process.answers(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_another_process_trains_otherwise_is_refused(name, elsewhere):
    asked, there = elsewhere
    found = united(asked[name], there[name])
    file = models.source(asked[name].entry_point)
    line = f"model {asked[name].model} ({file}): its weights after update 1 are others in another process; allowed: "
    assert found["refused"].startswith(line) and "\n" not in found["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_another_process_trains_a_model_to_the_bit_as_this_one(name, elsewhere):
    asked, there = elsewhere
    found = united(asked[name], there[name])
    assert found["training"] == there[name]["training"] and len(set(found["training"].values())) > 6


@pytest.mark.slow
def test_a_study_is_refused_for_what_only_another_process_shows(own, study):
    file = own(init="self.k = 1 + 0.01 * len(sys.argv[-1])", middle="return x * self.k")
    with pytest.raises(UserError) as refused:
        study()
    line = f"config/studies/own.yaml: model mine ({file}): its weights after update 1 are others in another process; "
    assert str(refused.value).startswith(line)
