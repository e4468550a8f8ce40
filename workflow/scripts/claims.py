"""Judge claims from a study's runs: the paper's, where the study reproduces it, and the user's own."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smallbatch.analysis.claims.catalogue import CLAIMS
from smallbatch.analysis.claims.user_claims import claims_of
from smallbatch.analysis.claims.user_function import check_unchanged
from smallbatch.analysis.claims.verdict_table import judge
from smallbatch.analysis.table import read_tables, write_table
from smallbatch.core import checksums
from smallbatch.core.code_digest import require_unchanged_code
from smallbatch.core.console import log_and_exit_on_error

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with log_and_exit_on_error(snakemake.log[0]), require_unchanged_code("claims", snakemake.params.code):
        tables = [read_tables([snakemake.input[name]]) for name in ("runs", "epochs", "variance")]
        params, outputs, generator = snakemake.params, snakemake.output, np.random.default_rng(0)
        claims = [*(CLAIMS if params.reproduces else ()), *claims_of(params.claims, params.figures)]
        judged = judge(params.figures, *tables, params.thresholds, generator, claims)
        check_unchanged(params.functions)
        write_table(judged, outputs.claims)
        checksums.write(Path(outputs.checksums), map(Path, outputs), made_by=params.made_by, inputs=snakemake.input)
