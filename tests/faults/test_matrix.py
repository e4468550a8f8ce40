"""Every kind of file that is read, damaged in every way: it is named, and nothing else is taken for what it held."""

import logging
import shutil

import pytest
from faults import FAULTS, damage, permissions_count, swapped
from kinds import KINDS

from smallbatch.core.errors import UserError

CELLS = [
    (name, fault)
    for name, kind in KINDS.items()
    for fault in FAULTS
    if not (kind.written or (kind.movable and FAULTS[fault] is swapped))
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), CELLS)
def test_damage_is_named(name, fault, tmp_path, caplog):
    kind, folders = KINDS[name], [tmp_path / "own", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    path, other = (kind.make(folder, number) for number, folder in enumerate(folders, 1))
    shutil.copytree(folders[0], tmp_path / "whole")
    whole = kind.read(tmp_path / "whole" / path.relative_to(folders[0]))
    assert whole is not None
    damage(FAULTS[fault], path, other)
    with caplog.at_level(logging.INFO), permissions_count():
        try:
            found, said = kind.read(path), ""
        except UserError as error:
            found, said = None, str(error)
    assert found is None or found == whole, "another outcome was taken"
    assert "\n" not in said
    assert not kind.decides or names(said + caplog.text, path), f"not named: {said}"


def names(text, path):
    """Whether a text names a file, or the folder of a run or of data, which is set aside or made again as a whole."""
    return path.stem in text or str(path.parent) in text
