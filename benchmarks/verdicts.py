"""How often verdicts are wrong, by studies of known truth. Trains nothing; takes minutes.

    python benchmarks/verdicts.py [--studies 200] [C4 C9 ...]

For each claim it makes studies in which every comparison lies so deep in the region where the claim puts it: at its
border, barely inside, inside by 0.3 points, one rate or a slope of 0.04, or one of them outside by as much; and of
claims on a best alone studies in which one batch size ties with all of the other side. Each study has its own noise of
seeds and of test images, and cells half a rate from the border of convergence train by the toss of a coin. It judges
each study and prints a line a claim and number of seeds, as Markdown: how often it was wrongly supported and wrongly
refuted, in the worst of the cases, and the power to support what is true and to refute what is false.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from smallbatch.analysis.claims.catalogue import CLAIMS
from smallbatch.analysis.claims.claim import Claim
from smallbatch.analysis.claims.verdict_table import judge

CONFIG = Path(__file__).parents[1] / "config" / "config.yaml"
THRESHOLDS = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["claims"]
MARGIN, SAME, NEAR, TOLERANCE = (THRESHOLDS[name] for name in ("margin", "same", "near", "slope_tolerance"))

SEEDS = (1, 2, 3, 5)
SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
RATES = 4
TOP = 90.0
BEST = 1  # place of the rate that is best for every m
FLANKS = np.array([0.7, 0.0, 0.7, 2.0])  # points that each rate loses against the best one
EPOCHS = 10

CHANCE = 0.1
IMAGES = 10_000
NOISE = 0.3  # points, of a seed
SLOPE_NOISE = 0.04  # of a seed, about as in study laptop
SHARED, OWN = 0.4, 0.15  # of the binomial variance of test images: what all runs share; what seeds of one cell do

Points = Mapping[int, float]
"""Batch size -> percent at the best rate."""


@dataclass(frozen=True)
class Truth:
    """What an experiment would show without noise.

    best: percent at the best rate, by batch size; or by (m, b).
    widths: how many rates, from the smallest up, train; 2.5 means that the third does so half of the time.
    extra: points that are added at a rate, by (batch size, place of the rate).
    slopes: of the variance of updates over m, at each epoch measured.
    """

    best: Mapping
    widths: Mapping | float = RATES
    extra: Mapping = field(default_factory=dict)
    rates: int = RATES
    norm: str = "batch"
    slopes: Sequence[float] = ()


def level(value: float, sizes: Iterable[int] = SIZES) -> dict[int, float]:
    return dict.fromkeys(sizes, value)


def inside(low: int, high: int, depth: float, sizes: Sequence[int] = SIZES) -> dict[int, float]:
    """Level within low ... high, and `depth` points lower elsewhere."""
    return {m: TOP if low <= m <= high else TOP - depth for m in sizes}


def fall(total: float, start: int = 0) -> dict[int, float]:
    """From `start` up, a line over log2 m that falls by `total` points."""
    there = [m for m in SIZES if m >= start]
    steps = np.linspace(0, total, len(there))
    return level(TOP) | {m: TOP - step for m, step in zip(there, steps, strict=True)}


POINTS, RATE, SLOPE = 0.3, 1.0, 0.04
CLEAR = {POINTS: 2.0, RATE: 1.5, SLOPE: TOLERANCE}

Study = Mapping[str, Sequence[Truth]]
Build = Callable[[float, float], Study]
"""Takes how deep the first comparison lies in its region and how deep all others do; gives figures."""


def best_in(low: int, high: int, *figures: str, **settings) -> Build:
    def build(first: float, rest: float) -> Study:
        depths = [first, *[rest] * (len(figures) - 1)]
        return {
            figure: [Truth(inside(low, high, depth), **settings)]
            for figure, depth in zip(figures, depths, strict=True)
        }  # fmt: skip

    return build


def one_ties(low: int, high: int, *figures: str, **settings) -> list[Study]:
    """Twice: in the first figure all of one side tie with one size of the other, whose others are far lower.

    Luck raises the side of which many tie; of several claims on a best this is the least favourable truth.
    """
    depth = CLEAR[POINTS]
    claimed = {m for m in SIZES if low <= m <= high}
    ties = (claimed | {2 * high}, set(SIZES) - claimed | {high})
    rest = {figure: [Truth(inside(low, high, depth), **settings)] for figure in figures}
    return [rest | {figures[0]: [Truth({m: TOP - depth * (m not in tie) for m in SIZES}, **settings)]} for tie in ties]


def unstable(first: float, rest: float) -> Study:
    """C3: how many rates train at the largest three m, around the best one."""

    def one(depth: float) -> Truth:
        return Truth(fall(3), {m: 4.0 if m < 64 else BEST + 0.5 - depth for m in SIZES}, norm="none")

    return {"fig01": [one(first)], "fig02": [one(rest)], "fig03": [one(rest)]}


def degrading(first: float, rest: float) -> Study:
    """C4: accuracy at each rate is lower beyond m = 2 by the margin and the depth, and no rate trains beyond m = 64."""

    def one(depth: float) -> Truth:
        widths = dict(zip(SIZES, (4, 3.5, 3.5, 3, 2.5, 1.5, 0, 0), strict=True))
        return Truth(level(TOP - MARGIN - depth) | {2: TOP}, widths, norm="none")

    return {"fig01": [one(first)], "fig02": [one(rest)], "fig03": [one(rest)]}


def widest(first: float, rest: float) -> Study:
    def one(depth: float) -> Truth:
        return Truth(fall(3), {m: 2.5 if m <= 8 else 2.5 - depth for m in SIZES}, norm="none")

    return {"fig01": [one(first)], "fig02": [one(rest)], "fig03": [one(rest)]}


def only_small(first: float, rest: float) -> Study:
    """C6: whether m = 16 trains at its best rate, and the larger."""
    small = {2: 3, 4: 3, 8: 2}
    large = {16: 0.5 - first} | {m: 0.5 - rest for m in SIZES if m > 16}
    return {"sec32": [Truth(level(76.0), small | large, norm="none")]}


def coinciding(first: float, rest: float) -> Study:
    """C7: m = 64 is as far from the others as they may be apart; larger m are as near as they may be."""
    sizes = (4, 8, 16, 32, 64, 128, 256)
    curve = level(TOP, sizes) | {64: TOP - 1.25 * (SAME - first)}
    mean = np.mean([curve[m] for m in sizes[:5]])
    return {"fig04": [Truth(curve | level(mean - MARGIN - rest, sizes[5:]), rates=1)]}


def gaining(first: float, rest: float) -> Study:
    """C8."""
    return {
        "fig01": [Truth(fall(3))],
        "fig05": [Truth({m: value + MARGIN + first for m, value in fall(3).items()})],
        "fig06": [Truth({m: value + MARGIN + rest for m, value in fall(3).items()})],
    }


def suffering(first: float, rest: float) -> Study:
    """C9."""
    return {"fig05": [Truth(inside(8, 64, first) | {2: TOP - MARGIN - rest, 4: TOP - max(first, rest)})]}


def equal(first: float, rest: float) -> Study:
    """C11."""
    return {"fig05": [Truth(fall(3))], "fig06": [Truth({m: value - SAME + first for m, value in fall(3).items()})]}


def with_norm(first: float, rest: float) -> Study:
    """C12: clearly falling from m = 8 on; m = 2 comes near."""

    def one(depth: float) -> Truth:
        return Truth(fall(4, start=8) | {2: TOP - depth, 4: TOP - 0.1})

    return {"fig07": [one(first)], "fig08": [one(rest)], "fig09": [one(rest)]}


def usable(first: float, rest: float) -> Study:
    """C13: whether the best rate trains the bound itself, and the next larger m."""

    def one(depth: float, bound: int) -> Truth:
        at_bound = {bound: BEST + 0.5 + depth, 2 * bound: BEST + 0.5 - depth}
        return Truth(fall(2), {m: 3.0 if m < bound else 0.5 for m in SIZES} | at_bound)

    return {"fig07": [one(first, 16)], "fig08": [one(rest, 16)], "fig09": [one(rest, 8)]}


def warming(first: float, rest: float) -> Study:
    """C14: gains are such that both means lie as deep."""

    def gained(depth: float) -> Points:
        small = (MARGIN + depth) * 5 / 8
        return {m: value + small + (m > 32) * (MARGIN + depth) for m, value in fall(3).items()}

    plain = [Truth(fall(3))]
    return {"fig08": plain, "fig10": [Truth(gained(first))], "fig09": plain, "fig11": [Truth(gained(rest))]}


def good(first: float, rest: float) -> Study:
    """C15."""
    curve = inside(4, 8, first) | {m: TOP - max(first, NEAR - rest) for m in SIZES if 16 <= m <= 128}
    return {"fig10": [Truth(curve | {256: TOP - 4})]}


def steeper(first: float, rest: float) -> Study:
    """C16."""
    mild, steep = fall(1, start=16), fall(1 + MARGIN + rest, start=16)
    return {"fig10": [Truth(mild)], "fig11": [Truth(steep | {2: TOP - first, 4: TOP - 0.1, 8: TOP - 0.1})]}


def below(first: float, rest: float) -> Study:
    """C17."""

    def one(depth: float) -> list[Truth]:
        return [Truth({m: TOP - (MARGIN + depth if m > 32 else 0) for m in SIZES})]

    return {"fig08": one(first), "fig10": one(first), "fig09": one(rest), "fig11": one(rest)}


def at_best_rate(first: float, rest: float) -> Study:
    """C19: large m lie 3 points below small at the best rate, and less so at others."""
    sizes = [m for m in SIZES if m > 32]
    curve = {m: TOP - (3 if m in sizes else 0) for m in SIZES}
    extra = {(m, rate): first if rate != BEST else 0.0 for m in sizes for rate in range(RATES)}
    return {"fig12": [Truth(curve, {m: RATES - (0.5 - min(rest, 0.5) if m == 32 else 0) for m in SIZES}, extra)]}


def smaller(first: float, rest: float) -> Study:
    """C20: three batches of BN in each of three figures."""

    def one(first: float, rest: float) -> list[Truth]:
        depths = {4: first, 8: rest, 16: rest}
        sizes = (16, 32, 64, 128, 256)
        lines = {b: TOP - np.linspace(0, MARGIN + depth, len(sizes)) for b, depth in depths.items()}
        return [Truth({(m, b): line[i] for b, line in lines.items() for i, m in enumerate(sizes)}, rates=1)]

    return {"fig13a": one(first, rest), "fig13b": one(rest, rest), "fig14": one(rest, rest)}


def norm_batch(low: int, high: int, *figures: str) -> Build:
    """C21, C22: for each m the best b lie level; at m = 8 the best is 4, below the whole batch."""

    def one(first: float, rest: float) -> list[Truth]:
        sizes = (4, 8, 32, 128) if high == 8 else (64, 128, 256)
        depth = dict.fromkeys(sizes, rest) | {sizes[-1]: first}
        cells = [(m, b) for m in sizes for b in SIZES if b <= m]
        best = {(m, b) for m, b in cells if low <= b <= high and (m, b) != (8, 8)}
        return [Truth({(m, b): TOP - (0 if (m, b) in best else depth[m]) for m, b in cells}, rates=1)]

    def build(first: float, rest: float) -> Study:
        return {figure: one(first if place == 0 else rest, rest) for place, figure in enumerate(figures)}

    return build


def everywhere(first: float, rest: float) -> Study:
    """C23: two experiments without BN, four with."""

    def without(depth: float) -> Truth:
        return Truth(inside(2, 2, depth), norm="none")

    return {"fig15": [without(first), without(rest), *[Truth(inside(2, 32, rest))] * 4]}


def shrinking(first: float, rest: float) -> Study:
    """C24: eleven experiments whose widths fall by the depth from the smallest m to the largest, not by whole rates."""

    def one(depth: float, start: float) -> Truth:
        return Truth(fall(2), dict(zip(SIZES, start - np.linspace(0, 1, len(SIZES)) * depth, strict=True)))

    return {"fig16": [one(first, 2.5), *[one(rest, 2.5 + 0.1 * place) for place in range(10)]]}


def longer(first: float, rest: float) -> Study:
    """C25: what each doubling brings large m beyond small m, and all m on average; large m stay 6 points below."""

    def lift(steps: int) -> Truth:
        more = steps * (MARGIN + first)
        small = steps * (MARGIN + rest) - more * 3 / 8
        return Truth({m: TOP + (small if m <= 32 else small + more - 6) for m in SIZES})

    return {"fig17": [lift(0)], "fig08": [lift(1)], "fig18": [lift(2)]}


def growing(first: float, rest: float) -> Study:
    """C26: slopes at four epochs, measured from the lower end of where they may be."""
    low = 1 - TOLERANCE
    return {"variance": [Truth(level(TOP, (8,)), rates=1, norm="none", slopes=(low + first, *[low + rest] * 3))]}


BUILDS: dict[str, tuple[Build, float]] = {
    "C1": (best_in(1, 8, "fig01", norm="none"), POINTS),
    "C2": (best_in(2, 4, "fig02", "fig03", norm="none"), POINTS),
    "C3": (unstable, RATE),
    "C4": (degrading, POINTS),
    "C5": (widest, RATE),
    "C6": (only_small, RATE),
    "C7": (coinciding, POINTS),
    "C8": (gaining, POINTS),
    "C9": (suffering, POINTS),
    "C10": (best_in(4, 32, "fig06"), POINTS),
    "C11": (equal, POINTS),
    "C12": (with_norm, POINTS),
    "C13": (usable, RATE),
    "C14": (warming, POINTS),
    "C15": (good, POINTS),
    "C16": (steeper, POINTS),
    "C17": (below, POINTS),
    "C18": (best_in(16, 64, "fig12"), POINTS),
    "C19": (at_best_rate, POINTS),
    "C20": (smaller, POINTS),
    "C21": (norm_batch(4, 8, "fig13a", "fig13b"), POINTS),
    "C22": (norm_batch(16, 64, "fig14"), POINTS),
    "C23": (everywhere, POINTS),
    "C24": (shrinking, RATE),
    "C25": (longer, POINTS),
    "C26": (growing, SLOPE),
}
"""Each claim's studies, and by how much a comparison is true or false where power is asked for."""

ONE_TIES: dict[str, list[Study]] = {
    "C1": one_ties(1, 8, "fig01", norm="none"),
    "C2": one_ties(2, 4, "fig02", "fig03", norm="none"),
    "C9": one_ties(8, 64, "fig05")[:1],  # in the other the smallest m does not suffer, and the claim is false
    "C10": one_ties(4, 32, "fig06"),
    "C18": one_ties(16, 64, "fig12"),
}
"""Studies of claims on a best in which the best of both sides are equal, so that either verdict is wrong."""


def tables(
    study: Study, seeds: int, generator: np.random.Generator
) -> tuple[dict, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Figures, runs, epochs and variances of updates of a study drawn from its truth."""
    figures, runs, slopes = {}, [], {}
    common = generator.normal(scale=np.sqrt(SHARED * 0.9 * 0.1 / IMAGES))
    for figure, truths in study.items():
        names = [f"{figure}-{place}" for place in range(len(truths))]
        figures[figure] = {"kind": "accuracy", "experiments": names}
        for name, truth in zip(names, truths, strict=True):
            runs.append(_runs(name, truth, seeds, common, generator))
            slopes[name] = truth.slopes
    table = pd.concat(runs, ignore_index=True)
    table = table.assign(run=[f"run{number}" for number in range(len(table))], lr_drops="0.5 0.75")
    if "fig04" in figures:
        figures["fig04"]["base_lr"] = "2^-8"
    return figures, table, _epochs(table, generator), _variance(table, slopes, generator)


def _runs(name: str, truth: Truth, seeds: int, common: float, generator: np.random.Generator) -> pd.DataFrame:
    sizes = [size if isinstance(size, tuple) else (size, size) for size in truth.best]
    flanks = FLANKS[BEST : BEST + 1] if truth.rates == 1 else FLANKS
    extra = np.array([[truth.extra.get((m, rate), 0.0) for rate in range(len(flanks))] for m, _ in sizes])
    means = (np.array([*truth.best.values()])[:, None] - flanks + extra) / 100
    widths = truth.widths if isinstance(truth.widths, Mapping) else dict.fromkeys(dict(sizes), truth.widths)
    trains = np.clip(np.array([widths[m] for m, _ in sizes])[:, None] - np.arange(len(flanks)), 0, 1)

    shape = (*means.shape, seeds)
    own = generator.normal(scale=np.sqrt(OWN * 0.9 * 0.1 / IMAGES), size=(*means.shape, 1))
    accuracy = means[..., None] + common + own + generator.normal(scale=NOISE / 100, size=shape)
    converged = generator.random(shape) < trains[..., None]
    failed = CHANCE + generator.normal(scale=0.003, size=shape)
    place, rate, seed = (index.ravel() for index in np.indices(shape))
    m, b = np.array(sizes).T
    values = np.where(converged, accuracy, failed).ravel()
    return pd.DataFrame({
        "experiment": name, "test_images": IMAGES, "norm": truth.norm, "batch_size": m[place],
        "bn_batch_size": b[place], "seed": seed + 1,
        "base_lr": 2.0 ** (rate - (8 if truth.rates == 1 else 10)), "accuracy": values, "selection_accuracy": values,
        "converged": converged.ravel(), "lr_scaling": "linear",
    })  # fmt: skip


def _epochs(runs: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Curves that come near each run's final accuracy, with noise of their own at each epoch."""
    runs = runs[runs["experiment"].str.startswith("fig04")]
    epoch = np.arange(1, EPOCHS + 1)
    rise = 0.3 * np.exp(-(epoch - 1) / 1.5)
    curves = runs["accuracy"].to_numpy()[:, None] - rise + generator.normal(scale=0.003, size=(len(runs), EPOCHS))
    names = np.repeat(runs["run"].to_numpy(), EPOCHS)
    return pd.DataFrame({"run": names, "epoch": np.tile(epoch, len(runs)), "test_accuracy": curves.ravel()})


def _variance(
    runs: pd.DataFrame, slopes: Mapping[str, Sequence[float]], generator: np.random.Generator
) -> pd.DataFrame:
    """Traces of updates that grow by a power of m, which has noise of its own for each run and epoch."""
    rows = [
        (run, epoch, m, float(m) ** power)
        for run, experiment in zip(runs["run"], runs["experiment"], strict=True)
        for epoch, slope in enumerate(slopes[experiment])
        for power in [generator.normal(slope, SLOPE_NOISE)]
        for m in SIZES
    ]
    return pd.DataFrame(rows, columns=["run", "epoch", "batch_size", "trace"])


def cases(step: float) -> dict[str, tuple[float, float]]:
    """Depths of the first comparison and of the others, by what is known of the claim then."""
    return {
        "all at the border": (0, 0),
        "one at the border": (0, CLEAR[step]),
        "just true": (step / 3, step / 3),
        "true": (step, step),
        "false": (-step, CLEAR[step]),
    }


def verdicts(name: str, case: tuple[float, float], seeds: int, studies: int) -> pd.Series:
    """How many studies of a case got which verdict, in percent."""
    return shares(name, BUILDS[name][0](*case), seeds, studies)


def shares(name: str, study: Study, seeds: int, studies: int) -> pd.Series:
    """The same of one study, drawn so many times."""
    [claim] = [claim for claim in CLAIMS if claim.name == name]
    found = [_judged(claim, study, seeds, np.random.default_rng([int(name[1:]), seeds, n])) for n in range(studies)]
    return 100 * pd.Series(found).value_counts(normalize=True).reindex(["supported", "refuted"], fill_value=0)


def _judged(claim: Claim, study: Study, seeds: int, generator: np.random.Generator) -> str:
    figures, runs, epochs, variance = tables(study, seeds, generator)
    return judge(figures, runs, epochs, variance, THRESHOLDS, generator, [claim])["verdict"].iloc[0]


def line(name: str, seeds: int, studies: int) -> list[float]:
    """Wrongly supported and wrongly refuted in the worst case, and the powers."""
    found = {what: verdicts(name, case, seeds, studies) for what, case in cases(BUILDS[name][1]).items()}
    ties = [shares(name, study, seeds, studies) for study in ONE_TIES.get(name, [])]
    border = [found["all at the border"], found["one at the border"], *ties]
    return [
        max(case["supported"] for case in (*border, found["false"])),
        max(case["refuted"] for case in (*border, found["just true"], found["true"])),
        found["true"]["supported"],
        found["false"]["refuted"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("claims", nargs="*", default=[], metavar="CLAIM")
    parser.add_argument("--studies", type=int, default=200)
    given = parser.parse_args()
    print("| claim | seeds | wrongly supported | wrongly refuted | supported where true | refuted where false |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in given.claims or BUILDS:
        for seeds in SEEDS:
            numbers = " | ".join(f"{share:.0f} %" for share in line(name, seeds, given.studies))
            print(f"| {name} | {seeds} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
