"""Devices by name, and their properties."""

import contextlib
import os
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from smallbatch.core.environment import processor_name
from smallbatch.core.errors import refuse
from smallbatch.training.resources import heap

TF32_FROM = (8, 0)
"""Minimum compute capability of NVIDIA GPUs with TensorFloat-32: Ampere."""


def pick(name: str, where: str = "config/config.yaml", key: str = "training.device") -> torch.device:
    """The device called `name`, after setting up torch for it; `auto` is a GPU if there is one.

    A run that is resumed on a GPU must be bit-identical. So cuDNN is restricted to kernels that sum in a fixed order,
    and to those chosen by its heuristics for the shape, not by a measurement, which varies. The other kernels used in
    training sum in a fixed order anyway: torch's own (pooling in two dimensions gathers its gradients, without atomic
    additions), and those of cuBLAS as long as only one stream is busy.

    Args:
        name: auto, cpu, cuda or cuda:N.
        where: origin of the name, for error messages.
        key: its key there.

    Raises:
        UserError: the device does not exist.
    """
    check_available(name, where, key)
    device = torch.device(("cuda" if torch.cuda.device_count() else "cpu") if name == "auto" else name)
    if device.type == "cpu":
        torch.set_num_threads(1)  # small steps are not faster with more: cores train other packs instead
        torch.set_flush_denormal(True)  # as in the kernels: numbers near zero would take a hundred times as long
        heap.keep_freed_memory()
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return device


def check_available(name: str, where: str = "config/config.yaml", key: str = "training.device") -> None:
    """Make sure that the device called `name` exists, as in `pick`."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    allowed = ["auto", "cpu", *(["cuda"] if gpus else []), *gpus]
    if name not in allowed:
        refuse(where, key, name, ", ".join(allowed))


def check_precision(precision: str, device: torch.device) -> None:
    """Make sure that the device supports the precision of a run.

    Raises:
        UserError: the device has no TensorFloat-32 and would silently compute in float32.
    """
    if not has_precision(precision, device):
        refuse("experiment", "precision", precision, f"float32 or bf16 on {device}; tf32 on NVIDIA GPUs from Ampere on")


def has_precision(precision: str, device: torch.device) -> bool:
    """Whether a device supports a precision: only NVIDIA GPUs have TensorFloat-32."""
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= TF32_FROM
    return precision != "tf32" or has_tf32


def triton_version(device: torch.device) -> str | None:
    """The version of Triton if there is a device on which its kernels can train, else None.

    All products in these kernels have TensorFloat-32 precision or less.
    """
    if device.type != "cuda" or not torch.cuda.is_available() or not has_precision("tf32", device):
        return None
    with contextlib.suppress(PackageNotFoundError):
        return version("triton")
    return None


def set_precision(precision: str, device: torch.device) -> None:
    """Switch TensorFloat-32 for products of float32 matrices and convolutions on or off, from now on.

    Args:
        precision: precision of the training: float32, tf32 or bf16. Torch's default would be tf32 only in cuDNN.
        device: device to run on.

    Raises:
        UserError: the device does not support it.
    """
    check_precision(precision, device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device; the host does not wait, as a GPU copies in the order of its queued work."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def describe(device: torch.device) -> dict[str, str]:
    """Description of the device for a run's record."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    return {"device": processor_name(), "threads": str(torch.get_num_threads())}


def reset_peak_memory(device: torch.device) -> None:
    """Restart the measurement of `peak_memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    heap.release_unused()
    with contextlib.suppress(OSError):  # on Linux; elsewhere the peak is over the whole life of the process
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def release_memory(device: torch.device) -> None:
    """Before memory is used in another way: on the CPU, return unused memory to the system, if it is much."""
    if device.type == "cpu":
        heap.release_unused(above=heap.KEPT)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of tensors on a GPU, else of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _memory("VmHWM")


def current_memory() -> int:
    """Bytes that the process uses now; its peak if the system does not report the current value."""
    return _memory("VmRSS")


def _memory(field: str) -> int:
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return sizes[0] if sizes else used * (1 if sys.platform == "darwin" else 1024)


def free_memory(device: torch.device) -> int:
    """Bytes still available: on a GPU, or else on the machine and in this process's control groups."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    return max(0, min(free + _free_in_groups()))


def _free_in_groups() -> list[int]:
    """Bytes available to the process in Linux's control groups, version 2, from its own group upwards."""
    free = []
    with contextlib.suppress(OSError):
        paths = [
            line[3:]
            for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
            if line.startswith("0::")
        ]
        groups = [group for path in paths for group in (path, *map(str, PurePosixPath(path).parents))]
        for folder in (Path(f"/sys/fs/cgroup{group}") for group in groups):
            with contextlib.suppress(OSError, ValueError):  # the root group has no limit, and "max" is not a number
                free.append(
                    int((folder / "memory.max").read_text(encoding="utf-8"))
                    - int((folder / "memory.current").read_text(encoding="utf-8"))
                )
    return free
