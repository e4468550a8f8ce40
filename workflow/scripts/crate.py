"""Write a study as an RO-Crate."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from smallbatch.analysis.table import read_tables
from smallbatch.core import checksums
from smallbatch.core.code_digest import require_unchanged_code
from smallbatch.core.console import log_and_exit_on_error
from smallbatch.publish import crate
from smallbatch.study.experiments import Study

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with log_and_exit_on_error(snakemake.log[0]), require_unchanged_code("crate", snakemake.params.code):
        given, params = snakemake.input, snakemake.params
        lists = {name: [Path(path) for path in given[name]] for name in crate.Files._fields if name != "citation"}
        crate.write(
            Study.from_json(params.study),
            read_tables([given.runs]),
            pd.read_csv(given.claims, keep_default_na=False),
            crate.Files(Path(given.citation), **lists),
            params.publisher,
            params.version,
            Path(snakemake.output.archive),
        )
        checksums.write(
            Path(snakemake.output.checksums), map(Path, snakemake.output), made_by=params.made_by, inputs=given
        )
