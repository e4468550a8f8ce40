"""One self-contained HTML page about a study: claims, results, figures, settings and environments."""

import base64
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd

from smallbatch.analysis.findings import SEED, Finding, findings
from smallbatch.analysis.metric_as_accuracy import is_accuracy, metric_label, with_primary_metric
from smallbatch.analysis.table import by_environment
from smallbatch.analysis.verdicts import effect_words
from smallbatch.analysis.words import (
    NOTHING,
    counted,
    format_duration,
    rate_symbol,
    rate_words,
    setting_words,
    shared_departures,
    typeset,
)
from smallbatch.core.errors import UserError
from smallbatch.core.files import atomic
from smallbatch.figures import caption, style
from smallbatch.figures.accuracy_lines import best_cells
from smallbatch.study.experiments import BUDGETS
from smallbatch.study.rates import parse_base_lr

if TYPE_CHECKING:
    from smallbatch.study.experiments import Study

VERDICTS = {"supported": "✓", "refuted": "✗", "undecided": "?", "not run": NOTHING}
"""Each verdict with the mark that stands before its word."""

NUMBERS = ["runs", "diverged", "converged", "time trained"]
"""Columns of the table of results, beside those of the best cell, that are numbers."""

TEXTS = ("text", "predicate", "evidence", "thresholds", "reading", "differences", "to_decide")
"""Columns of claims that are sentences."""

_ALONE = (r"(?<![\w/.-])", r"(?![\w-]|\.\w)")
"""What stands before and behind a figure's name that is not a part of a path or of another name."""

_REDUCED = {
    "epochs": "epochs, as a part of all",
    "train_images": "training images, at most",
    "batch_sizes": "batch sizes kept",
    "base_lrs": "base learning rates kept",
    "data": "data sets kept",
    "figures": "figures kept",
}


def write(
    study: "Study",
    runs: pd.DataFrame,
    claims: pd.DataFrame,
    variance: pd.DataFrame,
    pictures: Iterable[Path],
    template: Path,
    output: Path,
    near: float,
    repository: str | None = None,
) -> None:
    """Write the page of `study` to `output`.

    Args:
        study: the study.
        runs: all its runs, one per row, with the columns of the environment that each was trained in.
        claims: the judged claims, one per row, as in `claims.csv`.
        variance: the measured variance of updates, as in `variance.parquet`.
        pictures: the figures as SVG; each file has the name of its figure.
        template: the Jinja2 file.
        output: the HTML file.
        near: percentage points within which accuracies are near each other, see `findings`.
        repository: the address of the workflow's repository, if it has one.

    Raises:
        UserError: a file cannot be read or written.
    """
    specs = {picture: study.figures[picture.stem] for picture in pictures}
    figures = [
        {
            "name": picture.stem,
            "title": spec["title"],
            "caption": _caption(picture.stem, spec, runs, variance),
            "svg_path": picture,
        }
        for picture, spec in specs.items()
    ]
    header = {
        "name": study.name,
        "title": study.title,
        "description": study.description,
        "scale": study.scale,
        "repository": repository,
        "experiments": _settings(study),
    }
    found = {} if study.reproduces else findings(runs, near, SEED)
    page = render(template, header, figures, runs, claims, environments(runs), found)
    with atomic(output, "w") as file:
        file.write(page)


def front(name: str, title: str, claims: Path) -> str:
    """The text about a study on the front page of Snakemake's own report: name, title and verdicts.

    Args:
        name: the name of the study.
        title: the title of the study.
        claims: the file of its judged claims; if missing or damaged, the text does not mention claims.
    """
    said = f"Study {name}: {title}."
    try:
        judged = claim_rows(pd.read_csv(claims, keep_default_na=False))
    except (OSError, ValueError, KeyError, TypeError):  # reported later, when the report is refused
        return said
    counted = ", ".join(f"{count} {verdict}" for verdict, count in verdict_counts(judged).items())
    return f"{said} Of {counted_claims(judged)}: {counted}." if judged else said


def counted_claims(claims: Sequence[Mapping[str, Any]]) -> str:
    """`the paper's 26 claims`, `the paper's 26 claims and 2 of its own`, `its own 2 claims`."""
    papers = sum(bool(claim["section"]) for claim in claims)
    own = len(claims) - papers
    if not papers:
        return f"its own {counted(own, 'claim')}"
    return f"the paper's {counted(papers, 'claim')}" + (f" and {own} of its own" if own else "")


def verdict_counts(claims: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Verdict -> how many claims have it."""
    return {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in VERDICTS}


def _caption(name: str, spec: dict[str, Any], runs: pd.DataFrame, variance: pd.DataFrame) -> str:
    return caption(name, spec, runs, variance)


def _settings(study: "Study") -> dict[str, dict[str, Any]]:
    """Experiment -> all its settings, flat; of epochs, steps and images that in which its length is said."""
    experiments = {name: asdict(experiment) for name, experiment in study.experiments.items()}
    flat = {name: values.pop("setting") | values for name, values in experiments.items()}
    return {
        name: {key: None if key in BUDGETS and not value else value for key, value in values.items() if key != "name"}
        for name, values in flat.items()
    }


def environments(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Each environment that runs were trained in (device, system, versions), with their number and training time."""
    return [
        recorded | {"runs trained": len(rows), "time trained": format_duration(rows["seconds"].sum())}
        for recorded, rows in by_environment(runs)
    ]


def render(
    template: Path,
    study: Mapping[str, Any],
    figures: Iterable[Mapping[str, Any]],
    runs: pd.DataFrame,
    claims: pd.DataFrame,
    environment: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    found: Mapping[str, Finding] | None = None,
) -> str:
    """The page as HTML, which loads no other resources.

    Args:
        template: the Jinja2 file.
        study: the study's name, title, description, scale (empty if not reduced), experiments and the workflow's
            repository, if it has one.
        figures: for each figure its name, title, caption and `svg_path`, which is embedded in the page.
        runs: all planned runs, one per row.
        claims: the judged claims, one per row; a missing value is empty or NaN.
        environment: versions, device, commit and the like of each machine that trained runs.
        found: experiment in words -> what it found, which comes first; None if the paper's claims come first.

    Raises:
        UserError: the template or a figure cannot be read.
    """
    pages = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_readable
    )
    pages.filters["figure_words"] = figure_words
    figures = list(figures)
    once = runs.drop_duplicates("run")
    seconds = once["seconds"].sum()
    environments = [environment] if isinstance(environment, Mapping) else environment
    judged, results = claim_rows(claims), result_rows(runs)
    one_data = runs["data"].iloc[0] if runs["data"].nunique() == 1 else ""
    if one_data:
        results = [{head: text for head, text in row.items() if head != "data"} for row in results]
    return pages.from_string(_read(template).decode()).render(
        study=study,
        reduced={_REDUCED.get(key, key): _text(key, value) for key, value in study["scale"].items()},
        progress=f"{int((once['status'] != 'missing').sum())} of {len(once)}",
        duration=format_duration(seconds),
        seconds=f"{seconds:,.0f}",
        ended=_when_and_where(once),
        verdicts=VERDICTS,
        counts=verdict_counts(judged),
        found=found or {},
        found_rows={name: finding.row for name, finding in (found or {}).items()},
        claims=judged,
        of_paper=any(claim["section"] for claim in judged),
        rate=rate_symbol(runs).replace(" / ", "/"),
        results={row.pop("experiment"): row for row in results},
        numbers=NUMBERS + [head for head in results[0] if head.startswith("best ")],
        one_data=one_data,
        shared=", ".join(shared_departures(runs)),
        figures=[_figure(figure, judged) for figure in figures],
        figure_names={figure["name"]: figure_name(figure["name"], figure["title"]) for figure in figures},
        settings=compared(study["experiments"]),
        environments=compared({f"environment {number + 1}": one for number, one in enumerate(environments)}),
    )


def _when_and_where(runs: pd.DataFrame) -> str:
    """When the first run ended and when the last, in UTC, and the devices; empty if none was trained."""
    there = runs[runs["status"] != "missing"].reindex(columns=["ended", "device"])
    times = pd.to_datetime(there["ended"].dropna(), utc=True, format="ISO8601")
    if times.empty:
        return ""
    first, last, devices = times.min(), times.max(), ", ".join(sorted(set(there["device"].dropna())))
    until = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
    return f"{first:%Y-%m-%d %H:%M} to {until} UTC" + f" on {devices}" * bool(devices)


def _readable(value: Any) -> Any:
    """A value for the page: text as it is read; markup unchanged."""
    return typeset(value) if type(value) is str else value


def claim_rows(claims: pd.DataFrame) -> list[dict[str, Any]]:
    """The claims to show: missing values as "", texts as they are read, figures and comparisons as lists, and the
    interval as text."""
    rows = claims.astype(object).where(claims.notna(), "").to_dict("records")
    named = [{str(column): value for column, value in row.items()} for row in rows]
    return [
        {
            **{column: _read_text(str(value)) if column in TEXTS else value for column, value in claim.items()},
            "id": claim["claim"] if claim["section"] else f"claim-{claim['claim']}",  # unlike any other id in the page
            "figures": _names(claim["figures"]),
            "absent": _names(claim["absent"]),
            "interval": _interval(claim["effect"], claim["low"], claim["high"]),
            "comparisons": [_comparison(one) for one in json.loads(claim.get("comparisons") or "[]")],
        }
        for claim in named
    ]


def _comparison(part: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison of a claim to show: its effect, interval and region as text."""
    numbers = ("low", "high", "at_least", "at_most")
    low, high, at_least, at_most = ("" if part[name] is None else part[name] for name in numbers)
    words = "" if part["effect"] is None else effect_words(part["effect"], part["unit"])
    ends = {"above": at_least, "below": at_most}
    region = " and ".join(f"{side} {end:g}" for side, end in ends.items() if end != "")
    return {
        **part,
        "comparison": _read_text(part["comparison"]),
        "effect": words,
        "interval": _interval(words, low, high),
        "region": region,
    }


def _read_text(text: str) -> str:
    """A text about a claim as it is read."""
    return figure_words(typeset(text))


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _interval(effect: str, low: float | str, high: float | str) -> str:
    """`+0.4 to +2.0`: signed if the effect is, with as many decimals, and more if an end would round to zero."""
    if low == "" or high == "":
        return ""
    ends = [float(low), float(high)]
    number = re.search(r"([-+]?)\d+\.?(\d*)", effect)
    sign, least = ("+" if number[1] else "-", max(1, len(number[2]))) if number else ("-", 2)
    decimals = next((count for count in range(least, 6) if all(end == 0 or round(end, count) for end in ends)), 6)
    return " to ".join(f"{end:{sign}.{decimals}f}" for end in ends)


def figure_words(text: str) -> str:
    """`Figure 13a` for fig13a, `Section 3.2` for sec32 (a result in the paper's text); all else in a text unchanged."""
    text = re.sub(rf"{_ALONE[0]}fig0*(\d+)([a-d]?){_ALONE[1]}", r"Figure \1\2", text)
    return re.sub(rf"{_ALONE[0]}sec(\d)(\d){_ALONE[1]}", r"Section \1.\2", text)


def figure_name(name: str, title: str) -> str:
    """What a page calls a figure: `Figure 1`, or its title where it has no number."""
    return words if (words := figure_words(name)) != name else title


def figure_title(name: str, title: str) -> str:
    """`Figure 1: Reduced AlexNet`, or the title alone where it has no number."""
    return ": ".join(dict.fromkeys([figure_name(name, title), title]))


def result_rows(runs: pd.DataFrame) -> list[dict[str, str]]:
    """The table of results, one line per experiment, without words on its setting that all of them have.

    Its head has the base learning rate as the study scales it.
    """
    symbol, shared = rate_symbol(runs).replace(" / ", "/"), shared_departures(runs)
    return [result_row(rows, symbol, shared) for _, rows in runs.groupby("experiment", sort=False)]


def result_row(runs: pd.DataFrame, symbol: str = "η/m", shared: Collection[str] = ()) -> dict[str, str]:
    """One experiment's line in the table of results: column -> text.

    `symbol` is that of the base learning rate; `shared` are words on settings that are left out.

    The best cell is the one with the highest mean accuracy over seeds; its accuracy is corrected for the luck of being
    the best of many cells, and followed by its 95 % interval in brackets.
    """
    runs = with_primary_metric(runs)
    best = best_cells(runs, ["experiment"], np.random.default_rng(SEED)).iloc[0]
    has_best = best["seeds"] > 0
    recorded = int((runs["status"] != "missing").sum())
    return {
        "experiment": best["experiment"],
        "data": runs["data"].iloc[0],
        "model": setting_words(runs.iloc[0], shared),
        "runs": str(recorded) if recorded == len(runs) else f"{recorded} of {len(runs)}",
        "diverged": str(int((runs["status"] == "diverged").sum())),
        "converged": str(int(runs["converged"].sum())),
        "best m": str(best["batch_size"]) if has_best else NOTHING,
        f"best {symbol}": rate_words(best["base_lr"]) if has_best else NOTHING,
        "best accuracy (%)": _accuracy(best, runs) if has_best else NOTHING,
        "time trained": format_duration(runs["seconds"].sum()),
    }


def _accuracy(cell: pd.Series, runs: pd.DataFrame) -> str:
    """The mean of a cell of `best_cells` in percent, and its 95 % interval, if any, in brackets; and what it is of."""
    ends = "" if np.isnan(cell["low"]) else f" ({cell['low']:.1f} to {cell['high']:.1f})"
    return f"{cell['mean']:.1f}{ends}{'' if is_accuracy(runs) else f' {metric_label(runs)}'}"


def compared(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Records by name, compared: `shared`, key -> the text that all have; `unset`, the keys of which none has a value;
    `rows`, name -> key -> text, for the keys in which they differ."""
    keys = dict.fromkeys(key for record in records.values() for key in record)
    texts = {key: [_text(key, record.get(key)) for record in records.values()] for key in keys}
    differing = [key for key in keys if len(set(texts[key])) > 1]
    same = {key: texts[key][0] for key in keys if key not in differing}
    return {
        "shared": {key: text for key, text in same.items() if text != NOTHING},
        "unset": [key for key, text in same.items() if text == NOTHING],
        "rows": {name: {key: texts[key][place] for key in differing} for place, name in enumerate(records)}
        if differing
        else {},
    }


def _text(key: str, value: Any) -> str:
    """A setting's value as text; base learning rates as powers of two."""
    if isinstance(value, list | tuple):
        return ", ".join(_text(key, one) for one in value) or NOTHING
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return rate_words(parse_base_lr(value)) if "base_lr" in key else str(value)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _figure(figure: Mapping[str, Any], claims: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A figure with the `claims` based on it, its `source`, a data: URI, and whether it is `wide`.

    Wide figures are wider than one column of a paper.
    """
    content = _read(Path(figure["svg_path"]))
    width = re.search(rb'<svg[^>]* width="([0-9.]+)pt"', content)
    return {
        **figure,
        "heading": figure_title(figure["name"], figure["title"]),
        "claims": [claim for claim in claims if figure["name"] in claim["figures"]],
        "source": f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}",
        "wide": width is not None and float(width[1]) > 72 * 1.2 * style.COLUMN,
    }
