"""The state of a training as a checkpoint holds it: a nest of dicts and lists of tensors, numbers and text."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from smallbatch.runs.store import Epoch, Variance

State = dict[str, Any]
"""As `LaneState.state_dict` gives it; before the first update it has the settings of its `runs` alone. One that is read
may be anything."""

T = TypeVar("T")


def state_of_lanes(state: State, lanes: Sequence[int]) -> State:
    """The state of only these lanes: they go on from where all were.

    Args:
        state: of a training, which may not have begun.
        lanes: their indices.
    """

    def selected(values: Sequence[T]) -> list[T]:
        return [values[lane] for lane in lanes]

    if "model" not in state:
        return {"runs": selected(state["runs"])}
    lists = {key: selected(state[key]) for key in ("runs", "history", "variance", "seconds")}
    model = {name: tensor[list(lanes)].clone() for name, tensor in state["model"].items()}
    velocity = [tensor[list(lanes)].clone() for tensor in state["velocity"]]
    tensors = {"model": model, "velocity": velocity, "loss_sum": state["loss_sum"][list(lanes)]}
    return state | lists | tensors | {"lanes": len(lanes)}


def misfit_of(state: State, start: State, epochs: int, steps: int) -> str | None:
    """Why a training cannot go on from a state, asked before it is touched; None where it can.

    A checkpoint can be whole and not fit: of an own model that was changed since, or of another version of the code.

    Args:
        state: that a checkpoint had.
        start: of the training of its runs, at its beginning.
        epochs: of the training.
        steps: of an epoch.
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
    of_lanes = [len(state[key]) for key in ("history", "variance", "seconds")]
    widths = {len(row) for lane in state["history"] for row in lane} <= {len(Epoch._fields)} and (
        {len(row) for lane in state["variance"] for row in lane} <= {len(Variance._fields)}
    )
    texts = all(isinstance(text, str) for one in state["environments"] for pair in one.items() for text in pair)
    return (
        integers
        and texts
        and of_lanes == [lanes] * 3
        and all(len(lane) == state["epoch"] for lane in state["history"])
        and widths
        and 0 <= state["epoch"] <= epochs
        and 0 <= state["step"] <= steps
        and state["part"] > 0
        and state["lanes"] >= lanes
    )


def _form(values: Any) -> object:
    """Names, shapes and types of a nest of tensors."""
    if isinstance(values, torch.Tensor):
        return tuple(values.shape), values.dtype
    if isinstance(values, dict):
        return {name: _form(value) for name, value in values.items()}
    return [_form(value) for value in values]
