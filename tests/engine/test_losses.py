"""Losses: what torch computes, alone and in lanes, and what is refused of one's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import a_run
from helpers.lanes import train
from torch.nn import functional as F

from smallbatch import data
from smallbatch.core.errors import UserError
from smallbatch.core.files import files_digest
from smallbatch.data import prepared
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Setting
from smallbatch.study.metrics import PRIMARY
from smallbatch.training import losses
from smallbatch.training.pack import train_pack
from smallbatch.training.trainer import LaneTrainer
from smallbatch.training.weights_evaluation import evaluate

CPU = torch.device("cpu")
HUBER = """
from torch.nn import functional as F

def loss(logits, targets):
    return F.huber_loss(logits, targets, reduction="none").mean(1)
"""
TORCH = {
    "binary": lambda logits, targets: F.binary_cross_entropy_with_logits(logits, targets),
    "mse": lambda logits, targets: F.mse_loss(logits, targets),
    "own": lambda logits, targets: F.huber_loss(logits, targets),
}


def own(path: Path, text: str, like: str = "mse") -> dict:
    """The settings of a loss of one's own."""
    path.write_text(text, encoding="utf-8")
    return {"loss": like, "loss_function": f"{path}:loss", "loss_content": files_digest(path)}


@pytest.fixture
def targets(tmp_path):
    """Images with two targets each, true or not or numbers, of which one is their brightness."""

    def made(kind: str):
        draws = np.random.default_rng(0)
        images = draws.integers(0, 256, (96, 8, 8, 1), dtype=np.uint8)
        images[:, :4] = images[:, :4] // 2 + draws.integers(0, 128, (96, 1, 1, 1), dtype=np.uint8)
        numbers = np.stack([images.mean((1, 2, 3)) / 20 - 5, draws.normal(size=96)], 1)
        np.savez(
            tmp_path / "mine.npz",
            images=images,
            labels=numbers > np.median(numbers, axis=0) if kind == "binary" else numbers,
        )
        settings = {"source": "arrays", "path": str(tmp_path / "mine.npz"), "test_fraction": 1 / 3}
        data.prepare("made", settings, tmp_path / "made", tmp_path)
        return prepared.read(tmp_path / "made")

    return made


@pytest.mark.parametrize("name", TORCH)
def test_updates_are_those_of_torch_in_lanes_too(name, targets, tmp_path):
    setting = own(tmp_path / "mine.py", HUBER) if name == "own" else {"loss": name}
    setting["metrics"] = ("balanced_accuracy",) if name == "binary" else ("r2",)
    made = targets(name)
    runs = [a_run(base_lr=2**-8, seed=seed, weight_decay=0.0, **setting) for seed in (1, 2)]
    training = LaneTrainer(runs, made, CPU)
    models = [training.initial_model(run.seed) for run in runs]
    plan = training.plan()
    images, labels = training.loader.batches(plan, 0, 3)
    found = training.train_block(plan, 3)
    for lane, model in enumerate(models):
        for step in range(3):
            expected = TORCH[name](model.train()(images[step, :, [lane]]), labels[step, :, lane])
            assert found[step, lane].item() == pytest.approx(expected.item(), rel=1e-4)
            model.zero_grad()
            expected.backward()
            with torch.no_grad():
                for weights in model.parameters():
                    weights -= runs[lane].learning_rate * weights.grad
        with torch.no_grad():
            logits = model.eval()(next(training.loader.test_batches(32))[0])
            tested = training.test_split(training.loader.test_batches)
        assert tested.losses[lane] == pytest.approx(
            TORCH[name](logits, torch.from_numpy(made.test.labels)).item(), rel=1e-4
        )


@pytest.mark.parametrize(("loss", "least"), [("binary", 0.6), ("mse", 0.3)])
def test_a_training_learns_what_can_be_learned(loss, least, targets, tmp_path):
    rate = 2**-11 if loss == "mse" else 2**-8
    run = a_run(base_lr=rate, epochs=12, loss=loss, metrics=(PRIMARY[loss],))
    made = targets(loss)
    outcome, _ = train([run], made, tmp_path)[run]
    # One of the two outputs can be told, of the other a half by chance.
    assert outcome.epochs[-1].test_accuracy > least and outcome.epochs[-1].train_loss < outcome.epochs[0].train_loss
    assert train_pack([run], tmp_path / "made", tmp_path / "results") == 1


def test_mixed_images_have_mixed_targets(targets):
    training = LaneTrainer([a_run(loss="mse", metrics=("r2",), augment_mixup=0.4)], targets("mse"), CPU)
    plan = training.plan()
    _, mixed = training.loader.batches(plan, 0, 1)
    plain = training.loader.train_labels[plan.order[0, :, 0]]
    kept = plan.kept[0, 0, 0]
    assert torch.allclose(mixed[0, :, 0], kept * plain + (1 - kept) * plain[plan.partners[0, :, 0]])


HEAD = "import torch\nfrom torch.nn import functional as F\n\nseen = []\n\ndef loss(logits, targets):\n    "
REFUSED = {
    "return (logits - targets).square().mean()": "it returns [] of 6 examples; allowed: [6], a loss of each",
    "return 0.0": "it returns float of 6 examples",
    "return ((logits - targets).square() / 0 * 0).mean(1)": "its losses are not finite, or without gradients",
    "return logits.detach().sum(1)": "its losses are not finite, or without gradients",
    "return (logits - logits.mean(0)).square().mean(1)": "the loss of an example depends on the others",
    "return logits.mean(1) + torch.rand(len(logits))": "the loss of an example depends on the others",
    "return logits[:, 5]": "it fails (IndexError: index 5 is out of bounds",
    "import no_such_module": "it fails (ModuleNotFoundError: No module",
    "seen.append(1); return logits.mean(1) * (1 + (len(seen) == 8))": "other losses the second time",
    "targets.clamp_(0.1, 0.9); return (logits - targets).square().mean(1)": "it changes the labels in place",
    "return (logits if logits.requires_grad else logits.sigmoid_()).mean(1)": "it changes the logits in place",
    "return logits.mean(1) if len(logits) < 9 else logits.mean().expand(600)": "of 600 examples, with gradients",
    "return logits.mean(1) * (1 + torch.is_grad_enabled())": "of 600 examples, without gradients",
    "return logits.round().mean(1)": "without gradients",
}


@pytest.mark.parametrize("text", REFUSED, ids=[*REFUSED.values()])
def test_a_loss_that_training_cannot_follow_is_refused_in_one_line(text, tmp_path):
    setting = Setting("made", "alexnet", 0.0, 1, metrics=("r2",), **own(tmp_path / "mine.py", HEAD + text))
    with pytest.raises(UserError) as caught:
        losses.check_own(setting, 3)
    message = str(caught.value)
    assert message.startswith(f"loss {tmp_path}/mine.py:loss: ") and REFUSED[text] in message and "\n" not in message


OUTSIDE = {
    "weights = torch.load('WEIGHTS')": "it reads WEIGHTS, which is no part of its runs' names; allowed: what its file",
    "weights = json.loads(Path('WEIGHTS').with_suffix('.json').read_text())": "it reads WEIGHTS.json, which is no part",
    "weights = float(os.environ.get('HOME', '') != '')": "it asks the system, by os.environ, HOME, which is no part",
    "torch.manual_seed(1); weights = 1": "it seeds torch's random numbers, by torch.random.manual_seed",
}
IMPORTS = "import json, os\nfrom pathlib import Path\n"


@pytest.mark.parametrize("place", ["in the function", "beside it"])
@pytest.mark.parametrize("text", OUTSIDE)
def test_a_loss_that_depends_on_what_its_runs_do_not_name_is_refused(text, place, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    torch.save(torch.ones(1), weights)
    weights.with_suffix(".json").write_text("1.0")
    line, returned = text.replace("WEIGHTS", str(weights)), "return (weights * (logits - targets).square()).mean(1)"
    made = f"{line}; {returned}" if place == "in the function" else returned
    source = IMPORTS + HEAD + made + ("" if place == "in the function" else f"\n\n{line}\n")
    monkeypatch.chdir(tmp_path)  # its path is relative to the project
    setting = Setting("made", "alexnet", 0.0, 1, metrics=("r2",), **own(Path("mine.py"), source))
    if "seed" in text and place == "beside it":
        losses.check_own(setting, 3)  # before a run draws anything
        return
    losses.loss_of(setting)  # what is loaded already is tried as well
    with pytest.raises(UserError) as caught:
        losses.check_own(setting, 3)
    assert str(caught.value).startswith(f"loss mine.py:loss: {OUTSIDE[text].replace('WEIGHTS', str(weights))}")


@pytest.mark.parametrize("like", ["cross_entropy", "binary", "mse"])
def test_a_loss_of_ones_own_is_tried_on_labels_of_its_kind(like, tmp_path):
    text = {
        "cross_entropy": "assert targets.ndim == 1; return F.cross_entropy(logits, targets, reduction='none')",
        "binary": "assert set(targets.flatten().tolist()) <= {0, 1}; return (logits - targets).square().mean(1)",
        "mse": "assert len(targets.unique()) > 2 and (targets > 0).all(); return (logits - targets).square().mean(1)",
    }[like]
    losses.check_own(Setting("made", "alexnet", 0.0, 1, **own(tmp_path / "mine.py", HEAD + text, like)), 3)


def test_a_loss_is_tried_with_the_outputs_of_the_data(tmp_path):
    text = "return F.cross_entropy(logits, targets, weight=torch.arange(7.0) + 1, reduction='none')"
    setting = Setting("made", "alexnet", 0.0, 1, **own(tmp_path / "mine.py", HEAD + text, "cross_entropy"))
    losses.check_own(setting, 7)
    with pytest.raises(UserError, match="it fails"):
        losses.check_own(setting, 10)


def test_a_loss_of_classes_is_tried_on_targets_where_images_are_mixed(tmp_path):
    text = "return -logits.log_softmax(1).gather(1, targets[:, None])[:, 0]"
    recipe = own(tmp_path / "mine.py", HEAD + text, "cross_entropy")
    losses.check_own(Setting("made", "alexnet", 0.0, 1, **recipe), 3)
    with pytest.raises(UserError, match=r"mine.py:loss: it fails \(RuntimeError: gather"):
        losses.check_own(Setting("made", "alexnet", 0.0, 1, augment_mixup=0.4, **recipe), 3)


def test_numbers_that_are_the_same_on_all_held_out_images_are_refused(targets):
    made = targets("mse")
    made.train.labels[:, 1] = 0.5
    with pytest.raises(UserError, match=r"selection: 'validation' is not allowed; allowed: test: output 1 is the same"):
        LaneTrainer([a_run(loss="mse", metrics=("r2",), selection="validation")], made, CPU)


@pytest.mark.parametrize("loss", ["binary", "mse"])
def test_kept_weights_are_evaluated(loss, targets, tmp_path, monkeypatch):
    targets(loss)
    monkeypatch.chdir(tmp_path)
    runs = [a_run(base_lr=2**-12, seed=seed, loss=loss, metrics=(PRIMARY[loss],)) for seed in (1, 2, 3)]
    train_pack(runs, tmp_path / "made", tmp_path / "results", keep_weights="all", device="cpu")
    store, fingerprint = RunStore(tmp_path / "results"), prepared.read(tmp_path / "made").meta.fingerprint
    for run in runs:
        record = store.find(run, fingerprint)
        found = evaluate(store, record, tmp_path, CPU)
        assert found.accuracy == pytest.approx(record.outcome.epochs[-1].test_accuracy, abs=1e-5)


def test_a_loss_that_changed_since_the_study_was_read_trains_nothing(tmp_path):
    setting = Setting("made", "alexnet", 0.0, 1, **own(tmp_path / "mine.py", HUBER))
    (tmp_path / "mine.py").write_text(HUBER + "\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"mine.py: is not the file that the run was planned with; allowed: that, of content"
    ):
        losses.loss_of(setting)


def test_losses_and_metrics_are_part_of_a_runs_name(tmp_path):
    plain = a_run()
    others = [a_run(loss="mse"), a_run(metrics=("f1",)), a_run(**own(tmp_path / "a.py", HUBER))]
    others.append(a_run(**own(tmp_path / "b.py", HUBER + "# edited")))
    assert len({run.name("f") for run in [plain, *others]}) == 5
    assert a_run(loss="cross_entropy", metrics=()).name("f") == plain.name("f")
