"""Write a study's report."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from smallbatch.analysis.table import read_tables
from smallbatch.core import checksums
from smallbatch.core.code_digest import require_unchanged_code
from smallbatch.core.console import log_and_exit_on_error
from smallbatch.publish import report
from smallbatch.study.experiments import Study

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with log_and_exit_on_error(snakemake.log[0]), require_unchanged_code("report", snakemake.params.code):
        given = snakemake.input
        report.write(
            Study.from_json(snakemake.params.study),
            read_tables([given.runs]),
            pd.read_csv(given.claims, keep_default_na=False),
            read_tables([given.variance]),
            [Path(figure) for figure in given.figures],
            Path(given.template),
            Path(snakemake.output.page),
            snakemake.params.near,
            snakemake.params.repository,
        )
        checksums.write(
            Path(snakemake.output.checksums),
            map(Path, snakemake.output),
            made_by=snakemake.params.made_by,
            inputs=[given.runs, given.variance, given.claims, *given.figures],
        )
