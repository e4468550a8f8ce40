"""Draws the stages of the workflow, as `snakemake --rulegraph dot all crate` lists them, into docs/pipeline.svg.

    make pipeline

A stage that is not in `STAGES`, or one that is no rule any more, is an error, so that the picture shows what there is.
"""

import re
import sys
from pathlib import Path

import matplotlib
import networkx
from matplotlib import pyplot

TARGETS = {"all", "crate"}
"""Names to ask for things by; they make nothing."""

STAGES = {
    "prepare": (0, 0, "data sets become\narrays"),
    "train": (1, 0, "packs of runs\nare trained"),
    "table": (2, 0, "one row per run, for\neach experiment"),
    "choose": (2, -1, "the best rate for\neach batch size"),
    "gather": (3, 0, "the tables of\nthe study"),
    "figure": (3, -1, "one figure\nof the paper"),
    "claims": (4, 0, "the paper's claims\nare judged"),
    "page": (5, 0, "the report"),
    "archive": (6, 0, "the study with its\nprovenance"),
}
"""Rule -> column, row, and what it makes."""


def edges(graph: str) -> list[tuple[str, str]]:
    """Which stage needs which, without those that follow from others, in order.

    Args:
        graph: in the dot language, as Snakemake prints it.
    """
    names = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)"', graph, re.MULTILINE))
    stages = networkx.DiGraph()
    stages.add_nodes_from(set(names.values()) - TARGETS)
    needs = [(names[one], names[other]) for one, other in re.findall(r"^\s*(\d+) -> (\d+)", graph, re.MULTILINE)]
    stages.add_edges_from(edge for edge in needs if not TARGETS & {*edge})
    if differ := set(stages) ^ set(STAGES):
        raise SystemExit(f"docs/pipeline.py: STAGES and the rules differ by: {', '.join(sorted(differ))}")
    for edge in sorted(stages.edges):
        stages.remove_edge(*edge)
        if not networkx.has_path(stages, *edge):
            stages.add_edge(*edge)
    return sorted(stages.edges)


def draw(needs: list[tuple[str, str]], file: Path) -> None:
    """The picture: a box for each stage, and an arrow for each edge, which is named FROM-TO in the SVG."""
    matplotlib.rcParams |= {"svg.fonttype": "path", "svg.hashsalt": "pipeline", "font.size": 9}
    figure, axes = pyplot.subplots(figsize=(11, 2.4), layout="constrained")
    axes.set(xlim=(-0.5, 6.5), ylim=(-1.45, 0.45))
    axes.axis("off")
    box = {"boxstyle": "round,pad=0.5", "facecolor": "#eef3f8", "edgecolor": "#4a6c8c"}
    drawn = {}
    for stage, (column, row, purpose) in STAGES.items():
        words = f"$\\bf{{{stage}}}$\n{purpose}"
        drawn[stage] = axes.text(column, row, words, ha="center", va="center", bbox=box, linespacing=1.3, zorder=2)
    figure.canvas.draw()  # which places the boxes that arrows end at
    for one, other in needs:
        bend = 0.25 if (other, one) in needs else 0
        start, end = (drawn[stage].get_bbox_patch() for stage in (one, other))
        arrow = {"arrowstyle": "-|>", "color": "#4a6c8c", "connectionstyle": f"arc3,rad={bend}", "shrinkA": 0}
        ends = {"xytext": STAGES[one][:2], "xy": STAGES[other][:2]}
        line = axes.annotate("", **ends, arrowprops=arrow | {"shrinkB": 0, "patchA": start, "patchB": end}, zorder=1)
        line.arrow_patch.set_gid(f"{one}-{other}")
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    draw(edges(sys.stdin.read()), Path(sys.argv[1]))
