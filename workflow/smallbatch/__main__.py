"""The library from the shell, without Snakemake: `python -m smallbatch ...`, run in the project's folder."""

import argparse
import time
from pathlib import Path

from smallbatch.console import log, reporting
from smallbatch.data import label as label_of
from smallbatch.data import prepare
from smallbatch.data.prepared import META, read_meta
from smallbatch.errors import refuse
from smallbatch.settings import likely, read_yaml
from smallbatch.store import RunStore
from smallbatch.study import Chosen, Experiment, Study
from smallbatch.study_file import check_against_data, check_config, load_study
from smallbatch.training import stopping

DATA, RESULTS = Path("data"), Path("results")


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m smallbatch", description=__doc__)
    parser.add_argument("--study", help="a file of config/studies, without .yaml (default: that of config/config.yaml)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="check the configuration and the study; say how many runs it has")
    commands.add_parser("prepare", help="prepare the data sets of the study")
    train = commands.add_parser("train", help="train what is missing of the study, or of one experiment")
    train.add_argument("--experiment", help="only this one")
    train.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: that of config/config.yaml)")
    arguments = parser.parse_args()
    with reporting():
        config = read_yaml(Path("config/config.yaml"))
        check_config(config)
        study = load_study(config | ({"study": arguments.study} if arguments.study else {}))
        _COMMANDS[arguments.command](study, config, arguments)


def _check(study: Study, config: dict, arguments: argparse.Namespace) -> None:
    log.info("study %s: %d experiments, %d runs: all is well", study.name, len(study.experiments), len(study.runs()))


def _prepare(study: Study, config: dict, arguments: argparse.Namespace) -> None:
    for name, settings in config["datasets"].items():
        label = label_of(name, settings)
        if label in study.labels:
            meta = prepare(label, settings, DATA / label, DATA / "downloads")
            check_against_data(study, label, meta.train)
            log.info("%s: %d training and %d test images", DATA / label, meta.train, meta.test)


@stopping.listening()
def _train(study: Study, config: dict, arguments: argparse.Namespace) -> None:
    known = list(study.experiments)
    if arguments.experiment and arguments.experiment not in known:
        allowed = f"{', '.join(known)}{likely(arguments.experiment, known)}"
        refuse("command line", "--experiment", arguments.experiment, allowed)
    from smallbatch.training.launch import train

    asked = [e for e in study.experiments.values() if arguments.experiment in (None, e.name)]
    training = config["training"] | ({"device": arguments.device} if arguments.device else {})
    # First the grids, then what takes the best of them.
    for e in sorted(asked, key=lambda e: bool(e.best_of)):
        stopping.check()
        started = time.perf_counter()
        runs = list(e.runs(_chosen(study, e, config) if e.best_of else None))
        trained = train(runs, DATA / e.setting.data, RESULTS, training)
        log.info("%s: %d of %d runs trained in %.0f s", e.name, trained, len(runs), time.perf_counter() - started)


def _chosen(study: Study, experiment: Experiment, config: dict) -> Chosen:
    """The rates that an experiment takes from others, all of whose runs are there."""
    from smallbatch.analysis.selection import best_rates
    from smallbatch.analysis.table import collect, runs_table  # imports pandas

    bases = [(name, run) for name in experiment.best_of for run in study.experiments[name].runs()]
    metas = {label: read_meta(DATA / label / META) for label in study.labels}
    runs = runs_table(bases, collect(bases, RunStore(RESULTS / "runs"), metas), metas, config["convergence_threshold"])
    lacking = runs.loc[runs["status"] == "missing", "experiment"]
    if len(lacking):
        allowed = f"experiments whose rates are known; {lacking.iloc[0]} is not trained yet"
        refuse("command line", "--experiment", experiment.name, allowed)
    return best_rates([runs[runs["experiment"] == name] for name in experiment.best_of])


_COMMANDS = {"check": _check, "prepare": _prepare, "train": _train}

if __name__ == "__main__":
    main()
