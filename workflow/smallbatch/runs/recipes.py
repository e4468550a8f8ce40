"""What decides how each job makes its files, beside what it reads: settings and code, as a hash for each job."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smallbatch.core.checksums import recipe_hash
from smallbatch.core.code import code_digest
from smallbatch.core.files import files_digest
from smallbatch.study.claims import files_of
from smallbatch.study.experiments import PROTOCOL, Study

TEMPLATE = Path("smallbatch", "templates", "report.html.j2")
"""Of the report, below the library's folder."""


SCRIPTS = ("gather", "claims", "report", "crate", "table", "choose", "figure")
"""Those whose code is noted with what they make."""


def codes(path_of: Callable[[str], str | Path], library: Path) -> dict[str, str]:
    """A hash over each of `SCRIPTS` and the library behind it, by the script's name; Snakemake looks at scripts alone.

    Args:
        path_of: gives a script's path for its name.
        library: the folder above the library's.
    """
    return {name: code_digest(Path(path_of(name)), library) for name in SCRIPTS}


def recipes(
    study: Study, config: Mapping[str, Any], code: Mapping[str, str], library: Path, snakemake: str
) -> dict[str, str]:
    """The recipe of each job that analyses the study, by the job's name.

    Args:
        study: to be analysed.
        config: the checked configuration.
        code: see `codes`.
        library: the folder above the library's.
        snakemake: its version, which the archive names.
    """
    order = list(study.experiments), list(study.figures)  # which `recipe_hash` does not see
    return {
        "gather": recipe_hash(list(study.experiments), code["gather"]),
        "claims": recipe_hash(
            study.figures,
            order,
            study.reproduces,
            list(study.claims.items()),
            *map(files_digest, files_of(study.claims.values())),
            config["claims"],
            code["claims"],
        ),
        "page": recipe_hash(
            study.as_json(), order, config["claims"]["near"], code["report"], files_digest(library / TEMPLATE)
        ),
        "archive": recipe_hash(study.as_json(), order, snakemake, code["crate"]),
        **{
            f"table-{e.name}": recipe_hash(e.as_json(), config["convergence_threshold"], PROTOCOL, code["table"])
            for e in study.experiments.values()
        },
        **{f"figure-{name}": recipe_hash(spec, code["figure"]) for name, spec in study.figures.items()},
    }
