"""Collect the runs of an experiment into tidy tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from smallbatch.analysis.table import write_tables
from smallbatch.core.code_digest import require_unchanged_code
from smallbatch.core.console import log_and_exit_on_error
from smallbatch.data.prepared import read_meta
from smallbatch.runs.chosen_rates import read_chosen
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Experiment

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with log_and_exit_on_error(snakemake.log[0]), require_unchanged_code("table", snakemake.params.code):
        params = snakemake.params
        experiment = Experiment.from_json(params.experiment)
        chosen = read_chosen(Path(params.chosen)) if experiment.best_of else None
        write_tables(
            [(experiment.name, run) for run in experiment.runs(chosen)],
            RunStore(Path(params.results)),
            read_meta(Path(snakemake.input.meta)),
            params.threshold,
            {name: Path(path) for name, path in snakemake.output.items()},
            params.made_by,
        )
