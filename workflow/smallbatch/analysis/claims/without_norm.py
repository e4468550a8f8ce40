"""Claims of section 3.2: training without batch normalisation."""

from smallbatch.analysis.claims.claim import RATES_THAT_CONVERGE, Claim, best_in, best_words, each_of
from smallbatch.analysis.predicates import accuracy_declines, best_accuracy, convergence, converging_rates

_NO_BN = ("fig01", "fig02", "fig03")

CLAIMS = (
    Claim(
        "C1",
        "3.2",
        "reduced AlexNet without BN: best accuracy at some m <= 8",
        best_words("m ≤ 8"),
        (*best_in(["fig01"], 1, 8),),
    ),
    Claim(
        "C2",
        "3.2",
        "ResNet-8 and ResNet-20 without BN: best accuracy at m = 2 or 4",
        "in each figure, " + best_words("m = 2 ... 4"),
        (*best_in(["fig02", "fig03"], 2, 4),),
    ),
    Claim(
        "C3",
        "3.2",
        "there is an m above which the overall best eta_base no longer trains stably",
        "in each figure, share of seeds that fail to converge at the largest m ({large_batch} or more), at the overall "
        "best rate: above {converged_share}",
        (*each_of(_NO_BN, convergence.best_rate_fails_at_largest),),
        "a study that stops before large m cannot tell: that nothing has failed so far refutes nothing",
    ),
    Claim(
        "C4",
        "3.2",
        "at a fixed eta_base, growing m first degrades accuracy and then makes training collapse",
        "in each figure that reaches m = {large_batch}, over the rates that train at the smallest m: accuracy there "
        "minus accuracy at the last m at which every seed trains, on average above {margin} points; and share of seeds "
        "that fail at the largest m above {converged_share}",
        (
            *each_of(_NO_BN, accuracy_declines.degrades_before_collapse),
            *each_of(_NO_BN, convergence.collapses),
        ),
        "degrading is judged where no seed fails: otherwise collapse would pass for it",
    ),
    Claim(
        "C5",
        "3.2",
        "the smallest m have the widest range of eta_base that converges",
        f"in each figure, {RATES_THAT_CONVERGE}: "
        "the mean over m ≤ {smallest_batch} minus that at each larger m: above 0 rates",
        (*each_of(_NO_BN, converging_rates.smallest_have_widest_range),),
        "the smallest m together, against each other m: the widest of several is too wide by chance",
    ),
    Claim(
        "C6",
        "3.2",
        "ResNet-32 without BN trains only for m = 2, 4, 8 (of 2 ... 2048); best about 76 %",
        "at each m and the rate where most seeds converge, share of seeds that do (m ≤ 8) or do not (m > 8, out to "
        "{large_batch} or more): above {converged_share}; and best accuracy within {near} points of 76 %",
        (
            *each_of(["sec32"], convergence.trains_only_up_to, bound=8),
            *each_of(["sec32"], best_accuracy.peak_accuracy_near, percent=76),
        ),
    ),
)
