"""Claims of section 3.3: training with batch normalisation, without data augmentation and with it."""

from smallbatch.analysis.claims.claim import Check, Claim, best_in, best_words, each_of
from smallbatch.analysis.predicates import (
    accuracy_declines,
    best_accuracy,
    convergence,
    gains_between_grids,
    learning_curves,
)

_BN = ("fig07", "fig08", "fig09")

CLAIMS = (
    Claim(
        "C7",
        "3.3",
        "at eta_base = 2^-8 the curves of 4 <= m <= 64 nearly coincide; larger m are worse",
        "test accuracy at the figure's rate, mean over the epochs of each learning rate: of each m in 4 ... 64 within "
        "{same} points of their mean; and mean over all epochs: of each larger m more than {margin} points below that",
        (
            *each_of(["fig04"], learning_curves.coincide, "phase", low=4, high=64),
            *each_of(["fig04"], learning_curves.worse_beyond, "curve", low=4, high=64),
        ),
        "curves coincide where they do so before, between and after the drops of the learning rate",
    ),
    Claim(
        "C8",
        "3.3",
        "BN improves AlexNet over a wide range of m",
        "for both variants of BN, best accuracy with it minus without: median over m above {margin} points",
        (
            Check(("fig01", "fig05"), gains_between_grids.median_gain),
            Check(("fig01", "fig06"), gains_between_grids.median_gain),
        ),
    ),
    Claim(
        "C9",
        "3.3",
        "BN on convolutions and FC: best m in 8 ... 64; the smallest m suffer",
        best_words("m = 8 ... 64") + "; and the best there minus the best at the smallest m: above {margin} points",
        (
            *best_in(["fig05"], 8, 64),
            *each_of(["fig05"], best_accuracy.smallest_suffers, low=8, high=64),
        ),
        "the smallest m suffer in accuracy; of their range of rates C24 speaks, which leaves them out with BN",
    ),
    Claim(
        "C10",
        "3.3",
        "BN on convolutions only: best m in 4 ... 32",
        best_words("m = 4 ... 32"),
        (*best_in(["fig06"], 4, 32),),
    ),
    Claim(
        "C11",
        "3.3",
        "both BN variants reach about the same best accuracy",
        "difference of the best accuracies: within ±{same} points",
        (Check(("fig05", "fig06"), best_accuracy.same_peak),),
    ),
    Claim(
        "C12",
        "3.3",
        "ResNet-32 with BN: best at m = 4 or 8; accuracy falls as m grows",
        f"in each figure, {best_words('m = 4 ... 8')}; and fall of the best accuracies from m = 8 to the largest "
        "({large_batch} or more), of a line over log2 m: above {margin} points",
        (
            *best_in(_BN, 4, 8),
            *each_of(_BN, accuracy_declines.falls_to_large, low=8),
        ),
        "accuracy falls on the whole, not at every step",
    ),
    Claim(
        "C13",
        "3.3",
        "the best eta_base is usable only for m <= 16 (CIFAR-10), m <= 8 (CIFAR-100)",
        "at each m and the overall best rate, share of seeds that converge (m ≤ 16; fig09: m ≤ 8) or do not (larger "
        "m, out to {large_batch} or more): above {converged_share}",
        (
            *each_of(["fig07", "fig08"], convergence.best_rate_usable_up_to, bound=16),
            *each_of(["fig09"], convergence.best_rate_usable_up_to, bound=8),
        ),
        "the best rate is the one that is best in the study; it is usable where more than that share of seeds converge",
    ),
)
