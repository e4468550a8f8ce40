"""Refuse folders whose names suggest that they hold copies, masks or parts of a data set, not classes.

Error messages give both interpretations. File names are relative to the folder that holds the class folders.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from smallbatch.core.errors import UserError
from smallbatch.data.folder_listing import folded, shown, some, text

_COPIES = re.compile(r"[\W_]*((thumb(nail)?|preview|backup)s?|cache[ds]?)[\W_]*")
"""Names that programs give to folders with copies of other images."""

_NO_CLASS = re.compile(r"(19|20)\d\d(\W?\d\d){0,2}|(image|img|picture|photo)s?")
"""Subfolder names that are never class names: dates and words such as `images`."""

_MASK = r"(mask|label|annotation|segmentation|trimap|bbox|target|depth|ground[\W_]?truth|gt)s?"
_PICTURES = re.compile(r"((?P<of>.*)[\W_])?(jpeg)?(image|img|picture|photo)s?")
_MASKS = re.compile(rf"((?P<of>.*)[\W_])?({_MASK}|segmentation(class|object))")
"""Names of folders of images, and of folders of their labels, in data sets for segmentation and detection."""

_MASK_FILE = re.compile(rf"(?P<of>.+)[\W_]({_MASK}|seg)[\W_]*\d*[\W_]*", re.DOTALL)

_FEW = 0.1
"""If less than this fraction of a class's images are named like masks, it is taken for coincidence."""

_LONGEST_NUMBER = 5
"""Maximum number of digits in the number of a part; names such as ImageNet's n01443537 have more."""

_CLASS = re.compile("#?(class|category|label)#?")
"""Numbered names that are certainly classes, such as class1."""


def refuse_copy_folders(where: Path, name: str) -> None:
    """Refuse a file in a folder with a typical name for copies (thumbnails, backup, cache)."""
    for depth, part in enumerate(folders := name.split("/")[:-1], start=1):
        if _COPIES.fullmatch(folded(text(part))):
            copies = shown("/".join(folders[:depth]))
            both = "either copies of other pictures, then move it out; or pictures of their own, then call it otherwise"
            raise UserError(f"{where}: doubtful: {copies}/: {both}")


def refuse_masks(where: Path, images: Mapping[str, Sequence[str]]) -> None:
    """Refuse images that, by their names or their folders' names, may be masks or labels of other images."""
    _refuse_folders_of_masks(where, {file.rpartition("/")[0] for files in images.values() for file in files})
    for name, files in images.items():
        by_stem = {_stem(file): file for file in files}
        masks = {file: by_stem[stem] for file in files if (stem := _masked(file)) in by_stem}
        if masks and len(masks) >= _FEW * len(files):
            mask, picture = min(masks.items())
            what = f"{len(masks)} of {len(files)} pictures are called as masks of others, as {mask} of {picture}"
            both = "either masks, then move them out; or pictures of their own, then call them otherwise"
            raise UserError(f"{where}: doubtful: class {shown(f'{name}: {what}')}: {both}")


def _refuse_folders_of_masks(where: Path, holding: Collection[str]) -> None:
    """Refuse folders named like masks beside a folder of images, or in a class folder that holds images.

    Args:
        where: data set, for error messages.
        holding: folders that hold images.
    """
    pictures = {(folder, ""): f"pictures in {folder}" for folder in holding}
    paths = sorted({path for folder in holding for path in itertools.accumulate(folder.split("/"), "{}/{}".format)})
    masks: dict[tuple[str, str], str] = {}
    for path in paths:
        parent, _, name = path.rpartition("/")
        for pattern, found in ((_PICTURES, pictures), (_MASKS, masks)):
            if match := pattern.fullmatch(folded(text(name))):
                found[parent, match["of"] or ""] = path
    for key, path in masks.items():
        if key in pictures:
            what = shown(f"{path}/ beside {pictures[key]}/")
            both = "either masks or labels, which are no class, then move them out; or pictures of their own"
            raise UserError(f"{where}: doubtful: {what}: {both}, then rename them")


def _stem(file: str) -> str:
    return folded(text(os.path.splitext(file)[0])).rstrip(" ._-")


def _masked(file: str) -> str:
    """The stem of the image of which a file, by its name, is the mask; empty if it is not named like a mask."""
    match = _MASK_FILE.fullmatch(_stem(file))
    return match["of"].rstrip(" ._-") if match else ""


def refuse_parts(where: Path, images: Mapping[str, Sequence[str]]) -> None:
    """Refuse class folders that may be folds, domains or versions of one data set, with the classes inside them."""
    inner = [{_subfolder(file) for file in files} for files in images.values()]
    if any("" in names for names in inner) or all(names == inner[0] and len(names) == 1 for names in inner):
        return  # images of the class itself; or one same folder in each, which distinguishes nothing
    counts = Counter(name for names in inner for name in names if not _NO_CLASS.fullmatch(name))
    if shared := sorted(name for name, count in counts.items() if count > 1):
        what = f"hold folders alone, {_list(shared)} in several"
    elif _are_numbered(images):
        what = f"are numbered and hold folders alone, {_list(sorted(set().union(*inner)))}"
    else:
        return
    both = "either parts of the data, then unite them or let `path` name one; or classes, then unite what each holds"
    raise UserError(f"{where}: doubtful: {_list(list(images))} {what}: {both}")


def _subfolder(file: str) -> str:
    """The subfolder of the class folder that an image lies in; empty for the class folder itself."""
    return folded(text("/".join(file.split("/")[1:-1][:1])))


def _are_numbered(names: Iterable[str]) -> bool:
    """Whether all names are the same word with numbers, such as part1 and part2, or 1of2 and 2of2."""
    words = {re.sub(r"[\W\d_]+", "#", folded(name)) for name in names}
    numbered = all(re.search(r"\d", name) for name in names) and len(words) == 1 and words != {"#"}
    long = any(re.search(rf"\d{{{_LONGEST_NUMBER + 1}}}", name) for name in names)
    return numbered and not long and not any(map(_CLASS.fullmatch, words))


def _list(folders: Sequence[str]) -> str:
    return some([f"{folder}/" for folder in folders])
