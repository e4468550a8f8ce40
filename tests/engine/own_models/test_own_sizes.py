"""Models of the user's own: what they do at each batch size."""

import itertools

import pytest
from helpers import a_run
from helpers.own_models import CPU, DRAWS, found, found_at

from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.training import own_models
from smallbatch.training.own_models import suitability
from smallbatch.training.pack import train_pack
from smallbatch.training.trainer import LaneTrainer

pytestmark = pytest.mark.usefixtures("one_thread", "empty_cache")


@pytest.mark.slow
def test_a_model_that_fails_at_a_size_that_was_not_tried_is_reported_in_one_line(own, data_folder, tmp_path):
    file = own(middle="assert len(x) <= 4, 'four at\\nmost'\nreturn x")
    with pytest.raises(UserError) as refused:
        train_pack([a_run(model="mine", batch_size=8)], data_folder, tmp_path)
    assert str(refused.value) == f"model mine ({file}): its training fails (AssertionError: four at most)"


SIZED = {
    "fails above 4": ({"middle": "assert len(x) <= 4, 'four at most'\nreturn x"},
                      "its training pass of 8 images fails (AssertionError: four at most)"),
    "fails at 8 alone": ({"middle": "if self.training: assert len(x) != 8, 'not\\neight'\nreturn x"},
                         "its training pass of 8 images fails (AssertionError: not eight)"),
    "fails at 4096": ({"middle": "return x.view(min(len(x), 1000), *x.shape[1:])"},
                      "its training pass of 4096 images fails (RuntimeError: "),
    "fails by a value": ({"middle": "assert len(x) <= 4 or x.sum() == 0, 'four at most'\nreturn x"},
                         "its training pass of 8 images fails (AssertionError: four at most)"),
    "fails in tests": ({"middle": "assert self.training or len(x) <= 999, 'fewer'\nreturn x"},
                       "its test pass of 2048 images fails (AssertionError: fewer)"),
    "another result": ({"end": "return self.fc(x.mean((2, 3)))[:999]"}, "it returns [999, 4] of 4096 images, torch"),
    "a layer above 4": ({"init": "self.c = nn.Conv2d(8, 8, 1)", "middle": "return self.c(x) if len(x) > 4 else x"},
                        "at m = 8 it calls other layers than at m = 4 (c); allowed: the same at each m"),
    "a norm above 4": ({"middle": "return F.layer_norm(x, x.shape[1:]) if self.training and len(x) > 4 else x"},
                       "its Mine normalises (layer_norm), and norm: none says otherwise; allowed: "),
    "tests of more than 8": ({"middle": "return x if self.training or len(x) <= 8 else 2 * x"},
                             "in testing an image's logits depend on how many are beside it (32); allowed: a model wh"),
    "tests of more than 300": ({"middle": "return x if self.training or len(x) <= 300 else 2 * x"},
                               "in testing an image's logits depend on how many are beside it (512); allowed: a model"),
    "tests of more than 1500": ({"middle": "return x if self.training else x * (1 + (len(x) > 1500))"},
                                "in testing an image's logits depend on how many are beside it (2048); allowed: a mod"),
    "draws at one size": ({"middle": "return F.dropout(x) if self.training and len(x) == 4096 else x"},
                          "it draws random numbers at m = 4096, but not at all; allowed: the same at each m"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "line"), SIZED.values(), ids=SIZED)
def test_what_a_model_does_at_the_sizes_of_a_study_is_checked_before_it(parts, line, own):
    file = own(**parts)
    with pytest.raises(UserError) as refused:
        found_at(2, 8, 4096)
    assert str(refused.value).startswith(f"model mine ({file}): {line}")


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_batches_of_an_odd_number_are_no_mistake(norm, own):
    own()
    assert found_at(2, 7, 4097, norm=norm).lanes


@pytest.mark.slow
def test_a_study_names_the_size_that_its_model_does_not_take(own, study, checked_here):
    file = own(middle="assert len(x) <= 4, 'four at most'\nreturn x")
    with pytest.raises(UserError) as refused:
        study(batch_sizes=[2, 8])
    line = "its training pass of 8 images fails (AssertionError: four at most)"
    assert str(refused.value) == f"config/studies/own.yaml: model mine ({file}): {line}"


@pytest.mark.slow
@pytest.mark.parametrize("count", [300, 5000])
def test_random_numbers_of_large_mini_batches_alone_are_found(count, own):
    """By their shapes: no batch of that size is computed."""
    own(middle=f"return F.dropout(x) if self.training and len(x) >= {count} else x")
    assert found().stochastic and found().why_alone == DRAWS


@pytest.mark.slow
def test_what_is_known_of_a_model_serves_other_sizes_of_its_jobs(own, study, checked_here, monkeypatch):
    own()
    setting = study(batch_sizes=[2, 8]).experiments["one"].setting
    monkeypatch.setattr("smallbatch.training.own_models.examination.examine", None)
    own_models.suitability_of.cache_clear()
    assert suitability(setting, (1, 8, 8), 10).lanes


@pytest.mark.slow
def test_mini_batches_whose_examples_know_each_other_are_not_taken_in_parts(own, data_folder):
    own(middle="return self.c(x)", init="self.c = nn.BatchNorm2d(8)")
    run, data = a_run(model="mine", batch_size=8, norm="own"), prepared.read(data_folder)
    assert not found(norm="own").splittable
    assert LaneTrainer([run], data, CPU, images_at_once=2).state.network.micro_batch == 8
    own()
    run = a_run(model="mine", batch_size=8)
    assert found().splittable
    assert LaneTrainer([run], data, CPU, images_at_once=2).state.network.micro_batch == 2


NOT_IN_PARTS = {
    "the second half": {"middle": "return torch.cat([x[:2], x[2:] - x.mean(0)]) if self.training else x"},
    "a buffer": {"middle": "if self.training: self.seen.copy_(x.detach().mean(0).mean())\nreturn x",
                 "init": "self.register_buffer('seen', torch.zeros(()))"},
    "passes counted": {"middle": "if self.training: self.seen += 1\nreturn x",
                       "init": "self.register_buffer('seen', torch.zeros(()))"},
    "many": {"middle": "return x - x.mean(0) if self.training and len(x) > 99 else x"},
    "gradients": {"middle": "y = x * 1\nif y.requires_grad: y.register_hook(lambda g: g / g.norm())\nreturn y"},
    "fails in parts": {"middle": "if self.training: assert len(x) > 2\nreturn x"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "name"), zip(itertools.cycle(["none", "batch"]), NOT_IN_PARTS))
def test_what_a_part_of_a_mini_batch_does_not_know_of_the_others_is_compared_in_all(norm, name, own):
    own(**NOT_IN_PARTS[name])
    assert not found(norm=norm).splittable


@pytest.mark.slow
def test_the_fewest_examples_of_a_model(own, study, checked_here):
    own(middle="return self.c(x.mean((2, 3), keepdim=True))", init="self.c = nn.BatchNorm2d(8)")
    assert found(norm="own").min_batch_size == 2
    with pytest.raises(UserError, match=r"experiments.one.batch_sizes: 1 is not allowed; allowed: numbers from 2, the"):
        study(batch_sizes=[1, 2], norm="own")
