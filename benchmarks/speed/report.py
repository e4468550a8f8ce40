"""Table and plot of a benchmark, from its results alone: `python -m speed.report FILE.json` makes them again."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from smallbatch.core.files import atomic, read_json
from speed.cells import ENGINE, GROUPS, METHODS, PEAK, PEERS_IN_LANES, USUAL

LINES = ("usual", "compiled", "lightning", ENGINE, *PEERS_IN_LANES)
"""Of the plot; `usual` is the better form of the usual loop."""

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "jax")

NO_VALUE = "-"


def medians(cell: Mapping[str, Any]) -> dict[str, float]:
    """For each method that was measured its median rate."""
    return {name: median(found["rates"]) for name, found in cell["methods"].items() if found.get("rates")}


def ratio(cell: Mapping[str, Any], others: Sequence[str]) -> tuple[float, float, float] | None:
    """Median, least and largest over rounds of the engine's rate over the best of `others` in the same round."""
    rates = [cell["methods"][name]["rates"] for name in others if cell["methods"].get(name, {}).get("rates")]
    ours = cell["methods"].get(ENGINE, {}).get("rates")
    if not ours or not rates:
        return None
    ratios = [own / max(others) for own, *others in zip(ours, *rates, strict=True)]
    return median(ratios), min(ratios), max(ratios)


def fastest(cell: Mapping[str, Any]) -> str | None:
    """The method of the highest median rate."""
    rates = {name: rate for name, rate in medians(cell).items() if name != PEAK}
    return max(rates, key=rates.__getitem__, default=None)


def share_of_peak(cell: Mapping[str, Any]) -> float | None:
    """Median over rounds of the engine's floating-point operations a second over those of matrix products."""
    found = ratio(cell, [PEAK])
    return None if found is None else found[0] * cell["flops"]


def verdict(measured: float | None, target: Mapping[str, float | None]) -> str:
    """Whether a ratio reaches what it has to, or even what is aimed for."""
    if measured is None:
        return NO_VALUE
    if measured < target["least"]:
        return "missed"
    return "aim met" if target["aim"] and measured >= target["aim"] else "met"


def compile_seconds(cell: Mapping[str, Any]) -> float | None:
    """How much longer the first epoch of the compiled model lasts than its others."""
    found = cell["methods"].get("compiled", {})
    return found["first_seconds"] - median(found["seconds"]) if found.get("seconds") else None


def titles_of(results: Mapping[str, Any]) -> dict[str, str]:
    """Titles of the methods of the device, and of those that were measured beside them."""
    own = METHODS[results["device"]]
    measured = {name for cell in results["cells"] for name in cell["methods"]} - own.keys()
    beside = {name: method for methods in METHODS.values() for name, method in methods.items() if name in measured}
    return {name: method.title for name, method in (own | beside).items()}


def table(results: Mapping[str, Any]) -> str:
    """The results as Markdown: where and how, a row a cell, and Figure 1's grid where it was timed."""
    forms = [name for name in USUAL if name in METHODS[results["device"]]]
    titles = titles_of(results)
    columns = [name for name in titles if name != PEAK]
    head = ["cell", "m", "lanes", *(titles[name] for name in columns), "ratio", "at least", "aim", ""]
    head += ["over the best other", "fastest", "of peak", "compile (s)"]
    rows = [_row(cell, forms, titles) for cell in results["cells"]]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [where(results), body, explained(results)]
    if results.get("figure1"):
        parts.append(figure1(results["figure1"]))
    return "\n\n".join(parts) + "\n"


def _row(cell: Mapping[str, Any], forms: Sequence[str], titles: Mapping[str, str]) -> list[str]:
    columns = [name for name in titles if name != PEAK]
    rates, found, target = medians(cell), ratio(cell, forms), cell["target"]
    others = ratio(cell, [name for name in columns if name != ENGINE])
    return [
        GROUPS[cell["group"]].title,
        str(cell["batch_size"]),
        str(cell["lanes"]),
        *(_speed(cell, name, rates) for name in columns),
        NO_VALUE if found is None else f"{found[0]:.2f} ({found[1]:.2f}-{found[2]:.2f})",
        f"{target['least']:g}",
        _number(target["aim"], "g"),
        verdict(found and found[0], target),
        _number(others and others[0], ".2f"),
        titles.get(fastest(cell), NO_VALUE),
        _number(share_of_peak(cell), ".0%"),
        _number(compile_seconds(cell), ".0f"),
    ]


def _speed(cell: Mapping[str, Any], name: str, rates: Mapping[str, float]) -> str:
    if name in rates:
        return f"{rates[name]:,.0f}"
    error = cell["methods"].get(name, {}).get("error", NO_VALUE)
    return "not installed" if error.endswith("not installed") else "failed" if error != NO_VALUE else error


def _number(value: float | None, form: str) -> str:
    return NO_VALUE if value is None else format(value, form)


def where(results: Mapping[str, Any]) -> str:
    """Machine, date and versions in a line or two."""
    e = results["environment"]
    peaks = [rate for cell in results["cells"] for rate in cell["methods"].get(PEAK, {}).get("rates", [])]
    peak = f", {median(peaks) / 1e9:,.0f} GFLOP/s in matrix products" if peaks else ""
    packages = ", ".join(f"{name} {e[name]}" for name in PACKAGES if name in e)
    cores = "a core" if results["cores"] == 1 else f"{results['cores']} cores"
    when = f"{results['date']}, commit {e['commit'][:12]}"
    return f"{e['device']}, {cores}{peak}; {when}; Python {e['python']}, {packages}"


def explained(results: Mapping[str, Any]) -> str:
    """How to read the table."""
    s = results["settings"]
    in_lanes = {
        "cpu": "The engine trains lanes in one process a core",
        "cuda": "The engine trains runs as lanes of one process, and so do JAX and the model of grouped convolutions",
    }[results["device"]]
    return (
        f"Training images/s, float32, medians of {s['rounds']} rounds in which the methods train in turn, each a whole "
        "epoch of the same made images with loading and losses, without evaluation; a warm-up and compiling are not "
        f"counted. {in_lanes}, the others one run a process. Ratio: the engine over the better form of the "
        "usual loop in the same round, median (least-largest). Peak: float32 matrix products with as many threads."
    )


def figure1(found: Mapping[str, Any]) -> str:
    """Figure 1's grid as a sentence and a table."""
    lines = ["| m | lanes | training images/s | testing images/s | minutes |", "|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {r['batch_size']} | {r['lanes']} | {r['training']:,.0f} | {r['testing']:,.0f} | {r['seconds'] / 60:.1f} |"
        for r in found["rows"]
    ]
    return "\n".join([figure1_sentence(found), "", *lines])


def figure1_sentence(found: Mapping[str, Any]) -> str:
    """How long Figure 1's grid takes."""
    return (
        f"Figure 1's grid ({found['runs']} runs, {found['epochs']} epochs, {found['training']:,} training and "
        f"{found['testing']:,} test images), extrapolated from a few seconds of each row by one process, as if no run "
        f"diverged: {found['seconds'] / 60:.1f} minutes. Drawing orders, checkpoints and starting are not in it."
    )


def short(results: Mapping[str, Any]) -> str:
    """The most important of the results, for a terminal."""
    lines = [
        f"{'':12}{'lanes':>6}{'usual loop':>12}{'this engine':>13}{'ratio':>8}{'at least':>10}{'':>9}{'of peak':>9}"
    ]
    for cell in results["cells"]:
        rates, found = medians(cell), ratio(cell, USUAL)
        usual = max((rates[name] for name in USUAL if name in rates), default=None)
        lines.append(
            f"{cell['cell']:12}{cell['lanes']:>6}{_number(usual, ',.0f'):>12}{_number(rates.get(ENGINE), ',.0f'):>13}"
            f"{_number(found and found[0], '.2f'):>8}{cell['target']['least']:>10g}"
            f"{verdict(found and found[0], cell['target']):>9}{_number(share_of_peak(cell), '.0%'):>9}"
        )
    if results.get("figure1"):
        lines.append(figure1_sentence(results["figure1"]))
    return "\n".join(["training images/s, float32", *lines])


def peers(results: Mapping[str, Any]) -> str:
    """The engine and the others that train lanes, for a terminal."""
    names = (*PEERS_IN_LANES, ENGINE)
    lines = [f"{'':12}{'lanes':>6}{''.join(f'{name:>15}' for name in names)}  fastest"]
    for cell in results["cells"]:
        rates = medians(cell)
        speeds = "".join(f"{_speed(cell, name, rates):>15}" for name in names)
        lines.append(f"{cell['cell']:12}{cell['lanes']:>6}{speeds}  {fastest(cell) or NO_VALUE}")
    return "\n".join(["training images/s of runs in lock-step, float32", *lines])


def plot(results: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Draw images/s against m, a panel a model and a line a method; the dashed line is what the peak allows."""
    from smallbatch.figures import sheet, style

    panels = {name: [c for c in results["cells"] if c["group"] == name] for name in GROUPS}
    panels = {name: cells for name, cells in panels.items() if any(map(medians, cells))}
    if not panels:
        return
    titles = titles_of(results) | {"usual": "usual loop, its better form"}
    with style.context():
        figure, plots = sheet.blank(("Training speed by batch size", where(results)), len(panels), legend_rows=3)
        looks = style.experiment_looks(LINES)
        for axes, (group, cells) in zip(plots, panels.items(), strict=True):
            axes.set_title(GROUPS[group].title)
            drawn = _lines(cells)
            for name, points in drawn.items():
                axes.plot(*zip(*points, strict=True), **looks[name], label=titles[name])
            ceiling = _ceiling(cells)
            if ceiling:
                axes.axhline(ceiling, **style.CHANCE, label="all arithmetic at the speed of matrix products")
            values = [value for points in drawn.values() for _, value in points]
            style.batch_axis(axes.xaxis, [cell["batch_size"] for cell in cells], "batch size m")
            style.magnitude_axis(axes.yaxis, [*values, *([ceiling] if ceiling else [])], "training images/s")
        sheet.experiment_legend(figure, plots[0], 2)
    style.save(figure, files)


def _lines(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Points (m, images/s) of each line that has some."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in LINES}
    for cell in cells:
        rates = medians(cell)
        usual = [rates[name] for name in USUAL if name in rates]
        for name in LINES:
            rate = max(usual, default=None) if name == "usual" else rates.get(name)
            if rate:
                found[name].append((cell["batch_size"], rate))
    return {name: points for name, points in found.items() if points}


def _ceiling(cells: Sequence[Mapping[str, Any]]) -> float | None:
    """Images/s if all a training's products and convolutions ran at the speed of large matrix products."""
    peaks = [rates[PEAK] / cell["flops"] for cell in cells if PEAK in (rates := medians(cell))]
    return median(peaks) if peaks else None


def write(results: Mapping[str, Any], stem: Path) -> list[Path]:
    """Write table and plot beside the results; returns the files. Where matplotlib is not there, there is no plot."""
    files = [stem.with_suffix(suffix) for suffix in (".md", ".svg", ".png")]
    with atomic(files[0], "w") as file:
        file.write(table(results))
    with contextlib.suppress(ModuleNotFoundError):
        plot(results, files[1:])
    return [file for file in files if file.exists()]


if __name__ == "__main__":
    write(read_json(Path(sys.argv[1])), Path(sys.argv[1]))
