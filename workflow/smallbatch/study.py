"""Studies: one YAML file becomes experiments, and experiments become runs with an identity.

Knows neither torch nor Snakemake, so that a whole study is checked before anything heavy is imported.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from smallbatch import data
from smallbatch.errors import UserError, refuse
from smallbatch.models import MODELS
from smallbatch.rates import BaseLr, format_base_lr, learning_rate, parse_base_lr
from smallbatch.settings import check, likely, read_yaml

PROTOCOL = 1
"""Version of the numbers that the engine makes. Bump it by hand when they change; a test notices when they do."""

STUDIES = Path("config/studies")
SCHEMAS = Path(__file__).parents[2] / "config" / "schemas"


@dataclass(frozen=True)
class Setting:
    """What the runs of an experiment have in common.

    data: label of the data set.
    train_images: how many training images are used, None for all.
    norm, norm_layers: normalisation (none, batch, group) and where it stands (all, conv).
    lr_drops: fractions of training at which the rate falls to a tenth.
    augment_pad: zero pixels added on each side before a random crop.
    augment_flip: whether images are flipped at random from left to right.
    """

    data: str
    model: str
    weight_decay: float
    epochs: int
    train_images: int | None = None
    norm: str = "none"
    norm_layers: str = "all"
    lr_drops: tuple[float, ...] = (0.5, 0.75)
    warmup: bool = False
    augment_pad: int = 0
    augment_flip: bool = False

    @property
    def augment(self) -> str:
        """The augmentation in words: `none`, `pad 4`, `flip` or `pad 4 + flip`."""
        parts = [f"pad {self.augment_pad}"] * (self.augment_pad > 0) + ["flip"] * self.augment_flip
        return " + ".join(parts) or "none"


@dataclass(frozen=True)
class Run:
    """One training: all that can change its numbers, but for the content of its data.

    batch_size: m, examples of one update.
    bn_batch_size: b, examples of one batch statistic; m where there is none.
    base_lr: eta / m, see `smallbatch.rates`.
    """

    setting: Setting
    batch_size: int
    bn_batch_size: int
    base_lr: BaseLr
    seed: int

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings by name, flat, as JSON has them."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "setting"}
        return {**asdict(self.setting), **own, "lr_drops": list(self.setting.lr_drops)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Run":
        """The run that `settings` belongs to."""
        own = {field.name for field in fields(cls)} - {"setting"}
        shared = {key: value for key, value in settings.items() if key not in own}
        setting = Setting(**{**shared, "lr_drops": tuple(shared["lr_drops"])})
        return cls(setting, **{key: settings[key] for key in own})

    @property
    def learning_rate(self) -> float:
        """eta, the rate for the mean gradient."""
        return learning_rate(self.base_lr, self.batch_size)

    def name(self, fingerprint: str) -> str:
        """The run's folder: readable, and ending in a hash over all that can change its numbers.

        Args:
            fingerprint: of the prepared data.
        """
        identity = json.dumps([PROTOCOL, fingerprint, self.settings], sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        s = self.setting
        norm = s.norm if s.norm_layers == "all" else f"{s.norm}-{s.norm_layers}"
        rate = format_base_lr(self.base_lr).replace("2^", "log2lr")
        rate = rate if rate.startswith("log2") else f"lr{rate}"
        b = f"_b{self.bn_batch_size}" if self.bn_batch_size != self.batch_size else ""
        return f"{s.data}_{s.model}-{norm}_m{self.batch_size}{b}_{rate}_seed{self.seed}-{digest}"


@dataclass(frozen=True)
class Experiment:
    """A setting with its grid."""

    name: str
    setting: Setting
    batch_sizes: tuple[int, ...]
    bn_batch_sizes: tuple[int, ...] | None
    base_lrs: tuple[BaseLr, ...]

    def runs(self, seeds: tuple[int, ...]) -> Iterator[Run]:
        """Every cell of the grid with every seed; of the sub-batches b those with b <= m."""
        for m in self.batch_sizes:
            for b in self.bn_batch_sizes or (m,):
                if b <= m:
                    for base_lr, seed in itertools.product(self.base_lrs, seeds):
                        yield Run(self.setting, m, b, base_lr, seed)


@dataclass(frozen=True)
class Study:
    """One file of `config/studies`, checked."""

    name: str
    title: str
    description: str
    seeds: tuple[int, ...]
    experiments: dict[str, Experiment]
    figures: dict[str, dict[str, Any]]

    def planned(self) -> list[tuple[str, Run]]:
        """Every (experiment, run); a run that two experiments share stands twice."""
        return [(e.name, run) for e in self.experiments.values() for run in e.runs(self.seeds)]

    def runs(self) -> list[Run]:
        """Every run once."""
        return list(dict.fromkeys(run for _, run in self.planned()))

    def digest(self) -> str:
        """A hash over the planned runs and the engine's protocol."""
        plan = json.dumps([PROTOCOL, [(name, run.settings) for name, run in self.planned()]], sort_keys=True)
        return hashlib.sha256(plan.encode()).hexdigest()[:16]

    @property
    def labels(self) -> list[str]:
        """Labels of the data sets that the study needs."""
        return list(dict.fromkeys(e.setting.data for e in self.experiments.values()))

    def check_against_data(self, label: str, train_images: int) -> None:
        """Make sure that the experiments on data set `label` fit its number of training images.

        Raises:
            UserError: a batch size or `train_images` is larger.
        """
        where = _file(self.name)
        for e in self.experiments.values():
            if e.setting.data != label:
                continue
            asked = e.setting.train_images or train_images
            if asked > train_images:
                allowed = f"whole numbers up to {train_images}, the training images of {label}"
                refuse(str(where), f"experiments.{e.name}.train_images", asked, allowed)
            for m in e.batch_sizes:
                if m > asked:
                    allowed = f"whole numbers up to {asked}, the training images of this experiment"
                    refuse(str(where), f"experiments.{e.name}.batch_sizes", m, allowed)


def _file(name: str) -> Path:
    return STUDIES / f"{name}.yaml"


def check_config(config: dict[str, Any], where: str = "config/config.yaml") -> None:
    """Check the configuration, data sets included.

    Raises:
        UserError: names file, key, value and what is allowed.
    """
    check(config, SCHEMAS / "config.yaml", where)
    labels: dict[str, str] = {}
    for name, settings in config["datasets"].items():
        data.check_settings(where, name, settings)
        label = data.label(name, settings)
        if label in labels:
            refuse(where, f"datasets.{name}.label", label, f"a label of its own; {labels[label]} has this one")
        labels[label] = name


def load_study(name: str, datasets: dict[str, dict[str, Any]]) -> Study:
    """Read, check and expand one study.

    Args:
        name: of a file in `config/studies`, without `.yaml`.
        datasets: the configured data sets by name.

    Raises:
        UserError: names file, key, value and what is allowed.
    """
    where = _file(name)
    if not where.is_file():
        known = sorted(path.stem for path in STUDIES.glob("*.yaml"))
        raise UserError(f"study: {name!r}: no such study{likely(name, known)}; allowed: {', '.join(known)}")
    values = read_yaml(where)
    check(values, SCHEMAS / "study.yaml", str(where))
    experiments = {key: _experiment(str(where), key, value, datasets) for key, value in values["experiments"].items()}
    figures = {key: _figure(str(where), key, value, experiments) for key, value in values["figures"].items()}
    title, description = values["title"], values.get("description", "")
    study = Study(name, title, description, tuple(values["seeds"]), experiments, figures)
    for key, settings in datasets.items():
        known_images = data.known_train_images(settings)
        if known_images is not None:
            study.check_against_data(data.label(key, settings), known_images)
    return study


def _experiment(where: str, name: str, values: dict[str, Any], datasets: dict[str, dict[str, Any]]) -> Experiment:
    key = f"experiments.{name}"
    _known(where, f"{key}.data", values["data"], list(datasets))
    _known(where, f"{key}.model", values["model"], list(MODELS))
    drops = tuple(values.get("lr_drops", (0.5, 0.75)))
    if list(drops) != sorted(drops):
        refuse(where, f"{key}.lr_drops", list(drops), "rising fractions of training")
    batch_sizes, b_sizes = tuple(values["batch_sizes"]), values.get("bn_batch_sizes")
    _check_whole_bn_batches(where, key, values.get("norm", "none"), b_sizes or batch_sizes)
    if b_sizes:
        _check_bn_batches(where, key, values.get("norm", "none"), batch_sizes, b_sizes)
    augment = values.get("augment", {"pad": 0, "flip": False})
    own = {"augment", "batch_sizes", "bn_batch_sizes", "base_lrs"}
    setting = Setting(**{key: value for key, value in values.items() if key not in own})
    setting = replace(
        setting,
        data=data.label(values["data"], datasets[values["data"]]),
        weight_decay=float(values["weight_decay"]),
        norm_layers=setting.norm_layers if setting.norm != "none" else "all",
        lr_drops=drops,
        augment_pad=augment["pad"],
        augment_flip=augment["flip"],
    )
    rates = tuple(parse_base_lr(rate) for rate in values["base_lrs"])
    if len(set(rates)) < len(rates):
        refuse(where, f"{key}.base_lrs", values["base_lrs"], "each value once")
    return Experiment(name, setting, batch_sizes, tuple(b_sizes) if b_sizes else None, rates)


def _check_whole_bn_batches(where: str, key: str, norm: str, batch_sizes: tuple[int, ...]) -> None:
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


def _figure(where: str, name: str, values: dict[str, Any], experiments: dict[str, Experiment]) -> dict[str, Any]:
    key = f"figures.{name}"
    for experiment in values["experiments"]:
        _known(where, f"{key}.experiments", experiment, list(experiments))
    if (values["kind"] == "convergence") != ("base_lr" in values):
        refuse(where, f"{key}.base_lr", values.get("base_lr"), "set for kind convergence, and only there")
    if "base_lr" not in values:
        return values
    rate = parse_base_lr(values["base_lr"])
    for experiment in values["experiments"]:
        grid = experiments[experiment].base_lrs
        if rate not in grid:
            allowed = f"a rate of experiment {experiment}: {', '.join(map(format_base_lr, grid))}"
            refuse(where, f"{key}.base_lr", values["base_lr"], allowed)
    return {**values, "base_lr": rate}


def _known(where: str, key: str, value: str, known: list[str]) -> None:
    if value not in known:
        refuse(where, key, value, f"{', '.join(known)}{likely(value, known)}")
