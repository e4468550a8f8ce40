"""Random streams: each is derived from (seed, purpose, epoch, step), so it depends on nothing that ran before."""

import hashlib


def stream_seed(seed: int, purpose: str, epoch: int = 0, step: int | None = None) -> int:
    """A 63-bit seed for one purpose such as initialisation, order, subset or cutout, at an epoch, or step of it."""
    moment = f"{epoch}" if step is None else f"{epoch}/{step}"
    digest = hashlib.sha256(f"{seed}/{purpose}/{moment}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
