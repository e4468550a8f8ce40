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
        tables = [read_tables(snakemake.input[name]) for name in ("runs", "epochs", "variance")]
        outputs, params = snakemake.output, snakemake.params
        whole = [Path(outputs[form]) for form in ("pdf", "svg", "png")]
        if params.pdf == "bare":
            save(draw(params.spec, *tables, params.compared, bare=True), [whole.pop(0)])
        save(draw(params.spec, *tables, params.compared), whole)
        checksums.write(Path(outputs.checksums), map(Path, outputs), made_by=params.made_by, inputs=snakemake.input)
