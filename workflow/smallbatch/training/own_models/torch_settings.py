"""Torch's settings for the whole process."""

from typing import Any

import torch


def torch_settings() -> dict[str, object]:
    """Each setting by its name, to detect changes made by a model's code."""
    mkldnn: Any = torch.backends.mkldnn
    return {
        "number of threads": torch.get_num_threads(),
        "default type": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "oneDNN": mkldnn.enabled,
        "cuDNN": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "small numbers": bool(torch.tensor(1e-40) / 2),
    }
