"""Checks whether the engine's SGD and torch's SGD give the same result for a model that is trained alone."""

import torch
from safetensors.torch import save

from smallbatch.models.initialisation import seed_generators
from smallbatch.training import lane_layers
from smallbatch.training.losses import default_loss
from smallbatch.training.optimizers import LaneSGD
from smallbatch.training.own_models.candidate import Candidate
from smallbatch.training.own_models.comparisons import all_close

RELATIVE_TOLERANCE = 1e-3
"""Tolerance for the weights after two updates in single precision, relative to the largest value."""


def check(candidate: Candidate) -> None:
    """Make sure that the results are equal, and that the weights can be saved.

    Raises:
        UserError: the results differ, or the weights cannot be saved.
    """
    plain, images, labels = candidate.build(1), candidate.images[0], candidate.labels[0]
    network = candidate.network(splittable=False)
    ours = LaneSGD(network.parameters, [0.01], 0.1, 0.5)
    theirs = torch.optim.SGD(plain.parameters(), lr=0.01, weight_decay=0.1, momentum=0.5)
    for step in range(2):
        with candidate.guarded("training step"):
            seed_generators(step)
            network.gradients(images, labels[:, None])
            ours.step(1.0)
            seed_generators(step)
            theirs.zero_grad()
            default_loss(plain.train()(images.clone()), labels).mean().backward()
            theirs.step()
    state = lane_layers.lane_state(network.model, 0)
    if not all_close(state, plain.state_dict(), RELATIVE_TOLERANCE):
        raise candidate.spec.error(
            "SGD on its parameters is another than torch.optim.SGD; allowed: parameters without hooks"
        )
    with candidate.guarded("file of weights"):
        save(state)
