"""What several files of tests of trainings start from."""

import pytest


@pytest.fixture
def peers_elsewhere(monkeypatch):
    """As a container of a training of several nodes has their number, and options of torchrun."""
    there = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    for name, value in (there | {"PET_NNODES": "2", "PET_NODE_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
