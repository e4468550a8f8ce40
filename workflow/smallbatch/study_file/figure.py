"""A figure of a study's file, checked against the experiments that it shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from smallbatch.core.errors import refuse
from smallbatch.study.experiments import Experiment, Setting
from smallbatch.study.metrics import ACCURACY
from smallbatch.study.rates import BaseLr, format_base_lr, parse_base_lr
from smallbatch.study.yaml_validation import refuse_unknown

Values = Mapping[str, Any]

_OF_A_METRIC = ("accuracy", "best", "bn-batch")
"""Kinds of figures whose metric is a setting."""

_NEEDED = {
    "variance": "variance_batch_sizes", "example-variance": "variance_batch_sizes", "bn-batch": "bn_batch_sizes"
}  # fmt: skip
"""Kind of figure -> the key that its experiments need."""


def figure_of(where: str, name: str, values: Values, experiments: Mapping[str, Experiment]) -> dict[str, Any]:
    """The values of a figure, as figures are drawn by.

    Args:
        where: the study's file.
        name: the figure's name.
        values: its values, checked against the schema.
        experiments: the study's experiments, by name.

    Raises:
        UserError: a value is not allowed beside the others, or beside the experiments.
    """
    key = f"figures.{name}"
    _check_title(where, f"{key}.title", values["title"])
    for experiment in values["experiments"]:
        refuse_unknown(where, f"{key}.experiments", experiment, list(experiments))
        _check_kind(where, key, values["kind"], experiments[experiment])
    values = _with_metric(where, key, values, [experiments[name].setting for name in values["experiments"]])
    if (values["kind"] == "convergence") != ("base_lr" in values):
        refuse(where, f"{key}.base_lr", values.get("base_lr"), "set for kind convergence, and only there")
    if "base_lr" not in values:
        return dict(values)
    for experiment in values["experiments"]:
        if not experiments[experiment].setting.epochs:
            allowed = "experiments trained for epochs with kind convergence, whose axis they are"
            refuse(where, f"{key}.experiments", experiment, allowed)
    rate = parse_base_lr(values["base_lr"])
    for experiment in values["experiments"]:
        _check_rate(where, f"{key}.base_lr", rate, experiments[experiment])
    return {**values, "base_lr": rate}


def _with_metric(where: str, key: str, values: Values, settings: Sequence[Setting]) -> Values:
    """The values of a figure, with the metric that it shows if that is not accuracy."""
    primary = {setting.primary_metric for setting in settings}
    if len(primary) > 1:
        refuse(
            where, f"{key}.experiments", values["experiments"], "experiments whose losses are for one kind of labels"
        )
    if "metric" in values and values["kind"] not in _OF_A_METRIC:
        refuse(where, f"{key}.metric", values["metric"], f"only with kind {', '.join(_OF_A_METRIC)}")
    metric = values.get("metric", *primary)
    recorded = [dict.fromkeys([setting.primary_metric, *setting.metrics]) for setting in settings]
    if lacking := [names for names in recorded if metric not in names]:
        known = ", ".join(lacking[0])
        refuse(where, f"{key}.metric", metric, f"what all its experiments record under `metrics`: {known}")
    without = {name: value for name, value in values.items() if name != "metric"}
    return without if metric == ACCURACY else without | {"metric": metric}


def _check_title(where: str, key: str, title: str) -> None:
    """Check that the font of figures has every character; ASCII needs no check, and so no matplotlib."""
    if title.isascii():
        return
    try:
        from smallbatch.figures.font import FONT, missing_glyphs
    except ImportError:  # where only trainings run; drawing reports it
        return
    if unknown := missing_glyphs(title):
        refuse(where, key, title, f"characters that the font of figures, {FONT}, has; it lacks {' '.join(unknown)}")


def _check_kind(where: str, key: str, kind: str, e: Experiment) -> None:
    values = {"variance_batch_sizes": e.setting.variance_batch_sizes, "bn_batch_sizes": e.bn_batch_sizes}
    needed = _NEEDED.get(kind)
    if needed and not values[needed]:
        refuse(where, f"{key}.experiments", e.name, f"for kind {kind} experiments with {needed}")


def _check_rate(where: str, key: str, rate: BaseLr, e: Experiment) -> None:
    if rate not in e.base_lrs:
        known = ", ".join(map(format_base_lr, e.base_lrs)) or "none, it takes the best of others"
        refuse(where, key, format_base_lr(rate), f"a rate of experiment {e.name}: {known}")
