"""What power a test of 5 % can have where a best is compared with a best: `python benchmarks/power.py [CLAIM ...]`.

For the studies of benchmarks/verdicts.py at five seeds, and for tests that know how wide the noise is and which rate is
the best. By the lemma of Neyman and Pearson no test that is wrong in at most 5 % of studies has more power at a truth
than the likelihood ratio of this truth to a mixture of truths at which the test is wrong. The mixture here has each
cell of the other side tie with the best in turn. Any mixture bounds the power; of several, the lowest bound is printed.
Beside it stands the test that has to pass each cell of the other side by itself, as docs/verdicts.md says of verdicts.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from smallbatch.analysis.claims.catalogue import CLAIMS
from smallbatch.analysis.predicates import best_accuracy
from verdicts import BUILDS, IMAGES, NOISE, OWN, Study, Truth, cases

SEEDS = 5
DRAWS = 20_000
LEVEL = 0.05
ERROR = np.hypot(NOISE / np.sqrt(SEEDS), 100 * np.sqrt(OWN * 0.9 * 0.1 / IMAGES))
"""Standard error of a cell, in points, without what all cells share."""

RAISED = np.linspace(0.125, 1, 8)
"""How far up to the winners the cell is that ties with them: 1 is all the way."""

LOWERED = (0.0, 0.25, 0.5)
"""Standard errors by which the others of its side are lower then."""


class Bests(NamedTuple):
    """True means of cells, in standard errors, of the side that has the best one and of the other side."""

    winners: np.ndarray
    others: np.ndarray


def comparisons(name: str, study: Study) -> Iterator[Bests]:
    """Those of a claim that say on which side the best is, as though it were inside."""
    [claim] = [claim for claim in CLAIMS if claim.name == name]
    for check in claim.checks:
        if check.about is best_accuracy.best_within:
            low, high = (check.predicate.keywords[end] for end in ("low", "high"))
            for line in (line for truth in study[check.figures[0]] for line in _lines(truth)):
                inside = {size for size in line if low <= size <= high}
                sides = [[line[size] for size in sizes] for sizes in (inside, line.keys() - inside)]
                if all(sides):
                    yield Bests(*(np.array(side) / ERROR for side in sides))


def _lines(truth: Truth) -> list[dict[int, float]]:
    """Percent by m; or by b, for each m."""
    lines: dict[int, dict[int, float]] = {}
    for size, percent in truth.best.items():
        m, b = size if isinstance(size, tuple) else (0, size)
        lines.setdefault(m, {})[b] = percent
    return [*lines.values()]


def bound(compared: Sequence[Bests], draws: np.random.Generator) -> float:
    """The most power of any test to find that in all comparisons the winners have the best cell."""
    return min(_power_of_ratio(compared, raised, lowered, draws) for raised in RAISED for lowered in LOWERED)


def _power_of_ratio(compared: Sequence[Bests], raised: float, lowered: float, draws: np.random.Generator) -> float:
    true = [np.concatenate(bests) for bests in compared]
    moves = [
        (place, tie - true[place]) for place, bests in enumerate(compared) for tie in _ties(bests, raised, lowered)
    ]

    def ratio(errors: Sequence[np.ndarray]) -> np.ndarray:
        """(draws), log of the likelihood of the mixture less that of the truth."""
        logs: np.ndarray = logsumexp([errors[place] @ move - move @ move / 2 for place, move in moves], axis=0)
        return logs

    at_truth, at_ties = ([draws.standard_normal((DRAWS, len(mean))) for mean in true] for _ in range(2))
    tie = draws.integers(len(moves), size=DRAWS)
    for number, (place, move) in enumerate(moves):
        at_ties[place][tie == number] += move
    return float((ratio(at_truth) < np.quantile(ratio(at_ties), LEVEL)).mean())


def _ties(bests: Bests, raised: float, lowered: float) -> Iterator[np.ndarray]:
    """Means of all cells: one of the other side's highest is raised, the winners are cut down until they tie."""
    winners, others = bests
    top = others.max() + raised * (winners.max() - others.max())
    for place in np.flatnonzero(np.isclose(others, others.max())):
        moved = np.fmin(others - lowered, top)
        moved[place] = top
        yield np.concatenate([np.fmin(winners, top), moved])


def cell_by_cell(compared: Sequence[Bests], draws: np.random.Generator) -> float:
    """Power of the test that takes all winners for ties and passes every cell of the other side by itself."""

    def drawn(means: np.ndarray) -> np.ndarray:
        best: np.ndarray = (means + draws.standard_normal((DRAWS, len(means)))).max(axis=1)
        return best

    powers = []
    for winners, others in compared:
        limit = np.quantile(drawn(np.zeros(len(winners))) - drawn(np.zeros(1)), 1 - LEVEL)
        powers.append((drawn(winners) - drawn(others) > limit).mean())
    return float(np.prod(powers))


def line(name: str, draws: np.random.Generator) -> list[float]:
    """Of a claim, to support it where it is true and to refute it where it is false: most power, and cell by cell."""
    build, step = BUILDS[name]
    true, false = (list(comparisons(name, build(*cases(step)[case]))) for case in ("true", "false"))
    wrong = [Bests(outside, inside) for inside, outside in false if outside.max() > inside.max() + 1e-9]
    return [power(those, draws) if those else np.nan for those in (true, wrong) for power in (bound, cell_by_cell)]


def main() -> None:
    print(
        "| claim | supported: any test | cell by cell | refuted: any test | cell by cell |\n|---|---:|---:|---:|---:|"
    )
    for name in sys.argv[1:] or [name for name, (build, _) in BUILDS.items() if any(comparisons(name, build(0, 0)))]:
        powers = line(name, np.random.default_rng(int(name[1:])))
        print(f"| {name} | {' | '.join('-' if np.isnan(power) else f'{power:.0%}' for power in powers)} |", flush=True)


if __name__ == "__main__":
    main()
