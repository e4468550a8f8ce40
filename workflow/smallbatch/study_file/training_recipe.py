"""The training recipe of an experiment in a study's file: optimiser, loss, metrics and schedule."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from smallbatch import models
from smallbatch.core.errors import refuse
from smallbatch.core.files import files_digest
from smallbatch.study.experiments import DEFAULT_BETAS, MIXING, OF_TORCH, Setting
from smallbatch.study.metrics import ACCURACY, CROSS_ENTROPY, METRICS, PRIMARY
from smallbatch.study.user_function_checks import check_function, check_in_project

Values = Mapping[str, Any]


def check_training_recipe(where: str, key: str, values: Values) -> None:
    """Refuse settings of the training recipe that belong to another optimiser, loss or schedule.

    Args:
        where: the study's file.
        key: the experiment's.
        values: its values.
    """
    _check_optimizer(where, key, values)
    _check_mixing(where, key, values)
    if "variance_batch_sizes" in values:
        _check_update_is_gradient(where, key, values)
    _check_loss(where, key, values)
    _check_schedule(where, key, values)


def training_recipe(where: str, key: str, values: Values) -> dict[str, Any]:
    """The fields of a setting that the training recipe decides; arguments as of `check_training_recipe`."""
    return {**_schedule(where, key, values), **_optimizer(where, key, values), **_loss(values)}


def _check_optimizer(where: str, key: str, values: Values) -> None:
    """Refuse settings that belong to another optimiser."""
    optimizer, momentum = values.get("optimizer", "sgd"), values.get("momentum")
    if optimizer in DEFAULT_BETAS and momentum:
        refuse(where, f"{key}.momentum", momentum, f"0, or sgd or nesterov in place of optimizer: {optimizer}")
    if optimizer.startswith(OF_TORCH):
        for name in ("momentum", "betas", "eps"):
            if values.get(name):
                refuse(where, f"{key}.{name}", values[name], "arguments of the optimiser: torch:NAME(argument=value)")
        try:
            models.arguments(optimizer)
        except ValueError as error:
            refuse(where, f"{key}.optimizer", optimizer, str(error))
    if optimizer == "nesterov" and not momentum:
        refuse(where, f"{key}.momentum", momentum, "a number above 0 with optimizer: nesterov")
    if values.get("momentum_scaled") and not momentum:
        refuse(where, f"{key}.momentum_scaled", True, "only with a momentum above 0")
    if "betas" in values and optimizer not in DEFAULT_BETAS:
        refuse(where, f"{key}.betas", values["betas"], f"only with optimizer: {', '.join(DEFAULT_BETAS)}")
    if "eps" in values and optimizer not in ("adam", "adamw"):
        refuse(where, f"{key}.eps", values["eps"], "only with optimizer: adam, adamw")


def _check_mixing(where: str, key: str, values: Values) -> None:
    """Refuse two ways of mixing images, and mixing where an image has no other."""
    used = [name for name in MIXING if values.get("augment", {}).get(name)]
    if len(used) > 1:
        refuse(where, f"{key}.augment.{used[1]}", values["augment"][used[1]], f"0 with {used[0]}: one of the two")
    if used and 1 in values["batch_sizes"]:
        allowed = f"numbers from 2 with {used[0]}, which mixes the images of a mini-batch with each other"
        refuse(where, f"{key}.batch_sizes", 1, allowed)
    if used and "variance_batch_sizes" in values:
        allowed = "0 with variance_batch_sizes, which cuts the same examples into mini-batches of each size"
        refuse(where, f"{key}.augment.{used[0]}", values["augment"][used[0]], allowed)


def _check_update_is_gradient(where: str, key: str, values: Values) -> None:
    """Refuse optimisers and clipping with which updates are not gradients times the rate, as their variance assumes."""
    others = {
        "optimizer": values.get("optimizer", "sgd") not in ("sgd", "nesterov"),
        "clip_norm": "clip_norm" in values,
    }
    for name, is_another in others.items():
        if is_another:
            allowed = "none with variance_batch_sizes, which takes an update for a gradient times the rate"
            refuse(where, f"{key}.{name}", values[name], allowed)


def _optimizer(where: str, key: str, values: Values) -> dict[str, Any]:
    """The optimiser's settings."""
    optimizer = values.get("optimizer", "sgd")
    named = {"optimizer": models.canonical(optimizer)} if optimizer.startswith(OF_TORCH) else {}
    betas = values.get("betas", DEFAULT_BETAS.get(optimizer, ()))
    numbers = ("momentum", "eps", "clip_norm", "label_smoothing")
    return {
        **{name: float(values[name]) + 0.0 for name in numbers if name in values},  # so that -0.0 is 0.0
        **named,
        "betas": tuple(float(beta) + 0.0 for beta in betas),
        "weight_decay_excludes": tuple(sorted(values.get("weight_decay_excludes", ()))),
    }


def _check_loss(where: str, key: str, values: Values) -> None:
    """Check that a loss of the user's own can be called, and that metrics and smoothing suit the loss."""
    given = values.get("loss")
    if isinstance(given, Mapping):
        check_in_project(where, f"{key}.loss.file", given["file"])
        allowed = "a function of 2 arguments, logits and labels"
        check_function(where, (f"{key}.loss.file", f"{key}.loss.name"), given["file"], given["name"], 2, allowed)
    loss = _loss(values)["loss"]
    for metric in values.get("metrics", ()):
        if loss not in METRICS[metric].chance:
            known = ", ".join(name for name, one in METRICS.items() if loss in one.chance)
            refuse(where, f"{key}.metrics", metric, f"with loss {loss}: {known}")
    if given not in (None, CROSS_ENTROPY) and values.get("label_smoothing"):
        refuse(where, f"{key}.label_smoothing", values["label_smoothing"], "0 with another loss than cross_entropy")


def _loss(values: Values) -> dict[str, Any]:
    """The settings of the loss. The primary metric is always recorded."""
    given = values.get("loss", CROSS_ENTROPY)
    own = isinstance(given, Mapping)
    loss = given["like"] if own else given
    primary = [PRIMARY[loss]] if PRIMARY[loss] != ACCURACY else []
    settings = {"loss": loss, "metrics": tuple(sorted({*primary, *values.get("metrics", ())}))}
    if own:
        settings |= {
            "loss_function": f"{given['file']}:{given['name']}",
            "loss_content": files_digest(Path(given["file"])),
        }
    return settings


def _check_schedule(where: str, key: str, values: Values) -> None:
    """Refuse settings that belong to another schedule, or to a warm-up where there is none."""
    schedule = values.get("lr_schedule", "drops")
    for name in ("lr_drops", "lr_drop_factor"):
        if name in values and schedule != "drops":
            refuse(where, f"{key}.{name}", values[name], f"only with lr_schedule: drops, and that is {schedule}")
    if schedule == "one-cycle" and values.get("warmup"):
        refuse(where, f"{key}.warmup", True, "false with lr_schedule: one-cycle, which rises by itself")
    for name in ("warmup_fraction", "warmup_start"):
        if name in values and not values.get("warmup"):
            refuse(where, f"{key}.{name}", values[name], "only with warmup: true")


def _schedule(where: str, key: str, values: Values) -> dict[str, Any]:
    """The schedule's settings; a constant rate is one that never drops."""
    schedule = values.get("lr_schedule", "drops")
    drops = tuple(float(Fraction(str(drop))) for drop in values.get("lr_drops", (0.5, 0.75)))
    if list(drops) != sorted(set(drops)) or not all(0 < drop < 1 for drop in drops):
        refuse(where, f"{key}.lr_drops", values["lr_drops"], "rising fractions of training between 0 and 1")
    numbers = ("lr_drop_factor", "warmup_fraction", "warmup_start")
    given = {name: float(values[name]) + 0.0 for name in numbers if name in values}  # so that -0.0 is 0.0
    if not drops:
        given["lr_drop_factor"] = Setting.lr_drop_factor  # unused without drops
    return {
        **given,
        "lr_schedule": "drops" if schedule == "constant" else schedule,
        "lr_drops": drops if schedule == "drops" else (),
    }
