"""What pictures and their folders are called that may be no pictures or classes of their own: refused, both readings.

Names of files are below the folder that holds the class folders.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from smallbatch.core.errors import UserError
from smallbatch.data.tree import folded, shown, some, text

_COPIES = re.compile(r"[\W_]*((thumb(nail)?|preview|backup)s?|cache[ds]?)[\W_]*")
"""What programs call folders that hold other pictures once more."""

_DATE = re.compile(r"(19|20)\d\d(\W?\d\d){0,2}")

_LONGEST_NUMBER = 5
"""Digits of a part's number; names such as ImageNet's n01443537 have more."""

_CLASS = re.compile("#?(class|category|label)#?")
"""Numbered names that say themselves that they are classes."""


def refuse_copies(where: Path, name: str) -> None:
    """Refuse a file in a folder that is called as programs call those with copies of other pictures."""
    for depth, part in enumerate(folders := name.split("/")[:-1], start=1):
        if _COPIES.fullmatch(folded(text(part))):
            copies = shown("/".join(folders[:depth]))
            both = "either copies of other pictures, then move it out; or pictures of their own, then call it otherwise"
            raise UserError(f"{where}: doubtful: {copies}/: {both}")


def refuse_parts(where: Path, images: Mapping[str, Sequence[str]]) -> None:
    """Refuse class folders that may be folds, domains or versions of one data set and hold the classes themselves."""
    inner = [{_subfolder(file) for file in files} for files in images.values()]
    if any("" in names for names in inner) or all(names == inner[0] and len(names) == 1 for names in inner):
        return  # pictures of the class itself; or in one folder each, which tells nothing apart
    counts = Counter(name for names in inner for name in names if not _DATE.fullmatch(name))
    if shared := sorted(name for name, count in counts.items() if count > 1):
        what = f"hold folders alone, {_list(shared)} in several"
    elif _are_numbered(images):
        what = f"are numbered and hold folders alone, {_list(sorted(set().union(*inner)))}"
    else:
        return
    both = "either parts of the data, then unite them or let `path` name one; or classes, then unite what each holds"
    raise UserError(f"{where}: doubtful: {_list(list(images))} {what}: {both}")


def _subfolder(file: str) -> str:
    """The folder in its class folder that a picture lies in; nothing for the class folder itself."""
    return folded(text("/".join(file.split("/")[1:-1][:1])))


def _are_numbered(names: Iterable[str]) -> bool:
    """Whether names are one word with numbers, such as part1 and part2, or 1of2 and 2of2."""
    words = {re.sub(r"[\W\d_]+", "#", folded(name)) for name in names}
    numbered = all(re.search(r"\d", name) for name in names) and len(words) == 1 and words != {"#"}
    long = any(re.search(rf"\d{{{_LONGEST_NUMBER + 1}}}", name) for name in names)
    return numbered and not long and not any(map(_CLASS.fullmatch, words))


def _list(folders: Sequence[str]) -> str:
    return some([f"{folder}/" for folder in folders])
