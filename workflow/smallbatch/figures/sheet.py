"""The sheet that plots are drawn on: title above, note and legends where they cover no plot."""

import math
import re
import textwrap
from collections.abc import Collection

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from smallbatch.figures import style

_LETTERS_AN_INCH = 19  # of the small text, on average
_ENTRY = style.COLUMN - 0.35  # inches for a text in the legend of experiments

Words = tuple[str, str]
"""Title and note of a figure; empty ones take no room."""

_NO_BREAK = "\N{NO-BREAK SPACE}"


def wrapped(text: str, width: float) -> list[str]:
    """Lines of small text that fit into `width` inches, broken at semicolons first, and not between number and unit."""
    letters = int(width * _LETTERS_AN_INCH)
    text = re.sub(r"(?<=\d) (?=[\w%])", _NO_BREAK, text)
    lines: list[str] = []
    for part in text.split("; "):
        together = "; ".join([*lines[-1:], part])
        if len(together) <= letters:
            lines[-1:] = [together]
        else:
            lines += textwrap.wrap(part, letters)
    return [line.replace(_NO_BREAK, " ") for line in lines]


def blank(
    words: Words, plots: int, page_wide: bool = False, legend_rows: int = 0, columns: int = 2
) -> tuple[Figure, list[Axes]]:
    """A sheet with `plots` empty axes, at most `columns` per row, and room for a legend above the note."""
    title, note = words
    columns = min(plots, columns)
    rows = math.ceil(plots / columns)
    width = style.PAGE if page_wide or columns > 1 else style.COLUMN
    lines = wrapped(note, width) if note else []
    below = style.TEXT_LINE * (len(lines) + legend_rows) + 0.09
    height = style.HEIGHT * rows + below
    layout = ConstrainedLayoutEngine(rect=(0, below / height, 1, 1 - below / height), wspace=0.05)
    figure = Figure(figsize=(width, height), layout=layout)
    # Dollar signs are text, not mathematics.
    if title:
        figure.suptitle("\n".join(wrapped(title, 0.8 * width)), fontsize=8.5, parse_math=False)
    small: style.Look = {"size": 7, "color": "0.3", "linespacing": 1.15, "va": "bottom", "parse_math": False}
    figure.text(0.02 / width, 0.03 / height, "\n".join(lines), **small)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in grid[plots:]:
        spare.remove()
    return figure, grid[:plots]


def same_scale(plots: list[Axes]) -> None:
    """Give all plots the same y axis, which covers the range of each, so that they can be compared."""
    limits = [axes.get_ylim() for axes in plots]
    for axes in plots:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def batch_legend(figure: Figure, plots: list[Axes]) -> None:
    """Draw one legend of batch sizes m to the right of all plots."""
    entries: dict[str, Artist] = {}
    for axes in plots:
        entries |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    sizes = sorted(entries, key=int)
    figure.legend([entries[size] for size in sizes], sizes, title="m", loc="outside right center")


def legend_rows(labels: Collection[str], columns: int) -> int:
    """The number of lines of text in a legend of experiments, whose columns are filled one after the other."""
    lines = [len(wrapped(label, _ENTRY)) for label in labels]
    column = math.ceil(len(lines) / columns)
    return max(sum(lines[start : start + column]) for start in range(0, len(lines), column))


def experiment_legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Draw a legend of experiments in the room that `blank` left under the plot."""
    layout = figure.get_layout_engine()
    assert layout, "`blank` gives each figure one"
    foot = layout.get()["rect"][1] - 0.03 / figure.get_figheight()
    handles, labels = axes.get_legend_handles_labels()
    texts = ["\n".join(wrapped(label, _ENTRY)) for label in labels]
    figure.legend(handles, texts, loc="upper center", bbox_to_anchor=(0.5, foot), ncols=columns, borderaxespad=0)
