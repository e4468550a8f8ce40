"""Put a study's tables together."""

from pathlib import Path
from typing import TYPE_CHECKING

from smallbatch.analysis.table import read_tables, write_table
from smallbatch.core import checksums
from smallbatch.core.code_digest import require_unchanged_code
from smallbatch.core.console import log_and_exit_on_error

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with log_and_exit_on_error(snakemake.log[0]), require_unchanged_code("gather", snakemake.params.code):
        for name in ("runs", "epochs", "variance"):
            write_table(read_tables(snakemake.input[name]), snakemake.output[name])
        write_table(read_tables(snakemake.input.runs), snakemake.output.csv)
        checksums.write(Path(snakemake.output.checksums), map(Path, snakemake.output), made_by=snakemake.params.made_by,
                        inputs=snakemake.input)  # fmt: skip
