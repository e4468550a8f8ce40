"""A digest for each job over the settings and code that, beside its inputs, decide how it makes its files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smallbatch.core.checksums import settings_digest
from smallbatch.core.code_digest import code_digest
from smallbatch.core.files import files_digest
from smallbatch.study.claims import files_of
from smallbatch.study.experiments import PROTOCOL, Study
from smallbatch.study.repository_url import repository

TEMPLATE = Path("smallbatch", "templates", "report.html.j2")
"""The template of the report, below the folder above the library's."""


SCRIPTS = ("gather", "claims", "report", "crate", "table", "choose", "figure")
"""The scripts whose code is recorded with their outputs."""


def code_digests(path_of: Callable[[str], str | Path], library: Path) -> dict[str, str]:
    """Name of each of `SCRIPTS` -> a hash over it and the library code it uses; Snakemake checks only scripts.

    Args:
        path_of: returns the path of a script, given its name.
        library: the folder above the library's.
    """
    return {name: code_digest(Path(path_of(name)), library) for name in SCRIPTS}


def job_digests(
    study: Study, config: Mapping[str, Any], code: Mapping[str, str], library: Path, snakemake: str
) -> dict[str, str]:
    """Name of each job that analyses the study -> its digest.

    Args:
        study: the study.
        config: the checked configuration.
        code: the hashes returned by `code_digests`.
        library: the folder above the library's.
        snakemake: the version of Snakemake, which the archive names.
    """
    order = list(study.experiments), list(study.figures)  # `settings_digest` ignores the order of keys
    return {
        "gather": settings_digest(list(study.experiments), code["gather"]),
        "claims": settings_digest(
            study.figures,
            order,
            study.reproduces,
            list(study.claims.items()),
            *map(files_digest, files_of(study.claims.values())),
            config["claims"],
            code["claims"],
        ),
        "page": settings_digest(
            study.as_json(),
            order,
            config["claims"]["near"],
            repository(library.parent),
            code["report"],
            files_digest(library / TEMPLATE),
        ),
        "archive": settings_digest(
            study.as_json(), order, config["publish"].get("publisher"), snakemake, code["crate"]
        ),
        **{
            f"table-{e.name}": settings_digest(e.as_json(), config["convergence_threshold"], PROTOCOL, code["table"])
            for e in study.experiments.values()
        },
        **{
            f"figure-{name}": settings_digest(spec, study.compared(name), config["figures"], code["figure"])
            for name, spec in study.figures.items()
        },
    }
