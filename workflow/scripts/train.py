"""Train what is missing of a pack."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from smallbatch.cluster import slurm_jobs
from smallbatch.core.console import log_and_exit_on_error
from smallbatch.study.experiments import Run
from smallbatch.training.launch import train

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    submitted = "SMALLBATCH_SUBMITTED" in os.environ
    requeued = slurm_jobs.requeued_when_stopped() if submitted else contextlib.nullcontext()
    with log_and_exit_on_error(snakemake.log[0]), requeued:
        params = snakemake.params
        train(
            [Run.from_settings(settings) for settings in params.runs],
            Path(snakemake.input.meta).parent,
            Path(params.results),
            params.training,
            heartbeat=Path(snakemake.output[0]).with_suffix(".json"),
            log_file=snakemake.log[0],
            memory_mb=snakemake.resources.mem_mb,
        )
