"""Claims of section 3.5: ImageNet."""

from smallbatch.analysis.claims.claim import Claim, best_in, best_words, each_of
from smallbatch.analysis.predicates import convergence, large_batches

CLAIMS = (
    Claim(
        "C18",
        "3.5",
        "ImageNet: best at m in 16 ... 64",
        best_words("m = 16 ... 64"),
        (*best_in(["fig12"], 16, 64),),
    ),
    Claim(
        "C19",
        "3.5",
        "ImageNet: large m degrade most just where eta_base is best overall; m <= 32 are stable over the range",
        "mean accuracy over m ≤ {small_batch} minus mean over larger m, at the overall best rate minus that at each "
        "other rate: above 0 points; and at each m ≤ {small_batch} and rate where any m trains, share of seeds that "
        "converge: above {converged_share}",
        (
            *each_of(["fig12"], large_batches.large_degrade_most_at_best_rate),
            *each_of(["fig12"], convergence.small_are_stable),
        ),
    ),
)
