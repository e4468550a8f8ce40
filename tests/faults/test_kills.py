"""A few trainings killed at random moments; `kills.py` kills many more, and workflows."""

import os

import pytest
from kills import GRACE, INTERVAL, kill_trainings


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "waitid"), reason="asks with waitid whether a process has ended")
def test_killed_trainings_end_in_the_same_bits(tmp_path):
    tally = kill_trainings(tmp_path, 5)
    assert tally.kills >= 5 and not tally.wrong
    assert tally.lost < INTERVAL + GRACE
