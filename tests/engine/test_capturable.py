"""Which steps a CUDA graph can capture, as it is known without a GPU."""

from pathlib import Path

import pytest
from helpers import a_run
from helpers.own_layers import (
    asked,
    counted_in_place,
    drawn_elsewhere,
    kept_in_a_cache,
    multiplied_elsewhere,
    of_chosen,
    replaced,
    train_alone,
    transposed,
)  # fmt: skip

from smallbatch import models
from smallbatch.core.files import files_digest
from smallbatch.training.engines import capturable


@pytest.mark.parametrize(
    ("passed", "reason"),
    [
        (counted_in_place, ""),
        (kept_in_a_cache, ""),
        (replaced, "it replaces model.seen by another tensor in its passes"),
        (transposed, "it replaces model.turns by another tensor in its passes"),
        (asked, "without the values of tensors it fails (RuntimeError: Tensor.item() cannot be called on meta"),
        (drawn_elsewhere, "it computes with tensors that are not where its images are"),
        (multiplied_elsewhere, "it computes with tensors that are not where its images are"),
        (of_chosen, "without the values of tensors it fails"),
    ],
)
@pytest.mark.parametrize("labels", [{}, {"augment_mixup": 0.4}, {"loss": "mse", "metrics": ("r2",)}])
def test_what_a_layer_does_in_a_pass_decides(passed, reason, labels, monkeypatch):
    train_alone(monkeypatch, passed)
    monkeypatch.setattr(models, "is_own", lambda model: True)
    capturable._why_not_own.cache_clear()
    found = capturable.why_not_capturable(a_run(**labels), (1, 8, 8), 10)
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_a_loss_and_an_optimiser_that_ask_for_values_are_not_captured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "def asks(logits, labels):\n    return logits.mean(1) if labels.sum() > 0 else logits[0]\n"
    Path("mine.py").write_text(text, encoding="utf-8")
    loss = {"loss_function": "mine.py:asks", "loss_content": files_digest(Path("mine.py"))}
    found = capturable.why_not_capturable(a_run(loss="mse", metrics=("r2",), **loss), (1, 8, 8), 10)
    assert found.startswith("without the values of tensors it fails")
    found = capturable.why_not_capturable(a_run(optimizer="torch:RMSprop"), (1, 8, 8), 10)
    assert found == "torch:RMSprop updates with numbers of the host"
    assert capturable.why_not_capturable(a_run(), (1, 8, 8), 10) == ""
