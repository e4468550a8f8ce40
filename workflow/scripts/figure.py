"""Draw one figure from the tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from smallbatch.analysis.table import read_tables
from smallbatch.console import reporting
from smallbatch.figures import draw
from smallbatch.figures.style import save

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with reporting(snakemake.log[0]):
        runs, epochs, variance = (read_tables(snakemake.input[name]) for name in ("runs", "epochs", "variance"))
        save(draw(snakemake.params.spec, runs, epochs, variance), [Path(path) for path in snakemake.output])
