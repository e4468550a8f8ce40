"""Whether a model that is trained alone still does what its check saw, after some of its updates.

A buffer may count updates, and a branch of Python may wait for it: no check before the training comes to it.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from smallbatch.core.errors import UserError
from smallbatch.training.own_models import normalisation, reproducibility
from smallbatch.training.own_models.candidate import EXAMPLES, Candidate, pass_name
from smallbatch.training.own_models.examination import isolated_torch
from smallbatch.training.own_models.recording import Recorder
from smallbatch.training.own_models.spec import ModelSpec


class Trained(Candidate):
    """A model with weights and buffers of its training."""

    def __init__(self, spec: ModelSpec, state: Mapping[str, Tensor]) -> None:
        super().__init__(spec)
        self.state = {name: tensor.cpu() for name, tensor in state.items()}

    def trained(self) -> nn.Module:
        """A new model with this state."""
        model = self.build(1)
        model.load_state_dict(self.state)
        return model


class LateChanges:
    """Compares, after each epoch, what the passes of a model do with what they do where it is new."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.known = [self._operations(Trained(spec, Candidate(spec).build(1).state_dict()))]

    def check(self, state: Mapping[str, Tensor], epoch: int) -> None:
        """Make sure that a model of this state may be trained and tested as a new one, if its passes do anything else.

        Args:
            state: the model's state_dict.
            epoch: how many it was trained for.

        Raises:
            UserError: it may not.
        """
        candidate = Trained(self.spec, state)
        try:
            operations = self._operations(candidate)
            if operations not in self.known:
                with isolated_torch():
                    reproducibility.check_evaluation_pass(candidate, candidate.trained())
                self.known.append(operations)
        except UserError as error:
            raise UserError(f"{error}; so it is after {epoch} epochs, and was not at first") from error

    def _operations(self, candidate: Trained) -> list[list[str]]:
        """Of a pass in training and one in testing, which normalise as the study says."""
        found = []
        for training in (True, False):
            model = candidate.trained()
            with isolated_torch(), Recorder(model) as record:
                candidate.run(model, candidate.images[0], training=training)
            normalisation.check_norms_used(candidate, record, pass_name(EXAMPLES, training=training))
            found.append(record.operations)
        return found
