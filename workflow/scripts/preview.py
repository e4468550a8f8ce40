"""Draw all figures of a study from the runs that exist."""

from pathlib import Path
from typing import TYPE_CHECKING

from smallbatch.core.console import log_and_exit_on_error
from smallbatch.figures.preview import preview
from smallbatch.study.experiments import Study

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with log_and_exit_on_error(snakemake.log[0]):
        params = snakemake.params
        study = Study.from_json(params.study)
        count, damaged = preview(study, Path(params.data), Path(params.results), params.threshold, Path(params.folder))
        print(*damaged, sep="\n", end="\n" * bool(damaged))
        print(f"{count} of {len(study.runs())} runs exist; the figures are in {params.folder}")
