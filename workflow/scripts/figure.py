"""Draw one figure from the tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from smallbatch.analysis.table import read_tables
from smallbatch.core import checksums
from smallbatch.core.code_digest import require_unchanged_code
from smallbatch.core.console import log_and_exit_on_error
from smallbatch.figures import draw
from smallbatch.figures.style import save

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with log_and_exit_on_error(snakemake.log[0]), require_unchanged_code("figure", snakemake.params.code):
        runs, epochs, variance = (read_tables(snakemake.input[name]) for name in ("runs", "epochs", "variance"))
        outputs = snakemake.output
        drawn = draw(snakemake.params.spec, runs, epochs, variance, snakemake.params.compared)
        save(drawn, [Path(outputs[form]) for form in ("pdf", "svg", "png")])
        checksums.write(
            Path(outputs.checksums), map(Path, outputs), recipe=snakemake.params.recipe, inputs=snakemake.input
        )
