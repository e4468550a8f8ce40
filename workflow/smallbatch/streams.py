"""Random streams: each is derived from (seed, purpose, epoch), so it depends on nothing that ran before."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 63-bit seed for one purpose (initialisation, order, augmentation, subset) at one epoch."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, purpose: str, epoch: int = 0) -> "torch.Generator":
    """A generator on the CPU, whatever device trains, so that all devices see the same draws."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, purpose, epoch))
