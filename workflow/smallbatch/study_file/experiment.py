"""An experiment of a study's file: its values checked, and made into a setting and a grid."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from smallbatch import data, models
from smallbatch.core.errors import UserError, refuse
from smallbatch.study.experiments import BUDGETS, COLOURS, MIXING, Experiment, Setting
from smallbatch.study.rates import BaseLr, format_base_lr, parse_base_lr
from smallbatch.study.yaml_validation import refuse_unknown
from smallbatch.study_file.training_recipe import check_training_recipe, training_recipe

MIN_RATE, MAX_RATE = 2.0**-100, 2.0**100
"""Bounds of base learning rates: within single precision, with room for batch sizes and drops."""

Values = Mapping[str, Any]


def experiment_of(where: str, name: str, values: Values, datasets: Values) -> Experiment:
    """The experiment that the values under its name describe.

    Args:
        where: the study's file.
        name: its name.
        values: its values, checked against the schema, with `seeds`.
        datasets: the data sets of the configuration.

    Raises:
        UserError: a value is not allowed beside the others; names file, key, value and what is allowed.
    """
    key = f"experiments.{name}"
    refuse_unknown(where, f"{key}.data", values["data"], list(datasets))
    _check_model(where, f"{key}.model", values["model"])
    batch_sizes, b_sizes = tuple(values["batch_sizes"]), values.get("bn_batch_sizes")
    norm, best_of = values.get("norm", "none"), bases_of(values)
    if norm == "own" and not models.is_own(values["model"]):
        refuse(where, f"{key}.norm", norm, f"none, batch or group with {values['model']}, which has no norm of its own")
    _check_budget(where, key, values)
    _check_whole_bn_batches(where, key, norm, b_sizes or batch_sizes)
    if b_sizes:
        _check_bn_batches(where, key, norm, batch_sizes, b_sizes)
    check_training_recipe(where, key, values)
    if norm == "batch" and "variance_batch_sizes" in values:
        _check_measured(where, f"{key}.variance_batch_sizes", batch_sizes, b_sizes, values["variance_batch_sizes"])
    rates = () if best_of else tuple(_rate(where, f"{key}.base_lrs", rate) for rate in values["base_lrs"])
    if len(set(rates)) < len(rates):
        refuse(where, f"{key}.base_lrs", values["base_lrs"], "each value once")
    setting = _setting(where, key, values, datasets)
    b_sizes = tuple(b_sizes) if b_sizes else None
    return Experiment(name, setting, batch_sizes, b_sizes, rates, tuple(values["seeds"]), tuple(best_of))


def _check_budget(where: str, key: str, values: Values) -> None:
    """Check that the length of training is given once, and makes an update at each m."""
    given = [unit for unit in BUDGETS if unit in values]
    if not given:
        raise UserError(f"{where}: {key}: key 'epochs' is missing; allowed: one of {', '.join(BUDGETS)}")
    if len(given) > 1:
        refuse(
            where, f"{key}.{given[1]}", values[given[1]], f"only one of {', '.join(BUDGETS)}; {given[0]} is set, too"
        )
    if values.get("images", math.inf) < max(values["batch_sizes"]):
        allowed = f"whole numbers from {max(values['batch_sizes'])}, the largest batch size"
        refuse(where, f"{key}.images", values["images"], allowed)
    if given != ["epochs"] and "variance_batch_sizes" in values:
        allowed = "only with epochs, at the ends of which the variance is measured"
        refuse(where, f"{key}.variance_batch_sizes", values["variance_batch_sizes"], allowed)


def _check_model(where: str, key: str, model: str) -> None:
    """Check that a model is a known name or PACKAGE:NAME; whether it has its arguments is checked later."""
    package, _, name = models.base_name(model).partition(":")
    if package not in models.PACKAGES or not name:
        known = [*models.MODELS, *(f"{package}:NAME" for package in models.PACKAGES)]
        refuse_unknown(where, key, models.base_name(model), known)
    try:
        given = models.arguments(model)
    except ValueError as error:
        refuse(where, key, model, str(error))
    if given and not models.is_own(model):
        refuse(where, key, model, f"{models.base_name(model)}, which takes no arguments")


def _rate(where: str, key: str, rate: str | float) -> BaseLr:
    base_lr = parse_base_lr(rate)
    if not MIN_RATE <= base_lr <= MAX_RATE:
        refuse(where, key, rate, f"rates from {format_base_lr(MIN_RATE)} to {format_base_lr(MAX_RATE)}")
    return base_lr


def bases_of(e: Values) -> list[str]:
    """The experiments that one takes its best rates from."""
    return e["base_lrs"]["best_of"] if isinstance(e["base_lrs"], dict) else []


def _setting(where: str, key: str, values: Values, datasets: Values) -> Setting:
    augment = values.get("augment", {"flip": False})
    data.check_augment(where, key, datasets[values["data"]], augment)
    grid = {"augment", "batch_sizes", "bn_batch_sizes", "base_lrs", "seeds"}
    fixed = {name: value for name, value in values.items() if name not in grid}
    changed = {
        "data": data.label(values["data"], datasets[values["data"]]),
        "model": models.canonical(values["model"]),
        "weight_decay": float(values["weight_decay"]) + 0.0,  # so that -0.0 is 0.0
        "norm_layers": values.get("norm_layers", "all") if values.get("norm") in ("batch", "group") else "all",
        "epochs": values.get("epochs", 0),
        **training_recipe(where, key, values),
        "augment_pad": augment.get("pad", 0),
        "augment_flip": augment["flip"],
        "augment_resized": augment.get("resized_crop", False),
        "augment_cutout": augment.get("cutout", 0),
        **{f"augment_{name}": float(augment.get(name, 0)) + 0.0 for name in (*COLOURS, *MIXING)},
        "model_content": models.content(values["model"]),
    }
    return Setting.from_json({**fixed, **changed})


def _check_whole_bn_batches(where: str, key: str, norm: str, batch_sizes: Iterable[int]) -> None:
    if norm == "batch" and 1 in batch_sizes:
        refuse(where, f"{key}.batch_sizes", 1, "numbers from 2 with norm: batch, which needs two examples")


def _check_bn_batches(where: str, key: str, norm: str, batch_sizes: tuple[int, ...], b_sizes: list[int]) -> None:
    if norm != "batch":
        refuse(where, f"{key}.bn_batch_sizes", b_sizes, f"only with norm: batch, and norm is {norm!r}")
    for m, b in itertools.product(batch_sizes, b_sizes):
        if b <= m and m % b:
            refuse(
                where,
                f"{key}.bn_batch_sizes",
                b,
                f"numbers that divide each batch size that is not smaller; {m} is in batch_sizes",
            )
        if b > max(batch_sizes):
            refuse(where, f"{key}.bn_batch_sizes", b, f"numbers up to the largest batch size, {max(batch_sizes)}")


def _check_measured(
    where: str, key: str, batch_sizes: tuple[int, ...], b_sizes: list[int] | None, sizes: list[int]
) -> None:
    """Check that batch statistics cover whole mini-batches, or one BN batch size that divides each measured size."""
    if not b_sizes:
        if 1 in sizes:
            refuse(where, key, 1, "numbers from 2 with norm: batch, which needs two examples")
        return
    if len(b_sizes) > 1 or b_sizes[0] >= min(batch_sizes):
        refuse(where, key, sizes, f"with one of bn_batch_sizes, below each batch size; there are {b_sizes}")
    for size in sizes:
        if size % b_sizes[0]:
            refuse(where, key, size, f"multiples of the BN batch size, {b_sizes[0]}")


def check_best_of(where: str, e: Experiment, experiments: Mapping[str, Experiment]) -> None:
    """Check that the experiments of `best_of` are grids with one b for each m, and together have every m."""
    key = f"experiments.{e.name}.base_lrs.best_of"
    grids = [name for name, other in experiments.items() if other.base_lrs]
    for name in e.best_of:
        if not grids:
            refuse(where, key, name, "experiments with rates of their own; there is none")
        refuse_unknown(where, key, name, grids)
        base = experiments[name]
        if base.bn_batch_sizes and len(base.bn_batch_sizes) > 1:
            refuse(where, key, name, "experiments with one BN batch size for each batch size")
    bases = {m for name in e.best_of for m in experiments[name].batch_sizes}
    lacking = [m for m in e.batch_sizes if e.best_of and m not in bases]
    if lacking:
        refuse(where, key, list(e.best_of), f"experiments that together have each batch size; {lacking[0]} is missing")
