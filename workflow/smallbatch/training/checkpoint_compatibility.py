"""The state of a training as stored in a checkpoint: nested dicts and lists of tensors, numbers and text."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from smallbatch.runs.records import Epoch, Score, Variance

State = dict[str, Any]
"""As from `LaneState.state_dict`; before the first update, only the settings of its `runs`. A state read from a file
may be anything."""

T = TypeVar("T")


def select_lanes(state: State, lanes: Sequence[int]) -> State:
    """The state of only these lanes, which continue from where all lanes were.

    Args:
        state: state of a training, which may not have begun.
        lanes: indices of the lanes.
    """

    def selected(values: Sequence[T]) -> list[T]:
        return [values[lane] for lane in lanes]

    if "model" not in state:
        return {"runs": selected(state["runs"])}
    lists = {key: selected(state[key]) for key in ("runs", "history", "variance", "scores", "seconds")}
    model = {name: tensor[list(lanes)].clone() for name, tensor in state["model"].items()}
    velocity = [tensor[list(lanes)].clone() for tensor in state["velocity"]]
    tensors = {"model": model, "velocity": velocity, "loss_sum": state["loss_sum"][list(lanes)]}
    return state | lists | tensors | {"lanes": len(lanes)}


def why_incompatible(state: State, start: State, epochs: int, steps: int) -> str | None:
    """The reason why a training cannot continue from a state, without changing the training; None if it can.

    A checkpoint can be undamaged and not fit: from a user's model that has changed since, or from another code version.

    Args:
        state: state from the checkpoint.
        start: initial state of a training of its runs.
        epochs: epochs of the training.
        steps: steps of an epoch.
    """
    try:
        if state.keys() != start.keys():
            return f"it lacks or adds {', '.join(sorted(state.keys() ^ start.keys()))}"
        for key in ("model", "velocity", "loss_sum"):
            if _form(state[key]) != _form(start[key]):
                return f"its {key} is of other tensors than this training's"
        if not _counts_fit(state, len(start["runs"]), epochs, steps):
            return "its counts do not fit one another"
    except (TypeError, AttributeError, RecursionError) as error:
        return f"it is of other kinds of values ({error})"
    return None


def _counts_fit(state: State, lanes: int, epochs: int, steps: int) -> bool:
    integers = all(type(state[key]) is int for key in ("epoch", "step", "lanes", "part"))
    of_lanes = [len(state[key]) for key in ("history", "variance", "scores", "seconds")]
    fields = {"history": len(Epoch._fields), "variance": len(Variance._fields), "scores": len(Score._fields)}
    widths = all(len(row) == count for key, count in fields.items() for lane in state[key] for row in lane)
    texts = all(isinstance(text, str) for one in state["environments"] for pair in one.items() for text in pair)
    return (
        integers
        and texts
        and of_lanes == [lanes] * 4
        and all(len(lane) == state["epoch"] for lane in state["history"])
        and widths
        and 0 <= state["epoch"] <= epochs
        and 0 <= state["step"] <= steps
        and state["part"] > 0
        and state["lanes"] >= lanes
    )


def _form(values: Any) -> object:
    """Names, shapes and types of nested tensors."""
    if isinstance(values, torch.Tensor):
        return tuple(values.shape), values.dtype
    if isinstance(values, dict):
        return {name: _form(value) for name, value in values.items()}
    return [_form(value) for value in values]
