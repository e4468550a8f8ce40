"""The length of a training in updates or in images: exact at each batch size, the last epoch ends early."""

from dataclasses import replace

import pytest
import torch
from helpers import a_run
from helpers.lanes import train

from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.runs.store import RunStore
from smallbatch.training.pack import train_pack
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
CONSTANT = {"epochs": 0, "lr_drops": (), "base_lr": 2**-10}


@pytest.fixture
def data(data_folder):
    """64 training images: 16 updates an epoch at m = 4."""
    return prepared.read(data_folder)


@pytest.mark.parametrize(
    ("budget", "m", "updates", "epochs"),
    [
        ({"steps": 21}, 4, 21, 2), ({"steps": 32}, 4, 32, 2), ({"steps": 5}, 4, 5, 1), ({"steps": 21}, 16, 21, 6),
        ({"images": 87}, 4, 21, 2), ({"images": 87}, 16, 5, 2), ({"images": 64}, 64, 1, 1),
    ],
)  # fmt: skip
def test_as_many_updates_are_made_as_are_said(budget, m, updates, epochs, data, tmp_path, either_way):
    run = a_run(batch_size=m, **CONSTANT, **budget)
    outcome, _ = train([run], data, tmp_path)[run]
    assert outcome.images == updates * m and len(outcome.epochs) == epochs
    assert (run.setting.updates(m, 64 // m), run.setting.images_and_epochs(m, 64)) == (updates, (updates * m, epochs))


def test_its_updates_are_those_of_whole_epochs_and_its_last_losses_their_mean(data, tmp_path):
    run, whole = a_run(**CONSTANT, steps=21), a_run(**CONSTANT | {"epochs": 2})
    outcome, _ = train([run], data, tmp_path)[run]
    training = LaneTrainer([whole], data, CPU)
    losses = []
    for epoch, steps in enumerate((16, 5)):
        training.state.epoch, training.state.step = epoch, 0
        plan, of_epoch = training.plan(), []
        for step in range(steps):
            of_epoch.append(training.train_block(plan, step + 1)[0, 0].item())
            training.state.step += 1
        losses.append(sum(of_epoch) / steps)
    assert [epoch.train_loss for epoch in outcome.epochs] == pytest.approx(losses, rel=1e-4)
    tested = LaneTrainer([whole], data, CPU).test({k: v[0] for k, v in training.state.model.state_dict().items()})
    assert outcome.epochs[-1].test_loss == pytest.approx(tested.losses[0], rel=1e-3)


def test_schedules_are_over_the_updates(data, tmp_path):
    run = a_run(epochs=0, steps=40, warmup=True, warmup_fraction=0.1)
    training = LaneTrainer([run], data, CPU)
    assert [training.schedule(step) for step in (3, 4, 19, 20, 29, 30)] == pytest.approx(
        [1 / 32 + 31 / 32 * 3 / 4, 1, 1, 0.1, 0.1, 0.01]
    )
    outcome, _ = train([run], data, tmp_path)[run]
    rates = [epoch.learning_rate / run.learning_rate for epoch in outcome.epochs]  # at updates 16, 32 and 40
    assert rates == pytest.approx([1, 0.01, 0.01])


def test_one_that_is_interrupted_in_its_last_epoch_ends_as_if_it_were_not(data, tmp_path):
    run = a_run(**CONSTANT, steps=21)
    whole, _ = train([run], data, tmp_path)[run]
    stopped = LaneTrainer([run], data, CPU)
    for epoch, steps in enumerate((16, 3)):
        stopped.state.epoch, stopped.state.step = epoch, 0
        losses = stopped.train_block(stopped.plan(), steps)
        stopped.state.add_losses(losses)
        if not epoch:
            stopped._end_epoch(print)
    saved = stopped.state.state_dict()
    resumed = LaneTrainer([run], data, CPU)
    assert resumed.state.why_incompatible(saved) is None and resumed.state.why_incompatible(saved | {"epoch": 3})
    resumed.restore(saved)
    assert (resumed.epoch_end, resumed.state.steps_done) == (5, 19)
    resumed.state.add_losses(resumed.train_block(resumed.plan(), resumed.block_end()))
    resumed._end_epoch(print)
    assert resumed.state.steps_done == 21 and resumed.state.outcome(0, None).images == 84
    for ours, theirs in zip(resumed.state.history[0], whole.epochs, strict=True):
        assert ours[:5] == pytest.approx(theirs[:5])


def test_a_stored_run_is_as_long_as_it_says(data, data_folder, tmp_path):
    run = a_run(**CONSTANT, steps=21)
    train_pack([run, a_run(**CONSTANT, images=100, seed=2)], data_folder, tmp_path)
    store, fingerprint = RunStore(tmp_path), data.meta.fingerprint
    outcome = store.find(run, fingerprint).outcome
    assert outcome.images == 84 and len(outcome.epochs) == 2
    for wrong in (replace(outcome, images=80), replace(outcome, epochs=[])):
        with pytest.raises(UserError, match="images of 84"):
            store.write(run, fingerprint, wrong, {}, None)
