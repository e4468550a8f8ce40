"""The library from the shell, without Snakemake: `python -m smallbatch ...`, run in the project's folder."""

import argparse
import io
import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import smallbatch
from smallbatch.core import signals
from smallbatch.core.code_digest import code_digest
from smallbatch.core.console import log, log_and_exit_on_error
from smallbatch.core.environment import git_commit
from smallbatch.core.errors import UserError, refuse
from smallbatch.data import check_source, prepare, reason_to_prepare
from smallbatch.data import label as label_of
from smallbatch.data.dataset_info import image_shape_and_classes, size_of
from smallbatch.data.prepared import META, Meta, damaged_arrays, read, read_meta, set_aside_beside_folder
from smallbatch.estimate.timings import Timings
from smallbatch.export.trackers import TRACKERS
from smallbatch.runs.bundles import FILES, import_published, record_of_weights
from smallbatch.runs.chosen_rates import chosen_file, write_chosen
from smallbatch.runs.records import digest_of
from smallbatch.runs.status import format_status, study_status
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Chosen, Experiment, Study
from smallbatch.study.yaml_validation import location, overridden, read_entries, read_yaml, suggestion
from smallbatch.study_file import CONFIG_FILE, check_config, load_study
from smallbatch.study_file.data_compatibility import check_against_data

DATA, RESULTS = Path("data"), Path("results")

Config = dict[str, Any]
"""A checked configuration."""


def main() -> None:
    """Run the command that the command line names."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook sets a backend that exists only there
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a character that the terminal lacks, as ⁻, is no error
    parser = argparse.ArgumentParser(prog="python -m smallbatch", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, purpose) in _STUDY_COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        command.add_argument(
            "--config", action="extend", nargs="+", metavar="KEY=VALUE", default=[], help="as given to snakemake"
        )
        if name == "train":
            command.add_argument("--experiment", help="only this one")
        if name == "export":
            command.add_argument(
                "tracker", choices=TRACKERS, help="the program that shows them, which is to be installed"
            )
            command.add_argument("study", nargs="?", metavar="STUDY", help="as --config study=STUDY")
            command.add_argument("--follow", action="store_true", help="go on while it is trained, epoch by epoch")
    command = commands.add_parser(
        "evaluate", help="test the kept weights of a run: do they give the recorded accuracy?"
    )
    command.add_argument("run", metavar="RUN", type=Path, help="its name, its folder, or a file of its weights")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    command = commands.add_parser(
        "compare", help="set experiments of two studies side by side: settings, best batch sizes, differences"
    )
    for side in ("first", "second"):
        command.add_argument(side, metavar="STUDY[:EXPERIMENT]", help="a study that has results, or one experiment")
    arguments = parser.parse_args()
    with log_and_exit_on_error():
        if arguments.command == "evaluate":
            _evaluate(arguments.run, arguments.device)
        elif arguments.command == "compare":
            from smallbatch.analysis.study_comparison import compare  # imports pandas

            _print(compare(arguments.first, arguments.second, RESULTS))
        else:
            _run_for_study(_STUDY_COMMANDS[arguments.command][0], arguments)


def _run_for_study(command: Callable[[Study, Config, argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    if getattr(arguments, "study", None):
        arguments.config.append(f"study={arguments.study}")
    given = read_entries(arguments.config)
    config = check_config(overridden(read_yaml(Path(CONFIG_FILE)), arguments.config, "command line"), given=given)
    # What only reads does not need the user's own models.
    command(load_study(config, given, examine=command not in (_status, _export)), config, arguments)


def _evaluate(run: Path, device: str) -> None:
    from smallbatch.training.resources import device as devices
    from smallbatch.training.weights_evaluation import evaluate  # imports torch, which takes seconds

    asked, run = run, run.parent if run.name in FILES else run.with_suffix("") if run.suffix == ".dvc" else run
    if run.name in ("", "..") or (run.parent != Path() and run.parent.name not in ("runs", "weights")):
        allowed = "a run's name, its folder or a file in that, as results/runs/NAME, or a file of results/weights"
        refuse("command line", "RUN", str(asked), allowed)
    store = RunStore(RESULTS if run.parent == Path() else run.parents[1])
    import_published(store)
    record = record_of_weights(store, run.name)
    evaluation = evaluate(store, record, DATA, devices.pick(device, "command line", "--device"))
    _print(f"{store.root / record.run.name(record.fingerprint)}: test accuracy {evaluation}")


def _check(study: Study, config: Config, arguments: argparse.Namespace) -> None:
    given = read_entries(arguments.config)
    _check_data(study, config, given)
    if incomplete := git_commit()[1]:
        log.info("%s", incomplete)
    from smallbatch.analysis.words import counted  # imports pandas

    if find_spec("torch"):  # a reader's environment has none, and trains nothing
        _log_how_experiments_are_trained(study, config, location("training.device", CONFIG_FILE, given))
    counts = counted(len(study.experiments), "experiment"), counted(len(study.runs()), "run")
    log.info("study %s: %s, %s: nothing wrong was found", study.name, *counts)


def _log_how_experiments_are_trained(study: Study, config: Config, where: str) -> None:
    """Log how each experiment will be trained here, and how fast as far as that was measured.

    Args:
        study: the study.
        config: the configuration, with the device and the settings of data sets.
        where: the place that said the device. If the device is missing, other machines may do the training.
    """
    from smallbatch.training.resources import device as devices
    from smallbatch.training.training_description import describe_planned_training

    try:
        device = devices.pick(config["training"]["device"], where)
    except UserError as error:
        log.info("%s here; trainings need a machine that has it", error)
        return
    keys = {label_of(key, settings): key for key, settings in config["datasets"].items()}
    timings = Timings.read(RESULTS / study.name / "cost.json")
    for e in study.experiments.values():
        key, runs = keys[e.setting.data], list(e.runs())
        words = describe_planned_training(runs[0], *image_shape_and_classes(key, config["datasets"][key], DATA), device)
        log.info("%s: %s%s", e.name, words, timings.words(runs))
    if not timings.kinds:
        log.info("how fast that is, `snakemake cost` measures")


def _check_data(study: Study, config: Config, given: Config) -> None:
    """Check that data sets can be prepared or, once they are, have the number of images that the study asks for.

    Args:
        study: the study whose data sets are checked.
        config: the configuration, with the settings of data sets.
        given: the values of the configuration that the command line gave.
    """
    keys = {label_of(key, settings): key for key, settings in config["datasets"].items()}
    for label, settings in _datasets(study, config).items():
        if reason_to_prepare(label, settings, DATA / label):
            where_given = location(f"datasets.{keys[label]}.path", CONFIG_FILE, given)
            size = check_source(where_given, keys[label], settings)
        else:
            size = size_of(read_meta(DATA / label / META))
        if size:
            check_against_data(study, label, size.train, size)


def _prepare(study: Study, config: Config, arguments: argparse.Namespace) -> None:
    _check_data(study, config, read_entries(arguments.config))
    for label, settings in _datasets(study, config).items():
        meta = _valid_meta(label, settings) or prepare(label, settings, DATA / label, DATA / "downloads")
        check_against_data(study, label, meta.train, size_of(meta))
        log.info("%s: %d training and %d test images", DATA / label, meta.train, meta.test)


def _datasets(study: Study, config: Config) -> dict[str, dict[str, Any]]:
    """Label of each data set of the study -> its settings."""
    labelled = {label_of(name, settings): settings for name, settings in config["datasets"].items()}
    return {label: settings for label, settings in labelled.items() if label in study.labels}


def _valid_meta(label: str, settings: dict[str, Any]) -> Meta | None:
    """The metadata of a data set that is undamaged and prepared as its settings say; else None, and logs why."""
    reason = reason_to_prepare(label, settings, DATA / label)
    try:
        if reason is None:
            return read(DATA / label).meta
    except UserError as error:
        reason = str(error)
    if (DATA / label).exists():
        damaged = [str(set_aside_beside_folder(array)) for array in damaged_arrays(DATA / label)]
        log.info("%s: prepared again%s", reason, f"; set aside as {', '.join(damaged)}" if damaged else "")
    return None


def _status(study: Study, config: Config, arguments: argparse.Namespace) -> None:
    _print(format_status(study_status(study, DATA, RESULTS)))


@signals.catching_signals()
def _export(study: Study, config: Config, arguments: argparse.Namespace) -> None:
    from smallbatch.export.export_runs import export  # imports numpy

    running = None
    if arguments.follow:
        from smallbatch.training.checkpoint_folder import EpochsReader  # imports torch, which takes seconds

        running = EpochsReader(RESULTS / "checkpoints")
    import_published(RunStore(RESULTS))
    folder = RESULTS / study.name / "export" / arguments.tracker
    finished, written = export(study, TRACKERS[arguments.tracker], folder, DATA, RESULTS, running)
    log.info("%s: %d finished runs of study %s, of which %d are new", folder, finished, study.name, written)


def _print(text: str) -> None:
    """Print text to standard output, whose reader may have closed it."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes the rest when it exits
        raise UserError(f"standard output: cannot be written: {error.strerror}") from error


@signals.catching_signals()
def _train(study: Study, config: Config, arguments: argparse.Namespace) -> None:
    known = list(study.experiments)
    if arguments.experiment and arguments.experiment not in known:
        allowed = f"{', '.join(known)}{suggestion(arguments.experiment, known)}"
        refuse("command line", "--experiment", arguments.experiment, allowed)
    from smallbatch.training.launch import train

    import_published(RunStore(RESULTS))
    asked = [e for e in study.experiments.values() if arguments.experiment in (None, e.name)]
    for label, settings in _datasets(study, config).items():
        reason = reason_to_prepare(label, settings, DATA / label)
        if reason and label in {e.setting.data for e in asked}:
            raise UserError(f"{reason}; `python -m smallbatch prepare` mends that")
    # First the grids, then the experiments that take their best rates.
    for e in sorted(asked, key=lambda e: bool(e.best_of)):
        signals.raise_if_signalled()
        started = time.perf_counter()
        chosen, records = _chosen(study, e, config) if e.best_of else (None, [])
        if chosen:
            write_chosen(chosen_file(RESULTS, study.name, e.name), chosen, records, _selection_digest())
        runs, heartbeat = list(e.runs(chosen)), RESULTS / "packs" / f"{study.name}.{e.name}.json"
        trained = train(runs, DATA / e.setting.data, RESULTS, config["training"], heartbeat=heartbeat)
        log.info("%s: %d of %d runs trained in %.0f s", e.name, trained, len(runs), time.perf_counter() - started)


def _chosen(study: Study, experiment: Experiment, config: Config) -> tuple[Chosen, list[str]]:
    """The rates that an experiment takes from completely trained ones, and the digests of their records."""
    from smallbatch.analysis.selection import best_rates
    from smallbatch.analysis.table import collect, runs_table  # imports pandas

    bases = [(name, run) for name in experiment.best_of for run in study.experiments[name].runs()]
    metas = {label: read_meta(DATA / label / META) for label in study.labels}
    records = collect(bases, RunStore(RESULTS), metas)
    runs = runs_table(bases, records, metas, config["convergence_threshold"])
    lacking = runs.loc[runs["status"] == "missing", "experiment"]
    if len(lacking):
        allowed = f"experiments whose rates are known; {lacking.iloc[0]} is not trained yet"
        refuse("command line", "--experiment", experiment.name, allowed)
    tables = [runs[runs["experiment"] == name] for name in experiment.best_of]
    return best_rates(tables), [digest_of(records[name].digest for name in table["run"]) for table in tables]


def _selection_digest() -> str:
    """A hash over the code that chooses rates, as the workflow records it."""
    from smallbatch.analysis import selection

    return code_digest(Path(selection.__file__), Path(smallbatch.__file__).parents[1])


_STUDY_COMMANDS = {
    "check": (_check, "check the configuration and the study; say how many runs it has"),
    "prepare": (_prepare, "prepare the data sets of the study; those that are prepared are checked to the last byte"),
    "train": (_train, "train what is missing of the study, or of one experiment"),
    "export": (_export, "write the study's runs to files of TensorBoard, MLflow or Weights & Biases"),
    "status": (_status, "say how far the study is, wherever it is trained"),
}

if __name__ == "__main__":
    main()
