"""Publish a finished study."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from smallbatch.analysis.table import read_tables
from smallbatch.core.console import log_and_exit_on_error
from smallbatch.publish.dvc_publish import publish
from smallbatch.runs.store import RunStore

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with log_and_exit_on_error(snakemake.log[0]):
        params = snakemake.params
        message = publish(
            params.study,
            read_tables([snakemake.input.runs]),
            pd.read_csv(snakemake.input.claims, keep_default_na=False),
            RunStore(Path(params.results)),
            Path("docs", "results.md"),
            Path(params.figures),
            remote=params.publish["remote"],
            remote_set_in=params.remote_set_in,
            weights=params.publish["weights"],
        )
        print(message)
