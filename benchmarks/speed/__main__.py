"""The same cells trained by this engine and by what one would use instead, in turn in one command.

    make bench                                          # all cells; more than an hour on two cores
    make bench BENCH="--cells alexnet digits-m2 --rounds 3"
    PYTHONPATH=workflow:benchmarks python -m speed --help

Compared are the usual loop (Dataset, DataLoader, eager SGD), the same through torch.compile, PyTorch Lightning and this
engine; and beside them the speed of matrix products. On a GPU also what an expert would write for many runs at once:
JAX (vmap over runs, scan over steps), and a torch model of grouped convolutions, compiled, each step a CUDA graph.
Needs no Snakemake; a peer that is not installed is left out.
"""

import argparse
from pathlib import Path

from smallbatch.core.console import log, log_and_exit_on_error
from smallbatch.core.errors import UserError
from speed import report
from speed.bench import device_of, run
from speed.cells import methods, selected
from speed.measure import Failed


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", default=[], help="such as alexnet, digits-m2 (default: all)")
    parser.add_argument("--methods", nargs="+", default=[], help="such as usual-cores, engine (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="in each of which every method trains once")
    parser.add_argument("--seconds", type=float, default=4.0, help="that an epoch of the usual loop lasts on a core")
    parser.add_argument("--minutes", type=float, help="after which no further cell is begun")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--figure1", action="store_true", help="time Figure 1's rows and extrapolate its whole grid")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for speed-DEVICE.*")
    arguments = parser.parse_args()
    with log_and_exit_on_error():
        cells = selected(arguments.cells)
        try:
            device = device_of(arguments.device)
        except Failed as error:
            raise UserError(f"command line: --device: {error}") from error
        kind = device["device"]
        results = run(
            cells, methods(kind, arguments.methods), device, arguments.out / f"speed-{kind}.json",
            rounds=arguments.rounds, seconds=arguments.seconds, minutes=arguments.minutes,
            whole_figure1=arguments.figure1, tell=log.info,
        )  # fmt: skip
    print(report.table(results))


if __name__ == "__main__":
    main()
