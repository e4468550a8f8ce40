"""Claims on all experiments (section 4), on longer training (appendix A) and on the variance of updates (section 2)."""

from smallbatch.analysis.claims.claim import RATES_THAT_CONVERGE, Check, Claim, best_in, best_words, each_of
from smallbatch.analysis.predicates import accuracy_declines, converging_rates, gains_between_grids, large_batches

_LONGER = (("fig17", "fig08"), ("fig08", "fig18"), ("fig17", "fig18"))

CLAIMS = (
    Claim(
        "C23",
        "4",
        "best accuracy is always at m <= 32; without BN it keeps improving down to m = 2",
        f"for each experiment, {best_words('m ≤ 32')}; and without BN, fall of the best accuracies from m = 2 to "
        "{small_batch}, of a line over log2 m: above 0 points",
        (
            *best_in(["fig15"], 1, 32),
            *each_of(["fig15"], accuracy_declines.improves_down_to_two_without_norm),
        ),
        "it keeps improving on the whole, not at every step; which m is best C1 and C2 say",
    ),
    Claim(
        "C24",
        "4",
        "the range of converging eta_base shrinks steadily as m grows",
        f"for each experiment, {RATES_THAT_CONVERGE}: "
        "fall from the smallest m to the largest ({large_batch} or more), of a line over log2 m: above 0 rates; with "
        "BN from m = {smallest_batch} on",
        (*each_of(["fig16"], converging_rates.range_shrinks),),
        "steadily is a trend, not every step; with BN the smallest m suffer (C9), so their trend starts after them",
    ),
    Claim(
        "C25",
        "A",
        "longer training helps; at the best eta_base it helps large m most; large m still stay below small m",
        "for each two lengths of training, accuracy after the longer minus after the shorter: of the best, mean over m "
        "above {margin} points; at the overall best rate of the shorter, mean over m > {small_batch} minus mean over "
        "smaller m above {margin} points; and after the longer, mean over m ≤ {small_batch} of the best minus mean "
        "over larger m above {margin} points",
        (
            *[Check(figures, gains_between_grids.mean_gain) for figures in _LONGER],
            *[Check(figures, gains_between_grids.longer_training_gains_more_at_large_batches) for figures in _LONGER],
            *[Check(figures, large_batches.large_still_below) for figures in _LONGER],
        ),
    ),
    Claim(
        "C26",
        "2",
        "at fixed eta_base the variance of the weight update grows linearly with m (not measured in the paper)",
        "for each experiment whose batch statistics, if any, are of sub-batches, at each epoch measured: slope of log2 "
        "trace of the update's covariance over log2 m, by least squares, mean over seeds: within 1 ± {slope_tolerance}",
        (),
        "where an example's gradient depends on no other, the trace is eta_base^2 m S^2 by arithmetic (S^2: the "
        "variance of an example's gradient), so this tests the measurement. What is learnt is S^2 over training and "
        "over the m that is trained with, and how far the trace is from linear with BN over the whole mini-batch, of "
        "which the paper's theory does not speak: figures of kind variance and example-variance",
    ),
)
