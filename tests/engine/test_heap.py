"""Memory that is freed is kept in the process, and returned to the system where it is much."""

import pytest
import torch

from smallbatch.training.resources import device as devices
from smallbatch.training.resources import heap

CPU = torch.device("cpu")


@pytest.mark.skipif(not heap._unused(), reason="only the GNU C library keeps memory")
def test_memory_that_is_kept_is_given_back_where_it_is_much():
    devices.pick("cpu")
    heap.release_unused(above=0)  # what other tests have freed would be taken again
    devices.reset_peak_memory(CPU)
    before = devices.current_memory()
    blocks = [torch.ones(8 * 2**20) for _ in range(12)]
    pins = [torch.ones(2**20) for _ in range(6)]  # at the heap's end, so that it cannot just be cut off
    del blocks
    assert devices.current_memory() - before > 150 * 2**20 and heap._unused() > heap.KEPT
    heap.release_unused(above=2**40)
    assert devices.current_memory() - before > 150 * 2**20
    devices.release_memory(CPU)
    assert devices.current_memory() - before < 50 * 2**20 and len(pins) == 6


def test_a_library_without_these_functions_is_left_alone(monkeypatch):
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    heap.keep_freed_memory()
    heap.release_unused(above=1)
