"""Whether the experiments of a study fit their data, as far as these are known."""

from dataclasses import replace

from smallbatch import models
from smallbatch.core.errors import refuse
from smallbatch.data.folder_listing import shown
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.study.experiments import VALIDATION_FRACTION, Experiment, Study
from smallbatch.study.metrics import BINARY, TARGETS, TOP


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
    if size.targets not in TARGETS[s.loss]:
        fitting = [loss for loss, targets in TARGETS.items() if size.targets in targets]
        kinds = "integers [n] are classes, booleans 0 or 1, floats numbers"
        such = f", as {shown(size.a_number)} is neither 0 nor 1" if size.a_number and s.loss == BINARY else ""
        labels = f"the labels of {label}, which are {size.targets or 'classes'}{such} ({kinds})"
        refuse(where, f"{key}.loss", s.loss, f"{' or '.join(fitting)} with {labels}")
    if "top5" in s.metrics and size.classes <= TOP:
        refuse(where, f"{key}.metrics", "top5", f"with more than {TOP} classes; {label} has {size.classes}")
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
