"""Print what a study takes, and keep the timings for the jobs that train it."""

from pathlib import Path
from typing import TYPE_CHECKING

from smallbatch.core.console import log_and_exit_on_error
from smallbatch.data import label
from smallbatch.data.dataset_info import dataset_info
from smallbatch.estimate.cost import estimate, format_estimate
from smallbatch.study.experiments import Study
from smallbatch.study_file.data_compatibility import check_against_data

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with log_and_exit_on_error(snakemake.log[0]):
        params = snakemake.params
        study = Study.from_json(params.study)
        datasets = {
            label(key, settings): dataset_info(key, settings, Path(params.data))
            for key, settings in params.datasets.items()
            if label(key, settings) in study.labels
        }
        for name, size in datasets.items():
            check_against_data(study, name, size.train, size)
        options = {key: params.training[key] for key in ("device", "lanes", "keep_weights")}
        table, timings = estimate(study, datasets, **options)
        timings.write(Path(params.timings))
        print(f"{format_estimate(study, table)}\nTime and memory of training jobs follow {params.timings} from now on.")
