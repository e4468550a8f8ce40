"""Write a study's report."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from smallbatch import report
from smallbatch.console import reporting
from smallbatch.study import load_study

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with reporting(snakemake.log[0]):
        report.write(
            load_study(snakemake.params.study, snakemake.params.datasets),
            pd.read_parquet(snakemake.input.runs),
            [Path(figure) for figure in snakemake.input.figures],
            Path(snakemake.input.template),
            Path(snakemake.output[0]),
        )
