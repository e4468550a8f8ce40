"""Make a source into prepared arrays."""

from pathlib import Path
from typing import TYPE_CHECKING

from smallbatch.core.console import log_and_exit_on_error
from smallbatch.data import prepare

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with log_and_exit_on_error(snakemake.log[0]):
        params, label = snakemake.params, snakemake.wildcards.label
        prepare(label, params.settings, Path(snakemake.output.meta).parent, Path(params.downloads))
