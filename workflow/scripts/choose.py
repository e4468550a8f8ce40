"""Choose for each batch size the rate that was best in other experiments."""

from pathlib import Path
from typing import TYPE_CHECKING

from smallbatch.analysis.selection import best_rates
from smallbatch.analysis.table import read_tables
from smallbatch.core import checksums
from smallbatch.core.code_digest import require_unchanged_code
from smallbatch.core.console import log_and_exit_on_error
from smallbatch.runs.chosen_rates import write_chosen

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with log_and_exit_on_error(snakemake.log[0]), require_unchanged_code("choose", snakemake.params.code):
        chosen = best_rates([read_tables([path]) for path in snakemake.input])
        records = [checksums.made_from(Path(sums)) for sums in snakemake.params.sums]
        write_chosen(Path(snakemake.output[0]), chosen, records, snakemake.params.choice)
