"""Some mutated files against each reader; `fuzz.py` tries many more."""

import pytest
from fuzz import faulty, fuzz
from kinds import KINDS

COUNT = 150


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_mutated_files_are_refused_or_give_the_same(name, tmp_path):
    counts = fuzz(name, range(COUNT), tmp_path)
    assert not faulty(counts), {what: (len(seeds), seeds[0]) for what, seeds in faulty(counts).items()}
