"""The size of a data set, for estimates before anything is downloaded or decoded."""

from pathlib import Path
from typing import Any

from smallbatch.core.errors import UserError
from smallbatch.data import label, original_size, size_of_source
from smallbatch.data.prepared import META, Meta, read_meta
from smallbatch.data.public_datasets import PUBLIC_DATASETS, DatasetInfo


def size_of(meta: Meta) -> DatasetInfo:
    """The size of a prepared data set."""
    return DatasetInfo(meta.shape, len(meta.classes), meta.train, meta.test, meta.value_bytes, meta.targets)


def dataset_info(key: str, settings: dict[str, Any], data: Path) -> DatasetInfo:
    """The size of a data set: of the prepared data, else of the original, if it is that.

    Args:
        key: the data set's name in the configuration.
        settings: its settings in the configuration.
        data: the folder of prepared data sets.

    Raises:
        UserError: the size is not known before the data set is prepared.
    """
    folder = data / label(key, settings)
    if (folder / META).exists():
        meta = read_meta(folder / META)
        return size_of(meta)
    if size := original_size(settings):
        return size
    raise UserError(f"{folder}: not prepared yet, so its size is not known; `snakemake datasets` prepares it")


def image_shape_and_classes(key: str, settings: dict[str, Any], data: Path) -> tuple[tuple[int, int, int], int]:
    """Image shape and number of classes or outputs, which of data of one's own are read.

    Where only preparing tells, as of an archive of pictures, the latter is assumed to be 10.

    Args:
        key: the data set's name in the configuration.
        settings: its settings in the configuration.
        data: the folder of prepared data sets.
    """
    try:
        known = dataset_info(key, settings, data)
    except UserError:  # not prepared, or damaged; damage is reported when the data are read
        if size := PUBLIC_DATASETS.get(settings["source"]) or size_of_source(settings):
            return size.shape, size.classes
        channels = 1 if settings.get("mode") == "L" else 3
        return (channels, settings["size"], settings["size"]), 10
    return known.shape, known.classes
