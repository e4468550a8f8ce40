"""Studies, experiments and runs, and the identity of a run; independent of torch, Snakemake and study files."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from smallbatch.study.metrics import CROSS_ENTROPY, PRIMARY
from smallbatch.study.rates import BaseLr, format_base_lr, learning_rate

VALIDATION_FRACTION = 0.1
"""The fraction of training images that `selection: validation` holds out (our choice: the paper has no such split)."""

PROTOCOL = 1
"""Version of the numbers that the engine computes: raised by hand when they change, which a test notices."""

DEFAULT_BETAS = {"adam": (0.9, 0.999), "adamw": (0.9, 0.999), "lion": (0.9, 0.99)}
DEFAULT_EPS = 1e-8
"""Defaults of optimisers, as in torch and in Chen et al. 2023."""

OF_TORCH = "torch:"
"""Begins the name of an optimiser of torch.optim, as in `torch:RMSprop(alpha=0.9)`."""

BUDGETS = ("epochs", "steps", "images")
"""The settings that say how long a training is, of which it has one."""

COLOURS, MIXING = ("brightness", "contrast", "saturation"), ("mixup", "cutmix")
"""Augmentation by changes of colours, and by mixing two images."""

MEASUREMENT = 2
"""Version of the measurement of update variance; part of the identity of only those runs that measure it."""


@dataclass(frozen=True)
class Setting:
    """The settings that all runs of an experiment share.

    data: label of the data set.
    model: its name, with its arguments if it has some, see `models.canonical`.
    epochs: the number of epochs; 0 where the length of training is in `steps` or `images`.
    steps, images: in place of epochs the number of updates, or of images seen of which m make an update; the last epoch
        then ends early.
    train_images: the number of training images used; None: all.
    norm, norm_layers: normalisation (none, batch, group, the model's own) and the layers that have it (all, conv).
    lr_schedule: how the rate falls over training (drops, cosine, linear, one-cycle), see `training.schedule`.
    lr_drops, lr_drop_factor: fractions of training at which the rate is multiplied by the factor.
    warmup, warmup_fraction, warmup_start: whether the rate first rises linearly, over which fraction of training, and
        from which fraction of eta; in the paper over the first 5 % from eta / 32 (Masters & Luschi 2018, section 3.4).
    lr_scaling: how eta scales with m, see `smallbatch.study.rates`.
    optimizer: sgd, nesterov, adam, adamw or lion, see `training.optimizers`; or torch:NAME with its arguments, of
        torch.optim.
    momentum, momentum_scaled: SGD's momentum, and whether eta is multiplied by 1 - momentum, which keeps the step per
        example.
    betas, eps: the betas of Adam and Lion, empty for other optimisers, and the eps of Adam.
    weight_decay_excludes: the parameters without weight decay: biases, norms or both.
    clip_norm: the norm to which a longer gradient of a mini-batch is shortened; None: no clipping.
    label_smoothing: the fraction of each training target that is spread over all classes.
    precision: float32; or tf32 or bf16 for matrix products and convolutions, with weights in float32.
    augment_pad: zero pixels added on each side before a random crop.
    augment_flip: whether images are flipped at random from left to right.
    augment_resized: whether photos are cropped at random size, position and aspect ratio.
    augment_brightness, augment_contrast, augment_saturation: strengths of colour jitter, as in torchvision; 0: none.
    augment_cutout: the side in pixels of a square that is blanked in each image; 0: none.
    augment_mixup, augment_cutmix: alpha of the distribution Beta(alpha, alpha) by which images of a mini-batch are
        mixed with each other; 0: not mixed.
    selection: the split that rates are chosen on: test, as in the paper, or validation, held out of the training split.
    variance_batch_sizes: the m at which the variance of an update is measured at some points of training.
    model_content: a hash over the file of a model that is not the project's own, see `models.content`.
    loss: cross_entropy, binary or mse, see `study.metrics`; where the loss is the user's own, that which it replaces.
    loss_function, loss_content: the user's own as FILE:FUNCTION, and a hash over the file; None: torch's.
    metrics: metrics that are recorded in tests beside accuracy, see `study.metrics`.

    Defaults must never change: they are left out of the identity of runs, so that a new setting renames no old run.
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
    augment_brightness: float = 0.0
    augment_contrast: float = 0.0
    augment_saturation: float = 0.0
    augment_cutout: int = 0
    augment_mixup: float = 0.0
    augment_cutmix: float = 0.0
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
    steps: int | None = None
    images: int | None = None
    loss: str = CROSS_ENTROPY
    loss_function: str | None = None
    loss_content: str | None = None
    metrics: tuple[str, ...] = ()

    @property
    def augment(self) -> str:
        """The augmentation in words: `none`, `pad 4`, `pad 4 + flip`, `resized crop + flip + cutout 16`."""
        words = [
            *[f"pad {self.augment_pad}"] * (self.augment_pad > 0),
            *["resized crop"] * self.augment_resized,
            *["flip"] * self.augment_flip,
            *(f"{name} {value:g}" for name, value in self.color_jitter.items() if value),
            *[f"cutout {self.augment_cutout}"] * (self.augment_cutout > 0),
            *(f"{name} {alpha:g}" for name, alpha in self.mixing.items() if alpha),
        ]
        return " + ".join(words) or "none"

    @property
    def color_jitter(self) -> dict[str, float]:
        """The strength of each change of colours, in the order of their numbers in `smallbatch.data.augmentation`."""
        return {name: getattr(self, f"augment_{name}") for name in COLOURS}

    @property
    def mixing(self) -> dict[str, float]:
        """The ways of mixing two images, of which a run uses one at most, with the alpha of each."""
        return {name: getattr(self, f"augment_{name}") for name in MIXING}

    def updates(self, batch_size: int, steps: int) -> int:
        """The number of updates of a training with this batch size, with `steps` of them in an epoch."""
        return self.steps or (self.images // batch_size if self.images else self.epochs * steps)

    def images_and_epochs(self, batch_size: int, images: int) -> tuple[int, int]:
        """How many images a training with this batch size sees, and how many epochs it begins.

        Args:
            batch_size: m.
            images: the number of images of an epoch, with those that do not fill a last batch.
        """
        if self.epochs:
            return self.epochs * images, self.epochs
        updates = self.updates(batch_size, 0)
        return updates * batch_size, math.ceil(updates / max(1, images // batch_size))

    @property
    def primary_metric(self) -> str:
        """The metric that rates are chosen by and that decides whether a run has converged, see `study.metrics`."""
        return PRIMARY[self.loss]

    @property
    def optimizer_tensors(self) -> int:
        """The number of weight-sized tensors that the optimiser keeps from one update to the next."""
        if self.optimizer.startswith(OF_TORCH):
            return 3  # none of torch.optim keeps more
        return (
            len(self.betas) if self.optimizer.startswith("adam") else int(self.optimizer == "lion" or self.momentum > 0)
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Setting":
        """The setting with these values of its fields, read from JSON."""
        return cls(**_from_json(values))


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


_SETTINGS = tuple(field.name for field in fields(Setting))
_DEFAULTS = _as_json({field.name: field.default for field in fields(Setting) if field.default is not MISSING})


@dataclass(frozen=True)
class Run:
    """One training: everything that can change its numbers, except the content of its data.

    batch_size: m, examples of one update.
    bn_batch_size: b, examples of one batch statistic; m unless set.
    base_lr: eta / m, see `smallbatch.study.rates`; None until the best rate of other experiments is chosen for it.
    """

    setting: Setting
    batch_size: int
    bn_batch_size: int
    base_lr: BaseLr | None
    seed: int

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings by name, flat, as JSON values."""
        own_values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "setting"}
        return _as_json({name: getattr(self.setting, name) for name in _SETTINGS}) | own_values

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Run":
        """The run with these settings, as `settings` returns them."""
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

    def why_not_shareable(self, processes: int) -> str:
        """Why `processes` processes cannot share the run's mini-batches evenly; empty if they can."""
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
        """The name of the run's folder: readable, ending in a hash over everything that can change its numbers.

        A run whose rate is not chosen yet has a name that no trained run has.

        Args:
            fingerprint: the fingerprint of the prepared data.
        """
        # Cached, since callers ask for the names of thousands of runs again and again.
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
        # Without its arguments, which the hash is over, too; ":" is not allowed in file names everywhere.
        model = s.model.partition("(")[0].replace(":", "-")
        return f"{s.data}_{model}-{norm}_m{self.batch_size}{b}_{rate}_seed{self.seed}-{digest}"


Chosen = Mapping[int, BaseLr]
"""Batch size m -> the base learning rate that was best for it."""


@dataclass(frozen=True)
class Experiment:
    """A setting with its grid.

    base_lrs: the rates of the grid; empty where `best_of` is set.
    best_of: experiments that the best rate for each m is taken from: the last of them that has this m.
    """

    name: str
    setting: Setting
    batch_sizes: tuple[int, ...]
    bn_batch_sizes: tuple[int, ...] | None
    base_lrs: tuple[BaseLr, ...]
    seeds: tuple[int, ...]
    best_of: tuple[str, ...] = ()

    def runs(self, chosen: Chosen | None = None) -> Iterator[Run]:
        """Every cell of the grid with b <= m, with every seed.

        Args:
            chosen: the rates chosen through `best_of`; without one the run's rate is None.
        """
        for m in self.batch_sizes:
            rates = self.base_lrs or ((chosen or {}).get(m),)
            for b in self.bn_batch_sizes or (m,):
                if b <= m:
                    for base_lr, seed in itertools.product(rates, self.seeds):
                        yield Run(self.setting, m, b, base_lr, seed)

    def as_json(self) -> dict[str, Any]:
        """The experiment as JSON values."""
        return _as_json(asdict(self)) | {"setting": _as_json(asdict(self.setting))}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Experiment":
        """The experiment, from the values that `as_json` returned."""
        return cls(**_from_json(values) | {"setting": Setting.from_json(values["setting"])})


COMPARING = ("best", "range", "cost")
"""Kinds of figures that draw all their experiments in one plot."""


@dataclass(frozen=True)
class Study:
    """One checked file of `config/studies`.

    file: the path of the file.
    name: the file's name and what a call adds to it (the name of a scale, seeds, thresholds), for example
        `laptop-glimpse-seeds1`; also the name of its folders of results.
    scale: the scale that reduces the study; empty if there is none.
    reproduces: `paper` where the paper's claims are to be judged, else empty.
    claims: the user's own claims, by name, see `study.claims`.
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
        """Every pair of experiment and run; a run that two experiments share is listed twice.

        Args:
            chosen: experiment -> the rates chosen through its `best_of`, where they are known.
        """
        known = chosen or {}
        return [(e.name, run) for e in self.experiments.values() for run in e.runs(known.get(e.name))]

    def runs(self) -> list[Run]:
        """Every run once."""
        return list(dict.fromkeys(run for name in self.experiments for run in self.runs_of(name)))

    def runs_of(self, name: str, chosen: Chosen | None = None) -> list[Run]:
        """The runs of an experiment.

        Args:
            name: the name of the experiment.
            chosen: the rates chosen through its `best_of`. If None, a run that the experiments of `best_of` have too,
                whichever rate is chosen, is listed at one of their rates; the rate of the others is None.
        """
        e = self.experiments[name]
        if chosen is not None or not e.best_of:
            return list(e.runs(chosen))
        shared = {run for base in e.best_of for run in self.experiments[base].runs()}
        pairs = zip(e.runs(), e.runs(self.placeholder_rates(name)), strict=True)
        return [at_one if at_one in shared else later for later, at_one in pairs]

    def placeholder_rates(self, name: str) -> Chosen:
        """For each m of an experiment with `best_of`, one of the rates that may be chosen."""
        bases = [self.experiments[base] for base in self.experiments[name].best_of]
        return {m: base.base_lrs[0] for base in bases for m in base.batch_sizes}

    def sources(self, figure: str) -> list[str]:
        """The experiments that a figure shows, each after those that it takes its rates from."""
        names = self.figures[figure]["experiments"]
        return list(dict.fromkeys(one for name in names for one in (*self.experiments[name].best_of, name)))

    @property
    def labels(self) -> list[str]:
        """Labels of the data sets that the study needs."""
        return list(dict.fromkeys(e.setting.data for e in self.experiments.values()))

    def compared(self, figure: str) -> list[str]:
        """The experiments that the study's figures compare, in order of appearance, by which each has its colour.

        Empty for a figure that compares none.
        """
        comparing = [spec for spec in self.figures.values() if spec["kind"] in COMPARING]
        if self.figures[figure] not in comparing:
            return []
        return list(dict.fromkeys(name for spec in comparing for name in spec["experiments"]))

    def as_json(self) -> dict[str, Any]:
        """The study as JSON values, by which a job gets the study as it was when the workflow began."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return values | {"experiments": {name: e.as_json() for name, e in self.experiments.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Study":
        """The study, from the values that `as_json` returned."""
        experiments = {name: Experiment.from_json(e) for name, e in values["experiments"].items()}
        return cls(**{**values, "experiments": experiments})
