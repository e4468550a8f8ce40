"""Lanes: several runs of one model trained together as one program.

Activations fold the lanes into the channels, lane by lane: [m, lanes * channels, height, width] of images,
[m, ..., lanes * features] of features and of tokens. So pooling, rectifiers, residual sums and flattening of an
ordinary model work for all lanes unchanged; only layers with parameters need a lane form. Every parameter and buffer
has a leading dimension of lanes.

A model for which lanes are not suitable, see `own_models`, is trained unchanged: as a single lane, `Alone`.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smallbatch.models.normalisation import BatchNorm
from smallbatch.models.resnet import Shortcut


class LaneConv2d(nn.Module):
    """`nn.Conv2d` for lanes: weight [lanes, out, in / groups, kh, kw], bias [lanes, out] or None."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """[m, lanes * in, h, w] -> [m, lanes * out, h', w']."""
        groups = self.groups * len(self.weight)
        bias = None if self.bias is None else self.bias.flatten()
        return F.conv2d(x, self.weight.flatten(0, 1), bias, self.stride, self.padding, self.dilation, groups)


class LaneLinear(nn.Module):
    """`nn.Linear` for lanes: weight [lanes, out, in], bias [lanes, out] or None."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """[m, ..., lanes * in] -> [m, ..., lanes * out]."""
        lanes = len(self.weight)
        if lanes == 1:
            return F.linear(x, self.weight[0], None if self.bias is None else self.bias[0])
        rows = x.flatten(0, -2).unflatten(1, (lanes, -1)).transpose(0, 1)
        weight = self.weight.transpose(1, 2)
        y = torch.bmm(rows, weight) if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), rows, weight)
        together: Tensor = y.transpose(0, 1).flatten(1).unflatten(0, x.shape[:-1])
        return together


class LaneGroupNorm(nn.Module):
    """`nn.GroupNorm` for lanes: weight and bias [lanes, channels]."""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [m, lanes * channels, ...]."""
        return F.group_norm(x, self.groups * len(self.weight), self.weight.flatten(), self.bias.flatten(), self.eps)


class LaneLayerNorm(nn.Module):
    """`nn.LayerNorm` of the last dimensions for lanes: weight [lanes, *normalised], bias the same or None."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [m, ..., lanes * first normalised, other normalised ...]."""
        first = -len(self.shape)
        y = F.layer_norm(x.unflatten(first, (len(self.weight), -1)), self.shape, eps=self.eps)
        y = y * self.weight if self.bias is None else torch.addcmul(self.bias, y, self.weight)
        return y.flatten(first - 1, first)


class LaneBatchNorm(nn.Module):
    """`nn.BatchNorm1d` and `nn.BatchNorm2d` for lanes: tensors [lanes, channels], weight and bias or None; batches
    counted [lanes].

    Raises:
        NoLaneForm: it has no running statistics, or they are means over all batches, whose number torch asks for.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        if norm.running_mean is None or norm.momentum is None:
            raise NoLaneForm(f"layer {type(norm).__name__} has no running statistics, or no momentum of them")
        self.momentum, self.eps = norm.momentum, norm.eps
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [m, lanes * channels, ...]."""
        weight, bias = (None if tensor is None else tensor.flatten() for tensor in (self.weight, self.bias))
        # flatten() of a contiguous buffer is a view, so the running statistics are updated in place.
        mean, var = self.running_mean.flatten(), self.running_var.flatten()
        if self.training:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(x, mean, var, weight, bias, self.training, self.momentum, self.eps)


class NoLaneForm(Exception):
    """A model has a layer that cannot be part of lanes; the message names it."""


LANE_FORMS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Conv2d: LaneConv2d,
    nn.Linear: LaneLinear,
    nn.GroupNorm: LaneGroupNorm,
    nn.LayerNorm: LaneLayerNorm,
    nn.BatchNorm1d: LaneBatchNorm,
    nn.BatchNorm2d: LaneBatchNorm,
    BatchNorm: copy.deepcopy,  # it works with parameters of any shape
}
"""The lane form of each layer type with parameters; `stack` fills in the parameters."""


def stack(models: Sequence[nn.Module]) -> nn.Module:
    """Combine models of one architecture into one model of lanes; lane i starts as `models[i]`.

    Raises:
        NoLaneForm: the model has a layer with parameters but without a lane form.
    """
    lanes = copy.deepcopy(models[0])
    for name, module in list(lanes.named_modules()):
        peers = [model.get_submodule(name) for model in models]
        if _direct_tensors(module):
            _replace(lanes, name, _lane_form(module, peers))
        elif isinstance(module, Shortcut):
            module.lanes = len(models)
    return lanes


class Alone(nn.Module):
    """A model as the only lane: the model is not changed, so it can be any model.

    Args:
        model: the model, whose device and type must not change from now on.

    Attributes:
        parameters_of_lanes: views of its parameters, [1, ...], in the same memory; with gradients after `pass_on`. A
            complex one is [1, ..., 2], real and imaginary part, which torch's optimisers update apart, too.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.parameters_of_lanes: list[nn.Parameter] = []

    def forward(self, x: Tensor) -> Tensor:
        """As the model's."""
        logits: Tensor = self.model(x)
        return logits

    def pass_on(self) -> None:
        """Make the gradients, if any, available in `parameters_of_lanes`."""
        for parameter, original in zip(self.parameters_of_lanes, self.model.parameters(), strict=True):
            parameter.grad = None if original.grad is None else _real(original.grad)[None]

    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override] # nobody asks with options
        """The model's state dict, with every tensor as [1, ...] in the same memory."""
        return {name: tensor.detach()[None] for name, tensor in self.model.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:  # type: ignore[override] # all of it, always
        """Load the result of `state_dict`."""
        self.model.load_state_dict({name: tensor[0] for name, tensor in state.items()})


def parameters_of(lanes: nn.Module) -> list[nn.Parameter]:
    """The parameters of a model of lanes, each [lanes, ...]; call it again after the model moved to another device."""
    if not isinstance(lanes, Alone):
        return list(lanes.parameters())
    originals = lanes.model.parameters()
    lanes.parameters_of_lanes = [
        nn.Parameter(_real(p.detach())[None], requires_grad=p.requires_grad) for p in originals
    ]
    return lanes.parameters_of_lanes


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def perturbed(model: nn.Module, seed: int) -> nn.Module:
    """The model with each weight moved off its initial value: a zero would hide the effect of its factor."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            noise = torch.randn(weights.shape, generator=draws, dtype=torch.float64)
            scale = weights.std() if weights.numel() > 1 else weights.abs()
            weights.add_(noise * 0.1 * scale.clamp(min=0.1))
    return model


def keep_lanes(lanes: nn.Module, keep: Sequence[int]) -> None:
    """Keep only these lanes, in place."""
    for module in lanes.modules():
        for name, tensor in _direct_tensors(module).items():
            _set_tensor(module, name, tensor, tensor.detach()[list(keep)].clone())
        if isinstance(module, Shortcut):
            module.lanes = len(keep)


def lane_state(lanes: nn.Module, lane: int) -> dict[str, Tensor]:
    """The state dict of one lane, as of a model alone."""
    plain = torch.contiguous_format  # files of weights support no other format
    return {name: tensor.detach()[lane].clone(memory_format=plain) for name, tensor in lanes.state_dict().items()}


def _direct_tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))


def _lane_form(module: nn.Module, peers: Sequence[nn.Module]) -> nn.Module:
    if type(module) not in LANE_FORMS:
        raise NoLaneForm(f"layer {type(module).__name__} has parameters but no lane form")
    if "forward" in vars(module) or any(map(_has_hooks, (peers[0], *_direct_tensors(peers[0]).values()))):
        raise NoLaneForm(f"a hook hangs on layer {type(module).__name__}, and would not on its lane form")
    form = LANE_FORMS[type(module)](module)
    for name, tensor in _direct_tensors(module).items():
        stacked = torch.stack([_direct_tensors(peer)[name].detach() for peer in peers])
        _set_tensor(form, name, tensor, stacked)
    return form


def _has_hooks(owner: object) -> bool:
    """Whether hooks are called when a layer, or the gradient of a tensor, is computed."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(owner, name, None) for name in (*names, "_post_accumulate_grad_hooks"))


def _set_tensor(module: nn.Module, name: str, old: Tensor, new: Tensor) -> None:
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        module.register_buffer(name, new)


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
