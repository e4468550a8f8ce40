"""Files of the rates that were chosen for an experiment from others, one file per experiment."""

from collections.abc import Sequence
from pathlib import Path

from smallbatch.core.errors import UserError
from smallbatch.core.files import read_sealed, write_sealed
from smallbatch.study.experiments import Chosen
from smallbatch.study.rates import BaseLr


def chosen_file(results: Path, study: str, experiment: str) -> Path:
    """The path of the file with the rates that were chosen for an experiment of a study."""
    return results / study / "chosen" / f"{experiment}.json"


def write_chosen(path: Path, chosen: Chosen, records: Sequence[str | None], code: str) -> None:
    """Write chosen rates as JSON with a digest.

    Args:
        path: the file, as returned by `chosen_file`.
        chosen: the rates.
        records: for each experiment that they were taken from, `records.digest_of` its runs' records.
        code: a hash over the code that chose the rates.
    """
    rates = {str(m): rate for m, rate in sorted(chosen.items())}
    write_sealed(path, _study_and_experiment(path) | {"rates": rates, "records": list(records), "code": code})


def _study_and_experiment(path: Path) -> dict[str, str]:
    return {"study": path.parents[1].name, "experiment": path.stem}


def read_chosen(path: Path) -> Chosen:
    """Read the rates that `write_chosen` wrote.

    Raises:
        UserError: the file is missing, damaged, edited or of another experiment.
    """
    values = read_sealed(path)
    rates, _, _ = (values.pop(key, None) for key in ("rates", "records", "code"))
    if values != _study_and_experiment(path) or not isinstance(rates, dict):
        raise UserError(f"{path}: not the rates that were chosen for this experiment; delete it: it is made again")
    return {int(m): BaseLr(rate) for m, rate in rates.items()}


def records_and_code(path: Path) -> tuple[list[str | None] | None, str | None]:
    """The `records` and the `code` that `write_chosen` was given; None where unknown."""
    try:
        values = read_sealed(path)
    except UserError:
        return None, None
    return values.get("records"), values.get("code")
