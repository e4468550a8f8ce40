"""Figures of an unfinished study, drawn from the runs that exist; missing cells are blank."""

from pathlib import Path

from smallbatch.analysis.selection import rates_so_far
from smallbatch.analysis.table import collect, epochs_table, runs_table, variance_table
from smallbatch.core.errors import UserError
from smallbatch.data.prepared import META, read_meta
from smallbatch.figures import draw
from smallbatch.figures.style import save
from smallbatch.runs.invalid_files import unexpected_files
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Study


def preview(study: Study, data: Path, results: Path, threshold: float, folder: Path) -> tuple[int, list[str]]:
    """Draw every figure of a study as PNG into `folder`, and delete pictures there of figures that it no longer has.

    Returns how many of its runs exist, and which are damaged.

    Args:
        study: the study.
        data: the folder of prepared data sets.
        results: the folder of the run store.
        threshold: the threshold of convergence.
        folder: the folder of the pictures.

    Raises:
        UserError: a data set is not prepared, so that no run of it can exist.
    """
    metas = {}
    for label in study.labels:
        if not (data / label / META).exists():
            raise UserError(
                f"{data / label}: not prepared yet, so there are no runs to draw; `snakemake datasets` does it"
            )
        metas[label] = read_meta(data / label / META)
    store = RunStore(results)
    grids = runs_table(study.planned(), collect(study.planned(), store, metas), metas, threshold)
    planned = study.planned(rates_so_far(study, grids))
    records = collect(planned, store, metas)
    runs, epochs = runs_table(planned, records, metas, threshold), epochs_table(records)
    variance = variance_table(records)
    pictures = {name: folder / f"{name}.png" for name in study.figures}
    for name, spec in study.figures.items():
        save(draw(spec, runs, epochs, variance, study.compared(name)), [pictures[name]])
    for stray in unexpected_files(folder, pictures.values()):
        stray.unlink()
    missing = {run.name(metas[run.setting.data].fingerprint) for _, run in planned} - records.keys()
    damaged = store.ends(missing)[1]
    return len(records), [f"{store.root / name}: damaged: {damage}; not drawn" for name, damage in damaged.items()]
