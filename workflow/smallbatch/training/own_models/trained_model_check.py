"""Checks whether a model that is trained alone still behaves as in its check after some updates.

A buffer may count updates, and a branch in Python may depend on it, which no check before the training sees.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from smallbatch.core.errors import UserError
from smallbatch.training.own_models import norm_check, reproducibility
from smallbatch.training.own_models.candidate import EXAMPLES, Candidate, pass_name
from smallbatch.training.own_models.examination import isolated_torch
from smallbatch.training.own_models.operation_recorder import Recorder
from smallbatch.training.own_models.spec import ModelSpec


class TrainedCandidate(Candidate):
    """A model with weights and buffers from its training."""

    def __init__(self, spec: ModelSpec, state: Mapping[str, Tensor]) -> None:
        super().__init__(spec)
        self.state = {name: tensor.cpu() for name, tensor in state.items()}

    def trained(self) -> nn.Module:
        """A new model with this state."""
        model = self.build(1)
        model.load_state_dict(self.state)
        return model


class TrainedModelCheck:
    """Compares, after each epoch, the operations in a model's passes with those of the new model."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.known = [self._operations(TrainedCandidate(spec, Candidate(spec).build(1).state_dict()))]

    def check(self, state: Mapping[str, Tensor], epoch: int) -> None:
        """Make sure that, if its passes have changed, a model in this state may be trained and tested like a new one.

        Args:
            state: the model's state_dict.
            epoch: number of epochs it was trained for.

        Raises:
            UserError: the model may not be.
        """
        candidate = TrainedCandidate(self.spec, state)
        try:
            operations = self._operations(candidate)
            if operations not in self.known:
                with isolated_torch():
                    reproducibility.check_evaluation_pass(candidate, candidate.trained())
                self.known.append(operations)
        except UserError as error:
            raise UserError(f"{error}; so it is after {epoch} epochs, and was not at first") from error

    def _operations(self, candidate: TrainedCandidate) -> list[list[str]]:
        """The operations of a training pass and of a test pass, after a check of their normalisation."""
        found = []
        for training in (True, False):
            model = candidate.trained()
            with isolated_torch(), Recorder(model) as record:
                candidate.run(model, candidate.images[0], training=training)
            norm_check.check_norms_used(candidate, record, pass_name(EXAMPLES, training=training))
            found.append(record.operations)
        return found
