"""Collect a study's runs into tidy tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from smallbatch.analysis.table import write_tables
from smallbatch.console import reporting
from smallbatch.study import load_study

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with reporting(snakemake.log[0]):
        params = snakemake.params
        write_tables(
            load_study(params.study, params.datasets),
            Path(params.results),
            [Path(meta) for meta in snakemake.input.metas],
            params.threshold,
            {name: Path(path) for name, path in snakemake.output.items()},
        )
