"""Claims of section 3.6: batches of batch normalisation smaller than those of SGD."""

from smallbatch.analysis.claims.claim import Claim, best_in, each_of
from smallbatch.analysis.predicates import accuracy_declines, best_accuracy

CLAIMS = (
    Claim(
        "C20",
        "3.6",
        "for a fixed BN batch, a smaller SGD batch is better",
        "in each figure and for each BN batch, fall of accuracy from the smallest m to the largest, of a line over "
        "log2 m: above {margin} points",
        (*each_of(["fig13a", "fig13b", "fig14"], accuracy_declines.falls_from, "bn_batch_size"),),
    ),
    Claim(
        "C21",
        "3.6",
        "CIFAR: BN batch 4 or 8 is best for every SGD batch; on CIFAR-100 the best BN batch is below the SGD batch",
        "for each SGD batch, best accuracy at BN batch 4 ... 8 minus best at others: above 0 points; and on CIFAR-100 "
        "(fig13b), for each SGD batch above 8, best at BN batches below it minus accuracy at the whole batch: above 0 "
        "points",
        (
            *best_in(["fig13a", "fig13b"], 4, 8, "batch_size"),
            *each_of(["fig13b"], best_accuracy.smaller_bn_batch_is_better, "batch_size", above=8),
        ),
        "at SGD batches of 4 and 8 the whole batch is itself a BN batch of 4 or 8, so the second half speaks of larger "
        "ones; rates were chosen by runs with the whole batch, which is so favoured a little",
    ),
    Claim(
        "C22",
        "3.6",
        "ImageNet: BN batch in 16 ... 64 is best for every SGD batch",
        "for each SGD batch, best accuracy at BN batch 16 ... 64 minus best at others: above 0 points",
        (*best_in(["fig14"], 16, 64, "batch_size"),),
    ),
)
