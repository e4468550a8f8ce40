"""The library from the shell, without Snakemake: `python -m smallbatch ...`, run in the project's folder."""

import argparse
import time
from pathlib import Path

from smallbatch.console import log, reporting
from smallbatch.data import label as label_of
from smallbatch.data import prepare
from smallbatch.errors import refuse
from smallbatch.settings import likely, read_yaml
from smallbatch.study import Study, check_config, load_study

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
        study = load_study(arguments.study or config["study"], config["datasets"])
        _COMMANDS[arguments.command](study, config, arguments)


def _check(study: Study, config: dict, arguments: argparse.Namespace) -> None:
    log.info("study %s: %d experiments, %d runs: all is well", study.name, len(study.experiments), len(study.runs()))


def _prepare(study: Study, config: dict, arguments: argparse.Namespace) -> None:
    for name, settings in config["datasets"].items():
        label = label_of(name, settings)
        if label in study.labels:
            meta = prepare(label, settings, DATA / label, DATA / "downloads")
            study.check_against_data(label, meta.train)
            log.info("%s: %d training and %d test images", DATA / label, meta.train, meta.test)


def _train(study: Study, config: dict, arguments: argparse.Namespace) -> None:
    known = list(study.experiments)
    if arguments.experiment and arguments.experiment not in known:
        allowed = f"{', '.join(known)}{likely(arguments.experiment, known)}"
        refuse("command line", "--experiment", arguments.experiment, allowed)
    from smallbatch.training.pack import train_pack  # imports torch, which takes seconds

    chosen = [run for name, run in study.planned() if arguments.experiment in (None, name)]
    training = config["training"] | ({"device": arguments.device} if arguments.device else {})
    started = time.perf_counter()
    for label in study.labels:
        runs = list(dict.fromkeys(run for run in chosen if run.setting.data == label))
        options = {key: training[key] for key in ("device", "lanes", "keep_weights")}
        trained = train_pack(runs, DATA / label, RESULTS, **options) if runs else 0
        log.info("%s: %d of %d runs trained in %.0f s", label, trained, len(runs), time.perf_counter() - started)


_COMMANDS = {"check": _check, "prepare": _prepare, "train": _train}

if __name__ == "__main__":
    main()
