"""The files of each program that tracks experiments: settings of a run, the metrics of its epochs, its outcome.

Times of epochs are not recorded, so those of a finished run all have the time at which it ended.
"""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from smallbatch.analysis.statistics import final_accuracy, final_median
from smallbatch.runs.records import Epoch, Record, Score

Values = Mapping[str, Any]


class RunLog(Protocol):
    """The files of one run, open for more epochs."""

    def add(self, epoch: int, metrics: Mapping[str, float], at: float) -> None:
        """Write metrics by name, of the epoch with this number, as of a time in seconds since 1970."""

    def close(self, record: Record | None) -> None:
        """End the files, with what came out; None: the run is not finished."""


class Tracker(Protocol):
    """Opens the files of a run, in place of those that were there."""

    def __call__(self, folder: Path, study: str, run: str, settings: Values) -> RunLog:
        """Open them: in the folder of all runs of this study, under the run's name."""


def metrics_of(epoch: Epoch, primary: str, scores: Sequence[Score] = ()) -> dict[str, float]:
    """The metrics of an epoch by name; without those on a validation split that the run does not hold out.

    Args:
        epoch: the epoch.
        primary: the run's primary metric, which its accuracies are.
        scores: all that is known of the run's other metrics.
    """
    own = {name.replace("accuracy", primary): value for name, value in epoch._asdict().items() if name != "epoch"}
    for score in scores:
        if score.epoch == epoch.epoch:
            own |= {f"test_{score.metric}": score.test, f"validation_{score.metric}": score.validation}
    return {name: value for name, value in own.items() if not math.isnan(value)}


def outcome_of(record: Record) -> dict[str, float]:
    """What came of a run, by name: seconds, and its accuracy and metrics, or the update at which it diverged."""
    outcome, setting = record.outcome, record.run.setting
    seconds = {"seconds": outcome.seconds}
    if outcome.diverged_at is not None:
        return {"diverged_at": outcome.diverged_at} | seconds
    by_metric = {name: [score.test for score in outcome.scores if score.metric == name] for name in setting.metrics}
    medians = {name: final_median(values) for name, values in by_metric.items()}
    return {setting.primary_metric: final_accuracy(outcome.epochs)} | medians | seconds


def time_of(record: Record) -> float:
    """When a run ended, in seconds since 1970."""
    return datetime.fromisoformat(record.ended).timestamp()


def plain(settings: Values) -> dict[str, Any]:
    """Settings as the programs take them: lists as text, and none without a value."""
    texts = {name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in settings.items()}
    return {name: value for name, value in texts.items() if value is not None and value != ""}


class TensorBoard:
    """Event files, a folder for each run; tensorboard writes them, without torch and TensorFlow."""

    def __init__(self, folder: Path, study: str, run: str, settings: Values) -> None:
        from tensorboard.plugins.hparams import summary_v2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._folder = folder / "runs" / run
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = EventFileWriter(str(self._folder))
        self._write(summary_v2.hparams_pb(plain(settings), trial_id=run))

    def _write(self, summary: Any, **when: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(summary=summary, **when))
        self._writer.flush()

    def add(self, epoch: int, metrics: Mapping[str, float], at: float) -> None:
        """See `RunLog`."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._write(Summary(value=values), step=epoch, wall_time=at)

    def close(self, record: Record | None) -> None:
        """See `RunLog`; the outcome is of the last epoch."""
        if record:
            last = max((epoch.epoch for epoch in record.outcome.epochs), default=0)
            self.add(last, {f"final/{name}": value for name, value in outcome_of(record).items()}, time_of(record))
        self._writer.close()


class MLflow:
    """A file store `mlruns`, the study as its experiment. What is replaced MLflow keeps as deleted."""

    def __init__(self, folder: Path, study: str, run: str, settings: Values) -> None:
        self._client, experiment, earlier = _mlflow_store((folder / "mlruns").resolve().as_uri(), study)
        from mlflow.entities import Param

        for old in earlier.pop(run, []):
            self._client.delete_run(old)
        self._run = self._client.create_run(experiment, run_name=run).info.run_id
        earlier[run] = [self._run]
        params = [Param(name, str(value)) for name, value in plain(settings).items()]
        self._client.log_batch(self._run, params=params)

    def add(self, epoch: int, metrics: Mapping[str, float], at: float) -> None:
        """See `RunLog`."""
        from mlflow.entities import Metric

        values = [Metric(name, value, round(1000 * at), epoch) for name, value in metrics.items()]
        self._client.log_batch(self._run, metrics=values)

    def close(self, record: Record | None) -> None:
        """See `RunLog`."""
        if not record:
            self._client.set_terminated(self._run, "KILLED")
            return
        self.add(len(record.outcome.epochs), outcome_of(record), time_of(record))
        for name, value in record.environment.items():
            self._client.set_tag(self._run, name, value)
        self._client.set_terminated(self._run, "FINISHED", round(1000 * time_of(record)))


@cache
def _mlflow_store(uri: str, study: str) -> tuple[Any, str, dict[str, list[str]]]:
    """A client of a file store, the number of the study's experiment, and its runs of earlier calls: name -> ids."""
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # MLflow 3 writes its file store only if asked to
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        return client, client.create_experiment(study), {}
    earlier: dict[str, list[str]] = {}
    page = None
    while page is None or page.token:
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=page.token if page else None)
        for run in page:
            earlier.setdefault(run.info.run_name, []).append(run.info.run_id)
    return client, experiment.experiment_id, earlier


class WandB:
    """Offline runs, which `wandb sync` uploads: the study as project, the hash of a run's name as its id."""

    def __init__(self, folder: Path, study: str, run: str, settings: Values) -> None:
        import wandb

        identity = run.rpartition("-")[2]
        for old in (folder / "wandb").glob(f"offline-run-*-{identity}"):
            shutil.rmtree(old)
        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
        )
        self._run = wandb.init(
            mode="offline", dir=str(folder), project=study, id=identity, name=run, config=plain(settings),
            settings=quiet, reinit="create_new",
        )  # fmt: skip

    def add(self, epoch: int, metrics: Mapping[str, float], at: float) -> None:
        """See `RunLog`."""
        self._run.log({**metrics, "_timestamp": at}, step=epoch)

    def close(self, record: Record | None) -> None:
        """See `RunLog`."""
        if record:
            self._run.summary.update(outcome_of(record))
            self._run.config.update({"environment": record.environment})
        self._run.finish(0 if record else 1)


TRACKERS: dict[str, Tracker] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
"""Program, which is also the extra of pyproject.toml that installs it -> what opens its files."""
