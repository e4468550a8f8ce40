"""Metrics of test answers: against scikit-learn, by hand, and as the runs of a training record them."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import a_run
from helpers.lanes import train
from sklearn import metrics as sk
from torch.nn import functional as F

from smallbatch.data import prepared
from smallbatch.study.experiments import Setting
from smallbatch.study.metrics import METRICS, PRIMARY
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.metrics import MetricSums, Scores
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")
IMAGES, LANES, CLASSES = 400, 3, 7


def setting(loss: str, *names: str) -> Setting:
    primary = {PRIMARY[loss]} - {"accuracy"}  # which the file of a study need not name
    return Setting("made", "alexnet", 0.0, 1, loss=loss, metrics=tuple(sorted({*primary, *names})))


def answers(classes: int = CLASSES) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of lanes that know more and more, of classes of which some are rare, and the labels."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (IMAGES,), generator=draws) * torch.randint(2, (IMAGES,), generator=draws)
    logits = torch.randn(IMAGES, LANES, classes, generator=draws)
    logits[torch.arange(IMAGES), :, labels] += torch.arange(LANES)
    return logits, labels


def scores(of: Setting, logits: torch.Tensor, labels: torch.Tensor, size: int = 64) -> Scores:
    metric_sums = MetricSums(of, logits.shape[1], logits.shape[2], CPU)
    for part in torch.arange(len(logits)).split(size):
        metric_sums.add(logits[part], labels[part], part)
    return metric_sums.scores(lambda sums: sums)


def values(found: Scores, name: str) -> list[float]:
    return [measured.value for measured in found.metrics[name]]


EXPECTED = {
    "top5": lambda logits, labels: sk.top_k_accuracy_score(labels, logits, k=5, labels=np.arange(CLASSES)),
    "balanced_accuracy": lambda logits, labels: sk.balanced_accuracy_score(labels, logits.argmax(1)),
    "f1": lambda logits, labels: sk.f1_score(labels, logits.argmax(1), average="macro"),
    "likelihood": lambda logits, labels: math.exp(-sk.log_loss(labels, logits.softmax(1), labels=np.arange(CLASSES))),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_metrics_of_classes_are_those_of_scikit_learn(name):
    logits, labels = answers()
    expected = [EXPECTED[name](logits[:, lane].double(), labels) for lane in range(LANES)]
    assert values(scores(setting("cross_entropy", name), logits, labels), name) == pytest.approx(expected, rel=1e-9)


def test_the_calibration_by_hand():
    # Of 15 bins: two answers of confidence 0.5 (the 8th), of which one is right, and two of 0.9 (the 14th), both right.
    confidences = torch.tensor([0.5001, 0.5001, 0.9, 0.9], dtype=torch.float64)
    logits = torch.stack([confidences, 1 - confidences], 1).log()[:, None]
    labels = torch.tensor([0, 1, 0, 0])
    # The first bin is 0.0001 off, the second 0.1, half of the images each.
    found = scores(setting("cross_entropy", "calibration"), logits, labels)
    assert values(found, "calibration") == pytest.approx([1 - (0.0001 + 0.1) / 2])


def test_loss_and_accuracy_are_as_ever():
    logits, labels = answers()
    found = scores(setting("cross_entropy"), logits, labels)
    for lane in range(LANES):
        assert found.accuracies[lane] == pytest.approx((logits[:, lane].argmax(1) == labels).double().mean().item())
        assert found.losses[lane] == pytest.approx(F.cross_entropy(logits[:, lane], labels).item(), rel=1e-6)
    assert found.metrics == {}


def test_metrics_of_several_outputs_are_those_of_scikit_learn():
    logits, _ = answers(4)
    targets = (logits[:, 1] + torch.randn(IMAGES, 4, generator=torch.Generator().manual_seed(1)) > 1).float()
    found = scores(setting("binary", "f1", "balanced_accuracy", "hamming", "likelihood"), logits, targets)
    for lane in range(LANES):
        guesses = logits[:, lane] > 0
        balanced = [sk.balanced_accuracy_score(targets[:, one], guesses[:, one]) for one in range(4)]
        loss = F.binary_cross_entropy_with_logits(logits[:, lane], targets).item()
        assert found.accuracies[lane] == values(found, "balanced_accuracy")[lane]
        assert values(found, "hamming")[lane] == pytest.approx(1 - sk.hamming_loss(targets, guesses))
        assert found.losses[lane] == pytest.approx(loss, rel=1e-6)
        assert values(found, "f1")[lane] == pytest.approx(sk.f1_score(targets, guesses, average="macro"))
        assert values(found, "balanced_accuracy")[lane] == pytest.approx(np.mean(balanced))
        assert values(found, "likelihood")[lane] == pytest.approx(math.exp(-loss), rel=1e-5)


def test_where_most_outputs_are_0_an_answer_of_0_is_no_better_than_chance():
    targets = torch.zeros(IMAGES, 3)
    targets[::20] = 1
    found = scores(setting("binary", "balanced_accuracy", "hamming"), -torch.ones(IMAGES, 1, 3), targets)
    assert (found.accuracies, values(found, "hamming")) == ([0.5], [pytest.approx(0.95)])


def test_r2_is_that_of_scikit_learn_and_zero_where_it_is_below():
    logits, _ = answers(2)
    targets = 100 + logits[:, 0] * torch.tensor([1.0, 30.0])
    offsets = torch.tensor([[0.0, 0.0], [0.5, 9.0], [5.0, 100.0]])
    predicted = targets[:, None] + offsets
    found = scores(setting("mse", "r2"), predicted, targets)
    expected = [sk.r2_score(targets, predicted[:, lane]) for lane in range(LANES)]
    assert expected[2] < 0 < expected[1] < 1
    assert values(found, "r2") == pytest.approx([1, expected[1], 0], abs=1e-6) and found.accuracies == values(
        found, "r2"
    )
    assert found.losses == pytest.approx((offsets**2).mean(1).tolist(), rel=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_of_a_lane_that_has_diverged_nothing_is_explained(value):
    found = scores(setting("mse", "r2"), torch.full((IMAGES, 2, 1), value), torch.arange(IMAGES)[:, None] / 9)
    assert found.accuracies == [0, 0] and not any(map(math.isfinite, found.losses))


@pytest.mark.parametrize(("loss", "name"), [(loss, name) for name, one in METRICS.items() for loss in one.chance])
def test_errors_are_what_other_samples_of_images_would_do(loss, name):
    """As often as samples of this size are drawn, the errors agree with how much the values differ."""
    draws, found = torch.Generator().manual_seed(2), []
    for _ in range(200):
        logits = torch.randn(IMAGES, 1, CLASSES, generator=draws)
        labels = torch.randint(CLASSES, (IMAGES,), generator=draws)
        targets = (logits[:, 0] + torch.randn(IMAGES, CLASSES, generator=draws)) * 3
        labels = {"cross_entropy": labels, "binary": (targets > 2).float(), "mse": targets}[loss]
        if loss == "cross_entropy":
            logits[torch.arange(IMAGES), 0, labels] += 1
        found += scores(setting(loss, name), logits, labels).metrics[name]
    spread = np.std([measured.value for measured in found])
    ratio = np.sqrt(np.mean([measured.error**2 for measured in found])) / spread
    assert 0.8 < ratio < (1.6 if name == "calibration" else 1.25)  # not smooth: too large, never too small


@pytest.mark.parametrize("name", ["f1", "top5"])
def test_errors_do_not_depend_on_the_order_of_images(name):
    """Classes that come in turn are in all parts that are left out."""
    draws = torch.Generator().manual_seed(3)
    labels = torch.arange(1000) % 20
    logits = torch.randn(1000, 1, 20, generator=draws)
    logits[torch.arange(1000), 0, labels] += 2
    mixed = torch.randperm(1000, generator=draws)
    [in_turn], [shuffled] = (
        scores(setting("cross_entropy", name), logits[order], labels[order]).metrics[name]
        for order in (torch.arange(1000), mixed)
    )
    assert in_turn.value == pytest.approx(shuffled.value) and in_turn.error == pytest.approx(shuffled.error, rel=0.6)


@pytest.mark.parametrize("name", ["f1", "calibration", "top5"])
def test_scores_do_not_depend_on_how_a_split_is_divided(name):
    logits, labels = answers()
    whole = scores(setting("cross_entropy", name), logits, labels)
    assert scores(setting("cross_entropy", name), logits, labels, 7).metrics[name] == [
        pytest.approx(measured, rel=1e-12) for measured in whole.metrics[name]
    ]
    parts = [MetricSums(setting("cross_entropy", name), LANES, CLASSES, CPU) for _ in range(3)]
    for rank, metric_sums in enumerate(parts):  # as processes share it
        numbers = torch.arange(rank, IMAGES, 3)
        metric_sums.add(logits[numbers], labels[numbers], numbers)
    summed = parts[0].scores(lambda sums: total(parts, sums))
    assert summed.metrics[name] == [pytest.approx(measured, rel=1e-12) for measured in whole.metrics[name]]


def total(parts: list[MetricSums], sums: torch.Tensor) -> torch.Tensor:
    """What all processes have together of the sums that the first one asks for."""
    owned = [
        [metric_sums.loss_sum, metric_sums.correct, metric_sums.count, *metric_sums.sums.values()]
        for metric_sums in parts
    ]
    index = next(index for index, own in enumerate(owned[0]) if own is sums)
    return torch.stack([own[index] for own in owned]).sum(0)


def test_each_metric_can_be_computed_with_the_losses_that_it_is_for():
    for (name, metric), loss in itertools.product(METRICS.items(), PRIMARY):
        if loss in metric.chance:
            assert 0 <= metric.chance[loss](CLASSES) <= 1
            assert name in MetricSums(setting(loss, name), 1, CLASSES, CPU).sums
        else:
            with pytest.raises(KeyError):
                MetricSums(setting(loss, name), 1, CLASSES, CPU)


def test_a_run_records_its_metrics_of_each_epoch_in_company_and_alone(data_folder, tmp_path):
    names = ("balanced_accuracy", "calibration", "f1", "likelihood", "top5")
    data = prepared.read(data_folder)
    runs = [a_run(metrics=names, seed=seed, selection="validation") for seed in (1, 2)]
    together = {run: outcome for run, (outcome, _) in train(runs, data, tmp_path).items()}
    for outcome in together.values():
        assert [(score.epoch, score.metric) for score in outcome.scores] == [*itertools.product((1, 2), names)]
        assert all(0 <= score.validation <= 1 and score.validation_error >= 0 for score in outcome.scores)
        likelihood = [score.test for score in outcome.scores if score.metric == "likelihood"]
        assert likelihood == pytest.approx([math.exp(-epoch.test_loss) for epoch in outcome.epochs], rel=1e-6)
    alone, _ = train(runs[:1], data, tmp_path)[runs[0]]
    assert [score.test for score in alone.scores] == pytest.approx(
        [score.test for score in together[runs[0]].scores], abs=1e-3
    )
    [(plain, _)] = train([a_run(seed=1, selection="validation")], data, tmp_path).values()
    assert plain.epochs == alone.epochs, "metrics change no number"


def test_a_resumed_run_has_the_scores_of_one_that_was_not_interrupted(data_folder, tmp_path):
    data, run = prepared.read(data_folder), a_run(metrics=("f1",))
    whole, _ = train([run], data, tmp_path)[run]
    first = LaneTrainer([run], data, CPU)
    first.state.add_losses(first.train_block(first.plan(), first.epoch_end))
    first._end_epoch(print)
    resumed = LaneTrainer([run], data, CPU)
    assert resumed.state.why_incompatible(first.state.state_dict()) is None
    resumed.restore(first.state.state_dict())
    assert resumed.state.scores[0] == whole.scores[:1]
    resumed.state.add_losses(resumed.train_block(resumed.plan(), resumed.epoch_end))
    resumed._end_epoch(print)
    assert resumed.state.outcome(0, None).scores == whole.scores


def test_a_checkpoint_of_a_version_without_scores_is_continued(data_folder, tmp_path):
    training = LaneTrainer([a_run()], prepared.read(data_folder), CPU)
    checkpoint = Checkpoint(tmp_path / "c.pt")
    checkpoint.save({key: value for key, value in training.state.state_dict().items() if key != "scores"})
    assert training.state.why_incompatible(checkpoint.read()) is None
