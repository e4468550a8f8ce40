"""Draw one figure from the tables."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from smallbatch.console import reporting
from smallbatch.figures import draw
from smallbatch.figures.style import save

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with reporting(snakemake.log[0]):
        runs, epochs = (pd.read_parquet(path) for path in (snakemake.input.runs, snakemake.input.epochs))
        save(draw(snakemake.params.spec, runs, epochs), [Path(path) for path in snakemake.output])
