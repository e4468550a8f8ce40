"""Load a study from a file of `config/studies`: checked, and reduced if the configuration sets a scale."""

import contextlib
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from smallbatch import data
from smallbatch.core.errors import UserError, refuse
from smallbatch.data.dataset_info import image_shape_and_classes
from smallbatch.study.claims import check_claims, survives
from smallbatch.study.experiments import BUDGETS, OF_TORCH, Experiment, Study
from smallbatch.study.rates import parse_base_lr
from smallbatch.study.yaml_validation import check, location, read_yaml, refuse_unknown, suggestion, with_numbers
from smallbatch.study_file.data_compatibility import check_against_data
from smallbatch.study_file.experiment import bases_of, check_best_of, experiment_of
from smallbatch.study_file.figure import figure_of
from smallbatch.training import own_models

CONFIG_FILE, STUDIES = "config/config.yaml", Path("config/studies")

SCHEMAS = Path(str(files("smallbatch"))) / "schemas"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

MAX_RUNS = 200_000
"""The most runs that a study may have; the paper's has 2,360."""

RESERVED_NAMES = ("checkpoints", "packs", "published", "runs", "weights")
"""Names that no study may have: these folders of results/ belong to all studies."""

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
    config = with_numbers({**config, **text} if text else config, SCHEMAS / "config.yaml")
    check(config, SCHEMAS / "config.yaml", where, given)
    training = config["training"]
    if training["processes"] > 1 and training["side_by_side"] > 1:
        allowed = f"1, as training.processes is {training['processes']}"
        key = "training.side_by_side"
        refuse(location(key, where, given), key, training["side_by_side"], allowed)
    labels: dict[str, str] = {}
    for name, settings in config["datasets"].items():
        where_given = location(f"datasets.{name}", where, given)
        data.check_settings(where_given, name, settings)
        label = data.label(name, settings)
        if label == "downloads":
            refuse(where_given, f"datasets.{name}.label", label, "any other name; data/downloads has archives")
        if label in labels:
            refuse(where_given, f"datasets.{name}.label", label, f"a label of its own; {labels[label]} has this one")
        labels[label] = name
    _check_same_data(config["datasets"], where, given)
    return config


def load_study(
    config: Values, given: Values | None = None, config_file: str = CONFIG_FILE, *, examine: bool = True
) -> Study:
    """Read, check, scale and expand the study that a checked configuration names.

    Args:
        config: the checked configuration.
        given: the values from the command line; errors about them name the command line.
        config_file: the file of the configuration.
        examine: whether to examine the user's own models too, which takes time.

    Raises:
        UserError: a value is not allowed; names file, key, value and what is allowed.
    """
    name, datasets, scale = str(config["study"]), config["datasets"], config["scale"]
    where = STUDIES / f"{name}.yaml"
    if not NAME.fullmatch(name) or name in RESERVED_NAMES:
        allowed = "letters, digits, '.', '_' and '-', a letter or digit first, 64 at most; "
        allowed += f"and not {', '.join(RESERVED_NAMES)}"
        refuse(location("study", config_file, given or {}), "study", name, allowed)
    if not where.exists():
        known = studies()
        where_given = location("study", config_file, given or {})
        allowed = f"those of {STUDIES}: {', '.join(known)}"
        raise UserError(f"{where_given}: study: {name!r}: no such study{suggestion(name, known)}; allowed: {allowed}")
    values = read_yaml(where)
    check(values, SCHEMAS / "study.yaml", str(where))
    if scale:
        _check_scale(location("scale", config_file, given or {}), values, scale, list(datasets))
        values, name = scaled(values, scale), f"{name}-{scale['name']}"
    name += _suffix_of_overrides(config)
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
        if allowed := run.why_not_shareable(processes):
            refuse(location("training.processes", config_file, given or {}), "training.processes", processes, allowed)
    if examine:
        _try_losses_and_optimizers(study, datasets)
        own_models.check(study, datasets, processes)
    return study


def _try_losses_and_optimizers(study: Study, datasets: Values) -> None:
    """Try losses of the user's own, and optimisers of torch."""
    for e in study.experiments.values():
        s = e.setting
        if s.loss_function:
            from smallbatch.training.losses import check_own  # imports torch, which takes seconds

            [key] = [key for key, settings in datasets.items() if data.label(key, settings) == s.data]
            _, outputs = image_shape_and_classes(key, datasets[key], Path("data"))
            check_own(s, outputs)
        if s.optimizer.startswith(OF_TORCH):
            from smallbatch.training.torch_optimizers import follows_rate, why_not_allowed

            if allowed := why_not_allowed(s.optimizer, s.weight_decay):
                refuse(study.file, f"experiments.{e.name}.optimizer", s.optimizer, allowed)
            if (s.lr_schedule != "drops" or s.lr_drops or s.warmup) and not follows_rate(s.optimizer):
                allowed = "only with lr_schedule: constant and without warm-up: its steps follow the first rate alone"
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
        needed = shown | {base for name in shown for base in bases_of(experiments[name])}
        experiments = {name: e for name, e in experiments.items() if name in needed}
    claims = {name: spec for name, spec in values.get("claims", {}).items() if survives(spec, figures, scale)}
    return {**values, "experiments": experiments, "figures": figures, "claims": claims}


def _config_file_values() -> dict[str, Any]:
    """The values of the configuration file, without those of the command line."""
    file = Path(CONFIG_FILE)
    values: dict[str, Any] = with_numbers(read_yaml(file), SCHEMAS / "config.yaml") if file.exists() else {}
    return values


def _check_same_data(datasets: Values, where: str, given: Values) -> None:
    """Check that a call prepares the data of a label as the configuration file does: results belong to the label."""
    file = _config_file_values().get("datasets")  # not checked yet where the call overrides it
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


def _suffix_of_overrides(config: Values) -> str:
    """The end of the study's name: seeds, thresholds and looks that the call overrides, since they change results."""
    usual = _config_file_values()
    tried = {key: config[key] for key in ("seeds", "convergence_threshold") if key in config}
    for group in ("claims", "figures"):
        usual, tried = usual | usual.get(group, {}), tried | config.get(group, {})
    return "".join(f"-{key}{value}" for key, value in tried.items() if value != usual.get(key, value))


def _check_scale(where: str, values: Values, scale: Values, datasets: list[str]) -> None:
    """Check that a scale names existing figures and data sets, and leaves at least one experiment."""
    for key, known in (("figures", list(values["figures"])), ("data", datasets)):
        for name in scale.get(key, []):
            refuse_unknown(where, f"scale.{key}", name, known)
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
    if "base_lrs" in scale and not bases_of(e):
        kept = set(map(parse_base_lr, scale["base_lrs"]))
        changed["base_lrs"] = [rate for rate in e["base_lrs"] if parse_base_lr(rate) in kept] or e["base_lrs"]
    return {**e, **changed}


def _study(where: str, name: str, values: Values, datasets: Values, scale: dict[str, Any]) -> Study:
    experiments = {
        key: experiment_of(where, key, {"seeds": values["seeds"], **value}, datasets)
        for key, value in values["experiments"].items()
    }
    _check_count(where, experiments)
    for e in experiments.values():
        check_best_of(where, e, experiments)
    figures = {key: figure_of(where, key, value, experiments) for key, value in values["figures"].items()}
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
