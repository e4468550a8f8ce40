"""All claims of the paper."""

from smallbatch.analysis.claims import bn_batches, imagenet, overall, warmup, with_norm, without_norm
from smallbatch.analysis.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = (
    *without_norm.CLAIMS,
    *with_norm.CLAIMS,
    *warmup.CLAIMS,
    *imagenet.CLAIMS,
    *bn_batches.CLAIMS,
    *overall.CLAIMS,
)
"""In order, C1 to C26."""
