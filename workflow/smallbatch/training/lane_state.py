"""The state of the lanes in a training: weights, velocities, position, and results so far."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from smallbatch.runs.records import Epoch, Outcome, Score, Variance
from smallbatch.study.experiments import Run
from smallbatch.training.checkpoint_compatibility import State, why_incompatible
from smallbatch.training.lane_optimizer import LaneOptimizer
from smallbatch.training.metrics import Scores
from smallbatch.training.network import Network
from smallbatch.training.resources import device as devices


class LaneState:
    """Everything that changes during a training and is therefore in its checkpoint.

    Args:
        runs: run l is lane l.
        network: network of the lanes, with their weights and running statistics.
        optimizer: the lanes' optimiser, with its state.
        steps_per_epoch: updates per epoch.
        steps: updates of the whole training, at which the last epoch ends.

    Attributes:
        epoch, step: number of complete epochs, and of updates made since.
        history: complete epochs of each lane.
        variance: measured variances of updates of each lane.
        scores: metrics beside accuracy of each lane, by epoch.
        seconds: training time attributed to each lane.
        loss_sum: sum of losses over the epoch's mini-batches so far, [lanes].
        environments: versions, device and commit of each process that trained the lanes, in order.
        lanes_at_start: number of lanes before any diverged.
    """

    def __init__(
        self, runs: Sequence[Run], network: Network, optimizer: LaneOptimizer, steps_per_epoch: int, steps: int
    ) -> None:
        self.steps = steps
        self.runs, self.network, self.optimizer, self.steps_per_epoch = list(runs), network, optimizer, steps_per_epoch
        self.lanes_at_start, self.epoch, self.step = len(runs), 0, 0
        self.environments: list[dict[str, str]] = []
        self.history: list[list[Epoch]] = [[] for _ in runs]
        self.variance: list[list[Variance]] = [[] for _ in runs]
        self.scores: list[list[Score]] = [[] for _ in runs]
        self.seconds = [0.0] * len(runs)
        self.loss_sum = torch.zeros(len(runs), dtype=torch.float64, device=network.device)

    @property
    def model(self) -> nn.Module:
        """The model of all lanes."""
        return self.network.model

    @property
    def steps_done(self) -> int:
        """Updates made so far."""
        return min(self.epoch * self.steps_per_epoch + self.step, self.steps)

    @property
    def variance_is_measured(self) -> bool:
        """Whether the variance of updates has been measured after the last complete epoch."""
        return any(row.epoch == self.epoch for rows in self.variance for row in rows)

    def add_environment(self, environment: Mapping[str, str]) -> None:
        """Add the environment in which the training continues, if it differs from the previous one."""
        if self.environments[-1:] != [environment]:
            self.environments.append(dict(environment))

    def add_losses(self, losses: Tensor) -> dict[int, int]:
        """Count the updates of a block by their losses [steps, lanes]; returns the lanes that diverged -> number of the
        update."""
        start = self.steps_done
        self.loss_sum += losses.double().sum(0)
        self.step += len(losses)
        bad = ~losses.isfinite()
        if not bad.any():
            return {}
        firsts = {lane: bad[:, lane].nonzero() for lane in range(len(self.runs))}
        return {lane: start + int(first[0]) + 1 for lane, first in firsts.items() if len(first)}

    def add_seconds(self, seconds: float) -> None:
        """Divide elapsed time among the lanes."""
        each = seconds / len(self.runs)
        self.seconds = [before + each for before in self.seconds]

    def add_variance(self, measured: Sequence[list[Variance]]) -> None:
        """Add a measurement of each lane."""
        self.variance = [before + rows for before, rows in zip(self.variance, measured, strict=True)]

    def end_epoch(self, factor: float, test: Scores, validation: Scores | None) -> dict[int, int]:
        """Add an epoch to each lane's history; returns the lanes that diverged -> number of the update.

        Args:
            factor: factor of eta at the last update.
            test: scores on the test split.
            validation: scores on the held-out images; None if there are none.
        """
        train_losses = (self.loss_sum / self.step).tolist()
        self.epoch, self.step = self.epoch + 1, 0
        for lane, run in enumerate(self.runs):
            held_out = validation.accuracies[lane] if validation else math.nan
            seen = train_losses[lane], test.losses[lane], test.accuracies[lane], held_out
            self.history[lane].append(Epoch(self.epoch, run.learning_rate * factor, *seen))
            for metric, of_lanes in test.metrics.items():
                held_out_too = validation.metrics[metric][lane] if validation else (math.nan, math.nan)
                self.scores[lane].append(Score(self.epoch, metric, *of_lanes[lane], *held_out_too))
        self.loss_sum.zero_()
        # Weights can overflow in the last update of an epoch, which no training loss shows.
        return {lane: self.steps_done for lane, loss in enumerate(test.losses) if not math.isfinite(loss)}

    def outcome(self, lane: int, diverged_at: int | None) -> Outcome:
        """The recorded outcome of a lane that ends now, after the last update or at an update that diverged."""
        return Outcome(
            epochs=self.history[lane],
            diverged_at=diverged_at,
            seconds=self.seconds[lane],
            images=(diverged_at or self.steps_done) * self.runs[lane].batch_size,
            lanes=self.lanes_at_start,
            peak_memory=devices.peak_memory(self.network.device),
            variance=self.variance[lane],
            scores=self.scores[lane],
        )

    def select(self, keep: list[int]) -> None:
        """Keep only these lanes; if `keep` is empty, the tensors are not changed."""
        self.runs, self.seconds = [self.runs[lane] for lane in keep], [self.seconds[lane] for lane in keep]
        self.history, self.variance = [self.history[lane] for lane in keep], [self.variance[lane] for lane in keep]
        self.scores = [self.scores[lane] for lane in keep]
        self.loss_sum = self.loss_sum[keep]
        if keep:
            self.network.select(keep)
            self.optimizer.select(self.network.parameters, keep)

    def state_dict(self) -> State:
        """Everything that a checkpoint needs to continue from here, bit for bit."""
        return {
            "runs": [run.settings for run in self.runs],
            "lanes": self.lanes_at_start,
            "part": self.network.micro_batch,  # named as in files of earlier versions
            "model": self.model.state_dict(),
            "velocity": self.optimizer.state,  # named as in files of earlier versions
            "environments": self.environments,
            "epoch": self.epoch,
            "step": self.step,
            "history": [[list(epoch) for epoch in lane] for lane in self.history],
            "variance": [[list(row) for row in lane] for lane in self.variance],
            "scores": [[list(row) for row in lane] for lane in self.scores],
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
        }

    def why_incompatible(self, state: State) -> str | None:
        """The reason why a new training cannot continue from a `state_dict`; None if it can."""
        epochs = math.ceil(self.steps / self.steps_per_epoch)
        return why_incompatible(state, self.state_dict(), epochs, self.steps_per_epoch)

    def load_state_dict(self, state: State) -> None:
        """Continue from a `state_dict` of these runs."""
        self.lanes_at_start, self.network.micro_batch = state["lanes"], min(self.network.micro_batch, state["part"])
        self.model.load_state_dict(state["model"])
        device = self.network.device
        self.optimizer.state = [tensor.to(device) for tensor in state["velocity"]]
        self.environments = list(state["environments"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.history = [[Epoch(*epoch) for epoch in lane] for lane in state["history"]]
        self.variance = [[Variance(*row) for row in lane] for lane in state["variance"]]
        self.scores = [[Score(*row) for row in lane] for lane in state["scores"]]
        self.loss_sum = state["loss_sum"].to(device)
