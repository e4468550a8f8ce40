"""One self-contained HTML page of a study: results, figures, settings, and where it ran."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

from smallbatch.environment import ENVIRONMENT
from smallbatch.errors import UserError
from smallbatch.figures import caption, style
from smallbatch.figures.cells import best_cells
from smallbatch.figures.words import duration, rate_words, setting_words
from smallbatch.files import atomic

if TYPE_CHECKING:
    from smallbatch.study import Study

NOTHING = "–"  # noqa: RUF001 - an en dash stands for a value that is not there yet


def write(study: "Study", runs: pd.DataFrame, pictures: Iterable[Path], template: Path, output: Path) -> None:
    """Write the page of `study` to `output`.

    Args:
        study: what was planned.
        runs: all its runs, a row each, with the columns of where each was trained.
        pictures: the figures as SVG; each file is called as its figure is.
        template: the Jinja2 file.
        output: the HTML file.

    Raises:
        UserError: a file cannot be read or written.
    """
    specs = {picture: study.figures[picture.stem] for picture in pictures}
    figures = [
        {
            "name": picture.stem,
            "title": spec["title"],
            "caption": caption(picture.stem, spec, runs),
            "svg_path": picture,
        }
        for picture, spec in specs.items()
    ]
    told = asdict(study)
    told["experiments"] = {name: one.pop("setting") | one for name, one in told["experiments"].items()}
    page = render(template, told, figures, runs, environments(runs))
    with atomic(output, "w") as file:
        file.write(page)


def environments(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Each device, system and set of versions that trained, once, with how many runs it trained."""
    there = runs[runs["status"] != "missing"].drop_duplicates("run")
    columns = [column for column in ENVIRONMENT if column in there]
    places = there[columns].value_counts(dropna=False, sort=False).reset_index(name="runs trained")
    return [row.dropna().to_dict() for _, row in places.iterrows()]


def render(
    template: Path,
    study: Mapping[str, Any],
    figures: Iterable[Mapping[str, Any]],
    runs: pd.DataFrame,
    environment: Mapping[str, Any] | list[Mapping[str, Any]],
) -> str:
    """The page, which loads nothing from anywhere.

    Args:
        template: the Jinja2 file.
        study: the study file's name, title, description, seeds and experiments.
        figures: for each figure its name, title, caption and `svg_path`, which is put into the page.
        runs: all planned runs, a row each.
        environment: versions, device, commit and the like of each place that trained.

    Raises:
        UserError: the template or a figure cannot be read.
    """
    pages = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    once = runs.drop_duplicates("run")
    places = [environment] if isinstance(environment, Mapping) else environment
    return pages.from_string(_read(template).decode()).render(
        study=study,
        progress=f"{int((once['status'] != 'missing').sum())} of {len(once)}",
        duration=duration(once["seconds"].sum()),
        results=[result_row(rows) for _, rows in runs.groupby("experiment", sort=False)],
        figures=[dict(figure, **_picture(Path(figure["svg_path"]))) for figure in figures],
        settings=table(study["experiments"], list(study["experiments"].values())),
        environments=table([f"environment {number + 1}" for number in range(len(places))], places),
    )


def result_row(runs: pd.DataFrame) -> dict[str, str]:
    """One experiment's line in the table of results: column -> text.

    Its best cell is the one whose mean accuracy over seeds is highest; after ± stands half the range of its seeds.
    """
    best = best_cells(runs, ["experiment"]).iloc[0]
    found = best["seeds"] > 0
    spread = f" ± {(best['highest'] - best['lowest']) / 2:.1f}" if best["seeds"] > 1 else ""
    there = int((runs["status"] != "missing").sum())
    return {
        "experiment": best["experiment"],
        "data": runs["data"].iloc[0],
        "model": setting_words(runs.iloc[0]),
        "runs": str(there) if there == len(runs) else f"{there} of {len(runs)}",
        "diverged": str(int((runs["status"] == "diverged").sum())),
        "converged": str(int(runs["converged"].sum())),
        "best m": str(best["batch_size"]) if found else NOTHING,
        "best η/m": rate_words(best["base_lr"]) if found else NOTHING,
        "best accuracy (%)": f"{best['mean']:.1f}{spread}" if found else NOTHING,
        "time trained": duration(runs["seconds"].sum()),
    }


def table(names: Iterable[str], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Records side by side: their `names` as heads, and for each key that any has a row of texts."""
    keys = dict.fromkeys(key for record in records for key in record)
    rows = [(key, [_text(key, record.get(key)) for record in records]) for key in keys]
    return {"heads": list(names), "rows": rows}


def _text(key: str, value: Any) -> str:
    """A setting's value to read; base learning rates as powers of two."""
    if isinstance(value, list | tuple):
        return ", ".join(_text(key, one) for one in value) or NOTHING
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return rate_words(value) if "base_lr" in key and isinstance(value, float) else str(value)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _picture(svg: Path) -> dict[str, Any]:
    """A picture as `source`, a data: URI, and whether it is `wide`: more than a column of a paper."""
    content = _read(svg)
    width = re.search(rb'<svg[^>]* width="([0-9.]+)pt"', content)
    source = f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"
    return {"source": source, "wide": width is not None and float(width[1]) > 72 * 1.2 * style.COLUMN}
