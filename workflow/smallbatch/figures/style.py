"""The common style of all figures: sizes, fonts, colours, markers, axes, and byte-for-byte reproducible files."""

import contextlib
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from smallbatch.analysis.words import rate_words
from smallbatch.core.files import atomic
from smallbatch.figures.font import FONT

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

log = logging.getLogger(__name__)

Look = dict[str, Any]
"""Keyword arguments of matplotlib that set the style of an artist."""

Looks = Mapping[str, Look]
"""The look of each experiment."""

COLUMN = 3.4  # inches: one column of a two-column paper
PAGE = 7.0  # inches: both columns
HEIGHT = 2.6  # inches: a row of plots, without note and legend below it
TEXT_LINE = 0.12  # inches: a line of small text

BAND: Look = {"alpha": 0.15, "linewidth": 0}
WHISKER: Look = {"alpha": 0.35, "linewidth": 0.7}
BAR: Look = {"color": "0.35", "linestyle": (0, (1, 2)), "linewidth": 0.7, "zorder": 1}
HOLLOW: Look = {"linestyle": "none", "markerfacecolor": "white", "markeredgewidth": 0.6}
CHANCE: Look = {"color": "0.35", "linestyle": (0, (4, 3)), "linewidth": 0.6, "zorder": 1}

_SETTINGS: "dict[RcKeyType, Any]" = {
    "font.family": FONT,
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.0,
    "legend.handletextpad": 0.6,
    "legend.labelspacing": 0.22,
    "legend.borderpad": 0.1,
    "legend.columnspacing": 1.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.6,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",  # outlines: the reader's fonts do not matter
    "svg.hashsalt": "smallbatch",  # else element ids are random
}
_METADATA = {
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
}

_BATCHES = matplotlib.colormaps["viridis"]
MARKERS = "osD^vP<X>ph"
_EXPERIMENTS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D"]  # Okabe-Ito, no yellow
_MARKER_EDGE = {"markeredgecolor": "white", "markeredgewidth": 0.25}


@contextlib.contextmanager
def context() -> Iterator[None]:
    """Context in which figures are drawn and saved in this style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def batch_look(batch_size: int) -> Look:
    """Colour and marker of batch size m: ordered by log2(m), from dark to light over m = 2 ... 2048."""
    step = math.log2(batch_size) - 1
    fraction = min(max(step / 10, 0), 1)
    # The scale stops before yellow, which is hard to see on white.
    color = matplotlib.colors.to_hex(_BATCHES(0.87 * fraction))
    return {"color": color, "marker": MARKERS[round(step) % len(MARKERS)], **_MARKER_EDGE}


def experiment_looks(names: Iterable[str]) -> dict[str, Look]:
    """Colour, marker and dash of each experiment; from the eighth on, colours repeat with dashed lines."""
    return {
        name: {
            "color": _EXPERIMENTS[index % len(_EXPERIMENTS)],
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": "-" if index < len(_EXPERIMENTS) else (0, (3, 1.2)),
            **_MARKER_EDGE,
        }
        for index, name in enumerate(names)
    }


def ticks(axis: Axis, values: Iterable[float], labels: Iterable[str], at_most: int = 7) -> None:
    """Tick every value, and label every one, every second, every third ..., to give at most `at_most` labels."""
    values, labels = list(values), list(labels)
    step = max(1, math.ceil(len(values) / at_most))
    axis.set_major_locator(FixedLocator(values[::step]))
    axis.set_ticklabels(labels[::step])
    axis.set_minor_locator(FixedLocator(values) if step > 1 else NullLocator())
    axis.set_minor_formatter(NullFormatter())


def rate_axis(axis: Axis, base_lrs: Iterable[float], symbol: str) -> None:
    """A log axis of base learning rates, `η / m` or the like, with ticks at powers of two if all rates are such."""
    rates = sorted(rate for rate in set(base_lrs) if rate > 0)
    _log_axis(axis, f"base learning rate  {symbol}", rates)
    exponents = [round(math.log2(rate)) for rate in rates]
    if rates and rates == [2.0**exponent for exponent in exponents]:
        values = [2.0**exponent for exponent in range(exponents[0], exponents[-1] + 1)]
        ticks(axis, values, map(rate_words, values))


def batch_axis(axis: Axis, batch_sizes: Iterable[int], label: str) -> None:
    """A log axis of batch sizes, with ticks at those that occur."""
    sizes = sorted(set(batch_sizes))
    _log_axis(axis, label, sizes)
    ticks(axis, sizes, map(str, sizes), labels_across(axis.axes))


def labels_across(axes: Axes) -> int:
    """How many labels of batch sizes have room side by side: two an inch of the plot's share of the sheet."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure and place, "plots lie in a grid on a sheet"
    return round(2 * figure.get_figwidth() / place.get_gridspec().ncols)


def magnitude_axis(axis: Axis, values: Iterable[float], label: str) -> None:
    """A log axis around all `values`, with ticks at numbers that a person would write.

    Without values it has no ticks, and the plot says "not recorded".
    """
    there = sorted(value for value in values if value > 0)
    if not there:
        _log_axis(axis, label, [])
        axis.axes.text(0.5, 0.5, "not recorded", color="0.5", ha="center", transform=axis.axes.transAxes)
        return
    low, high = there[0] / 1.1, there[-1] * 1.1
    _log_axis(axis, label, [low, high], room=1)
    numbers = round_numbers(low, high)
    ticks(axis, numbers, number_words(numbers), at_most=8)


def round_numbers(low: float, high: float) -> list[float]:
    """Three or more round numbers between two: powers of ten; with their double and fivefold; or evenly spaced ones."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    for steps in ((1,), (1, 2, 5)):
        numbers = [step * 10.0**decade for decade in decades for step in steps]
        inside = [number for number in numbers if low <= number <= high]
        if len(inside) >= 3:
            return inside
    spaced = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(f"{number:.6g}") for number in spaced if low <= number <= high]


def number_words(numbers: Sequence[float]) -> list[str]:
    """Numbers as a person would write them: `0.5`, `1`, `2`, but evenly spaced ones `0.55`, `0.60`, `0.65`."""
    words = [f"{number:,.10g}" for number in numbers]
    even = np.allclose(np.diff(numbers, 2), 0, atol=1e-6 * max(numbers))
    decimals = max(len(word.partition(".")[2]) for word in words)
    return [f"{number:,.{decimals}f}" for number in numbers] if even else words


def _log_axis(axis: Axis, label: str, values: Sequence[float], room: float = 1.5) -> None:
    """A log axis over the whole grid, whichever part of it has results; without ticks if the grid is empty.

    `room` is the factor by which the axis extends at both ends.
    """
    along_x = axis is axis.axes.xaxis
    axis.set_label_text(label)
    if not values:
        ticks(axis, [], [])
        return
    (axis.axes.set_xscale if along_x else axis.axes.set_yscale)("log")
    (axis.axes.set_xlim if along_x else axis.axes.set_ylim)(values[0] / room, values[-1] * room)


@contextlib.contextmanager
def _warnings_logged() -> Iterator[None]:
    """Context that logs warnings, such as of a character that the font lacks, since only a job's log is read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(one.message) for one in caught):
        log.warning("%s", text)


def save(figure: Figure, paths: Iterable[str | Path]) -> None:
    """Write `figure` to each path in the format of its suffix (.pdf, .svg, .png), atomically and reproducibly.

    The layout is computed once for all formats: each would measure text slightly differently, and take long to do so.
    """
    with context(), _warnings_logged():
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
        for path in map(Path, paths):
            with atomic(path) as file:
                figure.savefig(file, format=path.suffix[1:], metadata=_METADATA[path.suffix])
