"""Studies, experiments and runs, and the identity of a run. Knows neither torch nor Snakemake nor where studies lie."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from smallbatch.study.rates import BaseLr, format_base_lr, learning_rate

VALIDATION_FRACTION = 0.1
"""The part of the training images that `selection: validation` trains without (ours: the paper has no such split)."""

PROTOCOL = 1
"""Version of the numbers that the engine makes. Bump it by hand when they change; a test notices when they do."""

DEFAULT_BETAS = {"adam": (0.9, 0.999), "adamw": (0.9, 0.999), "lion": (0.9, 0.99)}
DEFAULT_EPS = 1e-8
"""Of optimisers, as in torch, and in Chen et al. 2023."""

MEASUREMENT = 2
"""Version of how the variance of updates is measured: a part of the identity of the runs that measure it, alone."""


@dataclass(frozen=True)
class Setting:
    """What the runs of an experiment have in common.

    data: label of the data set.
    train_images: how many training images are used, None for all.
    norm, norm_layers: normalisation (none, batch, group, the model's own) and where it stands (all, conv).
    lr_schedule: how the rate falls over training (drops, cosine, linear, one-cycle), see `training.schedule`.
    lr_drops, lr_drop_factor: fractions of training at which the rate falls to so much of itself.
    warmup, warmup_fraction, warmup_start: whether the rate first rises linearly, over which part of training, and from
        which part of eta; as in the paper over the first 5 % from eta / 32 (Masters & Luschi 2018, section 3.4).
    lr_scaling: of eta with m, see `smallbatch.study.rates`.
    optimizer: sgd, nesterov, adam, adamw or lion, see `training.optimizers`.
    momentum, momentum_scaled: of SGD, and whether eta is multiplied by 1 - momentum, which keeps the step an example.
    betas, eps: of Adam and Lion, which has no eps; no betas for other optimisers.
    weight_decay_excludes: which parameters do not decay: biases, norms or both.
    clip_norm: the largest norm of a mini-batch's gradient, to which a longer one is shortened; none: as it is.
    label_smoothing: the part of each training target that is spread over all classes.
    precision: float32; or products of matrices and convolutions in tf32 or bf16, with weights in float32.
    augment_pad: zero pixels added on each side before a random crop.
    augment_flip: whether images are flipped at random from left to right.
    augment_resized: whether photos are cropped at random in size, place and shape.
    selection: the split that rates are chosen on: test, as in the paper, or validation, held out of the training split.
    variance_batch_sizes: the m at which the variance of an update is measured at some points of training.
    model_content: a hash over the file of a model that is not the project's own, see `models.content`.

    A default never changes: it is left out of the identity of runs, so that a new setting renames no old run.
    """

    data: str
    model: str
    weight_decay: float
    epochs: int
    train_images: int | None = None
    norm: str = "none"
    norm_layers: str = "all"
    lr_schedule: str = "drops"
    lr_drops: tuple[float, ...] = (0.5, 0.75)
    lr_drop_factor: float = 0.1
    warmup: bool = False
    warmup_fraction: float = 0.05
    warmup_start: float = 1 / 32
    augment_pad: int = 0
    augment_flip: bool = False
    augment_resized: bool = False
    lr_scaling: str = "linear"
    momentum: float = 0.0
    momentum_scaled: bool = False
    optimizer: str = "sgd"
    betas: tuple[float, ...] = ()
    eps: float = DEFAULT_EPS
    weight_decay_excludes: tuple[str, ...] = ()
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    precision: str = "float32"
    selection: str = "test"
    variance_batch_sizes: tuple[int, ...] = ()
    model_content: str | None = None

    @property
    def augment(self) -> str:
        """The augmentation in words: `none`, `pad 4`, `flip`, `pad 4 + flip` or `resized crop + flip`."""
        pad = [f"pad {self.augment_pad}"] * (self.augment_pad > 0)
        return " + ".join(pad + ["resized crop"] * self.augment_resized + ["flip"] * self.augment_flip) or "none"

    @property
    def remembered(self) -> int:
        """How many tensors as large as the weights the optimiser keeps from one update to the next."""
        return (
            len(self.betas) if self.optimizer.startswith("adam") else int(self.optimizer == "lion" or self.momentum > 0)
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Setting":
        """The setting whose fields JSON has as `values`."""
        return cls(**_from_json(values))


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


_SETTINGS = tuple(field.name for field in fields(Setting))
_DEFAULTS = _as_json({field.name: field.default for field in fields(Setting) if field.default is not MISSING})


@dataclass(frozen=True)
class Run:
    """One training: all that can change its numbers, but for the content of its data.

    batch_size: m, examples of one update.
    bn_batch_size: b, examples of one batch statistic; m where there is none.
    base_lr: eta / m, see `smallbatch.study.rates`; none until it is chosen, where it is the best of other experiments.
    """

    setting: Setting
    batch_size: int
    bn_batch_size: int
    base_lr: BaseLr | None
    seed: int

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings by name, flat, as JSON has them."""
        own_values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "setting"}
        return _as_json({name: getattr(self.setting, name) for name in _SETTINGS}) | own_values

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Run":
        """The run that `settings` belongs to."""
        own_names = {one.name for one in fields(cls)} - {"setting"}
        setting = Setting.from_json({key: value for key, value in settings.items() if key not in own_names})
        return cls(setting, **{key: settings[key] for key in own_names})

    @property
    def learning_rate(self) -> float:
        """eta, the rate for the mean gradient.

        Raises:
            ValueError: the base learning rate is not chosen yet.
        """
        s = self.setting
        if self.base_lr is None:
            raise ValueError(f"the base learning rate of m = {self.batch_size} is not chosen yet")
        eta = learning_rate(self.base_lr, self.batch_size, s.lr_scaling)
        return eta * (1 - s.momentum) if s.momentum_scaled else eta

    def why_not_shared(self, processes: int) -> str:
        """Why so many processes cannot share its mini-batches evenly; nothing if they can."""
        m, b = self.batch_size, self.bn_batch_size
        if m % processes:
            return f"numbers that divide a mini-batch of {m} evenly"
        share = m // processes
        if self.setting.norm == "batch" and share % b and b % share:
            return (
                f"numbers that leave each process whole batches of {b} for batch normalisation, or parts that make up "
                f"one: of a mini-batch of {m} it would have {share}"
            )
        return ""

    def name(self, fingerprint: str) -> str:
        """The run's folder: readable, and ending in a hash over all that can change its numbers.

        A run whose rate is not chosen yet has a name that no trained run has.

        Args:
            fingerprint: of the prepared data.
        """
        # Asked for again and again by whoever goes through thousands of runs.
        if (PROTOCOL, fingerprint) not in self._names:
            self._names[PROTOCOL, fingerprint] = self._make_name(fingerprint)
        return self._names[PROTOCOL, fingerprint]

    @cached_property
    def _names(self) -> dict[tuple[int, str], str]:
        return {}

    def _make_name(self, fingerprint: str) -> str:
        named = {key: v for key, v in self.settings.items() if key not in _DEFAULTS or v != _DEFAULTS[key]}
        measured = [MEASUREMENT] if self.setting.variance_batch_sizes else []
        identity = json.dumps([PROTOCOL, fingerprint, named, *measured], sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        s = self.setting
        norm = s.norm if s.norm_layers == "all" else f"{s.norm}-{s.norm_layers}"
        rate = "open" if self.base_lr is None else format_base_lr(self.base_lr)
        rate = rate.replace("2^", "log2lr") if rate.startswith("2^") else f"lr{rate}"
        b = f"_b{self.bn_batch_size}" if self.bn_batch_size != self.batch_size else ""
        model = s.model.replace(":", "-")  # not allowed in file names everywhere
        return f"{s.data}_{model}-{norm}_m{self.batch_size}{b}_{rate}_seed{self.seed}-{digest}"


Chosen = Mapping[int, BaseLr]
"""Batch size m -> the base learning rate that was best for it."""


@dataclass(frozen=True)
class Experiment:
    """A setting with its grid.

    base_lrs: the rates of the grid; none where `best_of` is set.
    best_of: experiments whose best rate for each m is taken, the last of them that has this m.
    """

    name: str
    setting: Setting
    batch_sizes: tuple[int, ...]
    bn_batch_sizes: tuple[int, ...] | None
    base_lrs: tuple[BaseLr, ...]
    seeds: tuple[int, ...]
    best_of: tuple[str, ...] = ()

    def runs(self, chosen: Chosen | None = None) -> Iterator[Run]:
        """Every cell of the grid with every seed; of the sub-batches b those with b <= m.

        Args:
            chosen: the rates that `best_of` led to; where there is none yet, the run has none.
        """
        for m in self.batch_sizes:
            rates = self.base_lrs or ((chosen or {}).get(m),)
            for b in self.bn_batch_sizes or (m,):
                if b <= m:
                    for base_lr, seed in itertools.product(rates, self.seeds):
                        yield Run(self.setting, m, b, base_lr, seed)

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return _as_json(asdict(self)) | {"setting": _as_json(asdict(self.setting))}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Experiment":
        """The experiment that `as_json` gave."""
        return cls(**_from_json(values) | {"setting": Setting.from_json(values["setting"])})


@dataclass(frozen=True)
class Study:
    """One file of `config/studies`, checked.

    file: where it stands.
    name: the file's, and behind it what a call makes of the study, as `laptop-glimpse-seeds1`: the name of a scale,
        seeds and thresholds; folders of results are called so.
    scale: what makes it smaller than its file says; empty where nothing does.
    reproduces: `paper` where the paper's claims are to be judged, else empty.
    claims: the user's own, by name, see `study.claims`.
    """

    file: str
    name: str
    title: str
    description: str
    experiments: dict[str, Experiment]
    figures: dict[str, dict[str, Any]]
    scale: dict[str, Any] = field(default_factory=dict)
    reproduces: str = ""
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)

    def planned(self, chosen: Mapping[str, Chosen] | None = None) -> list[tuple[str, Run]]:
        """Every (experiment, run); a run that two experiments share stands twice.

        Args:
            chosen: experiment -> the rates that its `best_of` led to, for those that are known.
        """
        known = chosen or {}
        return [(e.name, run) for e in self.experiments.values() for run in e.runs(known.get(e.name))]

    def runs(self) -> list[Run]:
        """Every run once."""
        return list(dict.fromkeys(run for name in self.experiments for run in self.runs_of(name)))

    def runs_of(self, name: str, chosen: Chosen | None = None) -> list[Run]:
        """The runs of an experiment.

        Args:
            name: of the experiment.
            chosen: the rates that its `best_of` led to. Where there are none yet, a run that the others have as well,
                whichever is chosen, is there at one of theirs; the rest have none.
        """
        e = self.experiments[name]
        if chosen is not None or not e.best_of:
            return list(e.runs(chosen))
        shared = {run for base in e.best_of for run in self.experiments[base].runs()}
        pairs = zip(e.runs(), e.runs(self.stand_ins(name)), strict=True)
        return [at_one if at_one in shared else later for later, at_one in pairs]

    def stand_ins(self, name: str) -> Chosen:
        """For an experiment that takes its rates from others one of theirs for each m."""
        bases = [self.experiments[base] for base in self.experiments[name].best_of]
        return {m: base.base_lrs[0] for base in bases for m in base.batch_sizes}

    def sources(self, figure: str) -> list[str]:
        """The experiments that a figure shows, and before each those that it takes its rates from."""
        names = self.figures[figure]["experiments"]
        return list(dict.fromkeys(one for name in names for one in (*self.experiments[name].best_of, name)))

    @property
    def labels(self) -> list[str]:
        """Labels of the data sets that the study needs."""
        return list(dict.fromkeys(e.setting.data for e in self.experiments.values()))

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON has it: so a job gets the study as it was when the workflow began."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return values | {"experiments": {name: e.as_json() for name, e in self.experiments.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Study":
        """The study that `as_json` gave."""
        experiments = {name: Experiment.from_json(e) for name, e in values["experiments"].items()}
        return cls(**{**values, "experiments": experiments})
