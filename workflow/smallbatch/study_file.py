"""Load a study from a file of `config/studies`: checked, and reduced if the configuration sets a scale."""

import contextlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

from smallbatch import data, models
from smallbatch.core.errors import UserError, refuse
from smallbatch.core.files import files_digest
from smallbatch.data.originals import DatasetInfo
from smallbatch.study.claims import check_claims, survives
from smallbatch.study.experiments import (
    BUDGETS,
    COLOURS,
    DEFAULT_BETAS,
    MIXING,
    OF_TORCH,
    VALIDATION_FRACTION,
    Experiment,
    Setting,
    Study,
)
from smallbatch.study.functions import check_function, check_in_project
from smallbatch.study.metrics import ACCURACY, CROSS_ENTROPY, METRICS, SCORES, TARGETS
from smallbatch.study.rates import BaseLr, format_base_lr, parse_base_lr
from smallbatch.study.settings import check, location, read_as, read_yaml, suggestion
from smallbatch.training import own_models

CONFIG_FILE, STUDIES = "config/config.yaml", Path("config/studies")
SCHEMAS = Path(str(files("smallbatch"))) / "schemas"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_RUNS = 200_000
"""The most runs that a study may have; the paper's has 2,360."""

TAKEN = ("checkpoints", "packs", "published", "runs", "weights")
"""Names that no study may have: these folders of results/ belong to all studies."""

MIN_RATE, MAX_RATE = 2.0**-100, 2.0**100
"""Bounds of base learning rates: within single precision, with room for batch sizes and drops."""

Values = Mapping[str, Any]


def check_config(
    config: dict[str, Any], where: str = CONFIG_FILE, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Check the configuration, data sets included.

    Args:
        config: the values of the file, overridden by those of the command line.
        where: the file.
        given: the values from the command line; errors about them name the command line.

    Returns:
        The configuration, with text from the command line converted to numbers where the schema asks for numbers.

    Raises:
        UserError: a value is not allowed; names file, key, value and what is allowed.
    """
    given = given or {}
    # Snakemake reads `nan` as a number, which no setting allows; so it becomes text again.
    text = {key: str(value) for key, value in given.items() if isinstance(value, float) and not math.isfinite(value)}
    config = read_as({**config, **text} if text else config, SCHEMAS / "config.yaml")
    check(config, SCHEMAS / "config.yaml", where, given)
    training = config["training"]
    if training["processes"] > 1 and training["side_by_side"] > 1:
        allowed = f"1, as training.processes is {training['processes']}"
        key = "training.side_by_side"
        refuse(location(key, where, given), key, training["side_by_side"], allowed)
    labels: dict[str, str] = {}
    for name, settings in config["datasets"].items():
        said = location(f"datasets.{name}", where, given)
        data.check_settings(said, name, settings)
        label = data.label(name, settings)
        if label == "downloads":
            refuse(said, f"datasets.{name}.label", label, "any other name; data/downloads has archives")
        if label in labels:
            refuse(said, f"datasets.{name}.label", label, f"a label of its own; {labels[label]} has this one")
        labels[label] = name
    _check_same_data(config["datasets"], where, given)
    return config


def load_study(
    config: Values, given: Values | None = None, said_in: str = CONFIG_FILE, *, examine: bool = True
) -> Study:
    """Read, check, scale and expand the study that a checked configuration names.

    Args:
        config: the checked configuration.
        given: the values from the command line; errors about them name the command line.
        said_in: the file of the configuration.
        examine: whether to examine the user's own models too, which takes time.

    Raises:
        UserError: a value is not allowed; names file, key, value and what is allowed.
    """
    name, datasets, scale = str(config["study"]), config["datasets"], config["scale"]
    where = STUDIES / f"{name}.yaml"
    if not NAME.fullmatch(name) or name in TAKEN:
        allowed = f"letters, digits, '.', '_' and '-', a letter or digit first, 64 at most; and not {', '.join(TAKEN)}"
        refuse(location("study", said_in, given or {}), "study", name, allowed)
    if not where.exists():
        known = studies()
        said = location("study", said_in, given or {})
        allowed = f"those of {STUDIES}: {', '.join(known)}"
        raise UserError(f"{said}: study: {name!r}: no such study{suggestion(name, known)}; allowed: {allowed}")
    values = read_yaml(where)
    check(values, SCHEMAS / "study.yaml", str(where))
    if scale:
        _check_scale(location("scale", said_in, given or {}), values, scale, list(datasets))
        values, name = scaled(values, scale), f"{name}-{scale['name']}"
    name += _tried(config)
    if name != where.stem and (STUDIES / f"{name}.yaml").exists():
        raise UserError(f"{STUDIES / name}.yaml: has the name of what this call makes of {where}; rename it")
    if config["seeds"] != "study":
        seeds = list(range(1, config["seeds"] + 1))
        values["experiments"] = {key: {**e, "seeds": seeds} for key, e in values["experiments"].items()}
    study = _study(str(where), name, values, datasets, dict(scale))
    for key, settings in datasets.items():
        check_against_data(study, data.label(key, settings), data.known_train_images(settings))
    processes = config["training"]["processes"]
    for run in study.runs() if processes > 1 else []:
        if allowed := run.why_not_shared(processes):
            refuse(location("training.processes", said_in, given or {}), "training.processes", processes, allowed)
    if examine:
        _try_recipes(study)
        own_models.check(study, datasets, processes)
    return study


def _try_recipes(study: Study) -> None:
    """Try losses of the user's own, and optimisers of torch."""
    for e in study.experiments.values():
        s = e.setting
        if s.loss_function:
            from smallbatch.training.losses import check_own  # imports torch, which takes seconds

            check_own(s)
        if s.optimizer.startswith(OF_TORCH):
            from smallbatch.training.torch_optimizers import reason_against

            if allowed := reason_against(s.optimizer, s.weight_decay):
                refuse(study.file, f"experiments.{e.name}.optimizer", s.optimizer, allowed)


def studies() -> list[str]:
    """Names of all studies."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def studies_with(key: str, name: str) -> list[str]:
    """Names of the studies whose file has `name` under `key`, such as `figures`; unreadable files are skipped."""
    found = []
    for study in studies():
        with contextlib.suppress(UserError, KeyError, TypeError):
            found += [study] * (name in read_yaml(STUDIES / f"{study}.yaml")[key])
    return found


def scaled(values: Values, scale: Values) -> dict[str, Any]:
    """The values of a study file, reduced by a scale; experiments and figures left empty are dropped.

    Args:
        values: the values of the study file, checked against its schema.
        scale: the scale of the configuration, checked against its schema.
    """
    kept = {name: e for name, e in values["experiments"].items() if e["data"] in scale.get("data", [e["data"]])}
    experiments = {name: _scaled(e, scale) for name, e in kept.items()}
    experiments = {name: e for name, e in experiments.items() if e["batch_sizes"] and e.get("bn_batch_sizes") != []}
    for e in experiments.values():
        if isinstance(e["base_lrs"], dict):
            e["base_lrs"] = {"best_of": [name for name in e["base_lrs"]["best_of"] if name in experiments]}
    experiments = {name: e for name, e in experiments.items() if e["base_lrs"] != {"best_of": []}}
    figures = {}
    for name, spec in values["figures"].items():
        kept_experiments = [experiment for experiment in spec["experiments"] if experiment in experiments]
        if kept_experiments and name in scale.get("figures", [name]):
            figures[name] = {**spec, "experiments": kept_experiments}
    if "figures" in scale:
        shown = {name for spec in figures.values() for name in spec["experiments"]}
        needed = shown | {base for name in shown for base in _bases(experiments[name])}
        experiments = {name: e for name, e in experiments.items() if name in needed}
    claims = {name: spec for name, spec in values.get("claims", {}).items() if survives(spec, figures, scale)}
    return {**values, "experiments": experiments, "figures": figures, "claims": claims}


def _usual() -> dict[str, Any]:
    """The values of the configuration file, without those of the command line."""
    file = Path(CONFIG_FILE)
    values: dict[str, Any] = read_as(read_yaml(file), SCHEMAS / "config.yaml") if file.exists() else {}
    return values


def _check_same_data(datasets: Values, where: str, given: Values) -> None:
    """Check that a call prepares the data of a label as the configuration file does: results belong to the label."""
    file = _usual().get("datasets")  # not checked yet where the call overrides it
    known = {name: settings for name, settings in file.items() if isinstance(settings, dict)} if file else {}
    usual = {data.label(name, settings): settings for name, settings in known.items()}
    for name, settings in datasets.items():
        label = data.label(name, settings)
        if label in usual and _preparation(usual[label]) != _preparation(settings):
            key, allowed = f"datasets.{name}", f"what {CONFIG_FILE} says of {label}, or a `label` of its own"
            refuse(location(key, where, given), key, dict(settings), allowed)


def _preparation(settings: Values) -> Values:
    """The settings that decide the prepared data: all but paths and label."""
    return {key: value for key, value in settings.items() if key not in ("path", "archive", "label")}


def _tried(config: Values) -> str:
    """The end of the study's name: the seeds and thresholds that the call overrides, since they change results."""
    usual = _usual()
    tried = {key: config[key] for key in ("seeds", "convergence_threshold") if key in config}
    usual, tried = usual | usual.get("claims", {}), tried | config.get("claims", {})
    return "".join(f"-{key}{value}" for key, value in tried.items() if value != usual.get(key, value))


def _check_scale(where: str, values: Values, scale: Values, datasets: list[str]) -> None:
    """Check that a scale names existing figures and data sets, and leaves at least one experiment."""
    for key, known in (("figures", list(values["figures"])), ("data", datasets)):
        for name in scale.get(key, []):
            _known(where, f"scale.{key}", name, known)
    if not scaled(values, scale)["experiments"]:
        refuse(where, "scale", dict(scale), "values that leave an experiment of the study at least one run")


def _scaled(e: Values, scale: Values) -> dict[str, Any]:
    sizes = scale.get("batch_sizes")
    changed: dict[str, Any] = {unit: max(1, round(e[unit] * scale.get("epochs", 1))) for unit in BUDGETS if unit in e}
    if "images" in e:
        changed["images"] = max(changed["images"], *e["batch_sizes"])  # an update at each m
    if "train_images" in scale:
        changed["train_images"] = min(e.get("train_images", scale["train_images"]), scale["train_images"])
    for key in ("batch_sizes", "bn_batch_sizes", "variance_batch_sizes"):
        if sizes and key in e:
            changed[key] = [size for size in e[key] if size in sizes]
    if "base_lrs" in scale and not _bases(e):
        kept = set(map(parse_base_lr, scale["base_lrs"]))
        changed["base_lrs"] = [rate for rate in e["base_lrs"] if parse_base_lr(rate) in kept] or e["base_lrs"]
    return {**e, **changed}


def _bases(e: Values) -> list[str]:
    return e["base_lrs"]["best_of"] if isinstance(e["base_lrs"], dict) else []


def check_against_data(study: Study, label: str, train_images: int | None, size: DatasetInfo | None = None) -> None:
    """Check that the experiments on data set `label` fit it, as far as it is known.

    Args:
        study: the study.
        label: the label of the data set.
        train_images: its number of training images, if that is known.
        size: its size, if it is known.

    Raises:
        UserError: a batch size or `train_images` is larger, no image would be held out for validation, an augmentation
            does not suit its images, or a model for images would get features.
    """
    where = study.file
    for e in study.experiments.values():
        if e.setting.data != label:
            continue
        if size:
            _check_images(where, e, label, size)
        asked = e.setting.train_images or train_images
        if asked is None:
            continue
        if train_images is not None and asked > train_images:
            allowed = f"whole numbers up to {train_images}, the training images of {label}"
            refuse(where, f"experiments.{e.name}.train_images", asked, allowed)
        held_out = round(VALIDATION_FRACTION * asked) if e.setting.selection == "validation" else 0
        if e.setting.selection == "validation" and not held_out:
            allowed = f"test: of {asked} training images a tenth, which would be held out, is none"
            refuse(where, f"experiments.{e.name}.selection", "validation", allowed)
        _check_sizes(where, e, asked - held_out)


def _check_images(where: str, e: Experiment, label: str, size: DatasetInfo) -> None:
    """Check that an experiment's loss, augmentation and model fit its data, whose images may be features."""
    s, key, pixels = e.setting, f"experiments.{e.name}", min(size.shape[1:])
    if TARGETS[s.loss] != size.targets:
        fitting = [loss for loss, targets in TARGETS.items() if targets == size.targets]
        labels = f"the labels of {label}, which are {size.targets or 'classes'} (integers [n] are classes)"
        refuse(where, f"{key}.loss", s.loss, f"{' or '.join(fitting)} with {labels}")
    if size.shape[1:] == (1, 1):
        if not models.is_own(s.model):
            allowed = f"a model of your own, since {label} has {size.shape[0]} features and no images"
            refuse(where, f"{key}.model", s.model, allowed)
        if replace(s, augment_mixup=0.0).augment != "none":
            refuse(where, f"{key}.augment", s.augment, f"none, or mixup alone, since {label} has no images")
        return
    if s.augment_pad >= pixels:
        refuse(where, f"{key}.augment.pad", s.augment_pad, f"whole numbers below {pixels}, the pixels of a side")
    if s.augment_cutout > pixels:
        refuse(where, f"{key}.augment.cutout", s.augment_cutout, f"whole numbers up to {pixels}, the pixels of a side")
    for name, change in s.color_jitter.items():
        if change and size.value_bytes > 1:
            allowed = f"0, since {label} has floats, whose black and white are not known"
            refuse(where, f"{key}.augment.{name}", change, allowed)
    if s.augment_saturation and size.shape[0] != 3:
        allowed = f"0, since images of {label} have {size.shape[0]} channels"
        refuse(where, f"{key}.augment.saturation", s.augment_saturation, allowed)


def _check_sizes(where: str, e: Experiment, images: int) -> None:
    """Check that `images` training images fill one batch of each m, and two of each size whose variance is measured."""
    for m in e.batch_sizes:
        if m > images:
            allowed = f"whole numbers up to {images}, the training images of this experiment"
            refuse(where, f"experiments.{e.name}.batch_sizes", m, allowed)
    sizes = e.setting.variance_batch_sizes
    m = min(e.batch_sizes, key=lambda m: images // m * m)
    if sizes and 2 * max(sizes) > images // m * m:
        allowed = f"whole numbers up to {images // m * m // 2}, half the images of an epoch at m = {m}"
        refuse(where, f"experiments.{e.name}.variance_batch_sizes", max(sizes), allowed)


def _study(where: str, name: str, values: Values, datasets: Values, scale: dict[str, Any]) -> Study:
    experiments = {
        key: _experiment(where, key, {"seeds": values["seeds"], **value}, datasets)
        for key, value in values["experiments"].items()
    }
    _check_count(where, experiments)
    for e in experiments.values():
        _check_best_of(where, e, experiments)
    figures = {key: _figure(where, key, value, experiments) for key, value in values["figures"].items()}
    claims = values.get("claims", {})
    check_claims(where, claims, figures, experiments)
    description, reproduces = values.get("description", ""), values.get("reproduces", "")
    return Study(where, name, values["title"], description, experiments, figures, scale, reproduces, claims)


def _check_count(where: str, experiments: Mapping[str, Experiment]) -> None:
    """Refuse more than `MAX_RUNS` runs before they are created: a slip in a grid would take hours and all memory."""
    sizes = {
        e.name: len(e.batch_sizes) * len(e.bn_batch_sizes or (1,)) * len(e.base_lrs or (1,)) * len(e.seeds)
        for e in experiments.values()
    }
    if sum(sizes.values()) > MAX_RUNS:
        largest = max(sizes, key=lambda name: sizes[name])
        raise UserError(
            f"{where}: experiments: {sum(sizes.values()):,} runs, {sizes[largest]:,} of them of {largest}; "
            f"allowed: up to {MAX_RUNS:,}"
        )


def _experiment(where: str, name: str, values: Values, datasets: Values) -> Experiment:
    key = f"experiments.{name}"
    _known(where, f"{key}.data", values["data"], list(datasets))
    _check_model(where, f"{key}.model", values["model"])
    batch_sizes, b_sizes = tuple(values["batch_sizes"]), values.get("bn_batch_sizes")
    norm, best_of = values.get("norm", "none"), _bases(values)
    if norm == "own" and not models.is_own(values["model"]):
        refuse(where, f"{key}.norm", norm, f"none, batch or group with {values['model']}, which has no norm of its own")
    _check_budget(where, key, values)
    _check_whole_bn_batches(where, key, norm, b_sizes or batch_sizes)
    if b_sizes:
        _check_bn_batches(where, key, norm, batch_sizes, b_sizes)
    _check_optimizer(where, key, values)
    _check_loss(where, key, values)
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
        _known(where, key, models.base_name(model), known)
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


def _setting(where: str, key: str, values: Values, datasets: Values) -> Setting:
    _check_schedule(where, key, values)
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
        **_schedule(where, key, values),
        **_optimizer(where, key, values),
        **_loss(values),
        "augment_pad": augment.get("pad", 0),
        "augment_flip": augment["flip"],
        "augment_resized": augment.get("resized_crop", False),
        "augment_cutout": augment.get("cutout", 0),
        **{f"augment_{name}": float(augment.get(name, 0)) + 0.0 for name in (*COLOURS, *MIXING)},
        "model_content": models.content(values["model"]),
    }
    return Setting.from_json({**fixed, **changed})


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
    _check_mixing(where, key, values)
    if "variance_batch_sizes" in values:
        _check_update_is_gradient(where, key, values)


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
    """The settings of the loss. What stands for accuracy where that means nothing is always recorded."""
    given = values.get("loss", CROSS_ENTROPY)
    own = isinstance(given, Mapping)
    loss = given["like"] if own else given
    score = [SCORES[loss]] if SCORES[loss] != ACCURACY else []
    settings = {"loss": loss, "metrics": tuple(dict.fromkeys([*score, *sorted(values.get("metrics", ()))]))}
    if own:
        settings |= {
            "loss_function": f"{given['file']}:{given['name']}",
            "loss_content": files_digest(Path(given["file"])),
        }
    return settings


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


def _check_best_of(where: str, e: Experiment, experiments: Mapping[str, Experiment]) -> None:
    """Check that the experiments of `best_of` are grids with one b for each m, and together have every m."""
    key = f"experiments.{e.name}.base_lrs.best_of"
    grids = [name for name, other in experiments.items() if other.base_lrs]
    for name in e.best_of:
        if not grids:
            refuse(where, key, name, "experiments with rates of their own; there is none")
        _known(where, key, name, grids)
        base = experiments[name]
        if base.bn_batch_sizes and len(base.bn_batch_sizes) > 1:
            refuse(where, key, name, "experiments with one BN batch size for each batch size")
    bases = {m for name in e.best_of for m in experiments[name].batch_sizes}
    lacking = [m for m in e.batch_sizes if e.best_of and m not in bases]
    if lacking:
        refuse(where, key, list(e.best_of), f"experiments that together have each batch size; {lacking[0]} is missing")


def _figure(where: str, name: str, values: Values, experiments: Mapping[str, Experiment]) -> dict[str, Any]:
    key = f"figures.{name}"
    _check_title(where, f"{key}.title", values["title"])
    for experiment in values["experiments"]:
        _known(where, f"{key}.experiments", experiment, list(experiments))
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


_MEASURING = ("accuracy", "best", "bn-batch")
"""Kinds of figures whose measure is a setting."""


def _with_metric(where: str, key: str, values: Values, settings: Sequence[Setting]) -> Values:
    """The values of a figure, with the measure that it shows if that is not accuracy."""
    scores = {setting.score for setting in settings}
    if len(scores) > 1:
        refuse(
            where, f"{key}.experiments", values["experiments"], "experiments whose losses are for one kind of labels"
        )
    if "metric" in values and values["kind"] not in _MEASURING:
        refuse(where, f"{key}.metric", values["metric"], f"only with kind {', '.join(_MEASURING)}")
    metric = values.get("metric", *scores)
    lacking = [setting for setting in settings if metric not in (setting.score, *setting.metrics)]
    if lacking:
        known = ", ".join([lacking[0].score, *lacking[0].metrics])
        refuse(where, f"{key}.metric", metric, f"what all its experiments record under `metrics`: {known}")
    without = {name: value for name, value in values.items() if name != "metric"}
    return without if metric == ACCURACY else without | {"metric": metric}


def _check_title(where: str, key: str, title: str) -> None:
    """Check that the font of figures has every character; ASCII needs no check, and so no matplotlib."""
    if title.isascii():
        return
    try:
        from smallbatch.figures.glyphs import FONT, missing_glyphs
    except ImportError:  # where only trainings run; drawing reports it
        return
    if unknown := missing_glyphs(title):
        refuse(where, key, title, f"characters that the font of figures, {FONT}, has; it lacks {' '.join(unknown)}")


_NEEDED = {
    "variance": "variance_batch_sizes", "example-variance": "variance_batch_sizes", "bn-batch": "bn_batch_sizes"
}  # fmt: skip
"""Kind of figure -> the key that its experiments need."""


def _check_kind(where: str, key: str, kind: str, e: Experiment) -> None:
    values = {"variance_batch_sizes": e.setting.variance_batch_sizes, "bn_batch_sizes": e.bn_batch_sizes}
    needed = _NEEDED.get(kind)
    if needed and not values[needed]:
        refuse(where, f"{key}.experiments", e.name, f"for kind {kind} experiments with {needed}")


def _check_rate(where: str, key: str, rate: BaseLr, e: Experiment) -> None:
    if rate not in e.base_lrs:
        known = ", ".join(map(format_base_lr, e.base_lrs)) or "none, it takes the best of others"
        refuse(where, key, format_base_lr(rate), f"a rate of experiment {e.name}: {known}")


def _known(where: str, key: str, value: str, known: list[str]) -> None:
    if value not in known:
        refuse(where, key, value, f"{', '.join(known)}{suggestion(value, known)}")
