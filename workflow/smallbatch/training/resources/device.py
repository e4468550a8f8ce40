"""Devices by name, and what is known of them."""

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
from smallbatch.training.resources import processor

TF32_FROM = (8, 0)
"""Compute capability from which NVIDIA's GPUs have TensorFloat-32: Ampere."""


def pick(name: str, where: str = "config/config.yaml", key: str = "training.device") -> torch.device:
    """The device called `name`, with torch set up for it; `auto` is a GPU where there is one.

    A run resumed on a GPU is to be bit-identical. So cuDNN takes kernels that sum in a fixed order only, and those
    that its heuristics name for the shape, not those that a measurement favours this time. The other kernels that
    training uses sum in a fixed order anyway: torch's own (pooling of two dimensions gathers its gradients, without
    atomic additions), and those of cuBLAS as long as one stream at a time is busy.

    Args:
        name: auto, cpu, cuda or cuda:N.
        where: the name was said, for the error.
        key: there.

    Raises:
        UserError: it is not there.
    """
    check_there(name, where, key)
    device = torch.device(("cuda" if torch.cuda.device_count() else "cpu") if name == "auto" else name)
    if device.type == "cpu":
        torch.set_num_threads(1)  # small steps do not gain from more: cores take packs instead
        torch.set_flush_denormal(True)  # as the kernels do: numbers near zero would cost a hundred times as much
        processor.keep_memory()
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return device


def check_there(name: str, where: str = "config/config.yaml", key: str = "training.device") -> None:
    """Make sure that the device called `name` is there, as `pick` does."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    allowed = ["auto", "cpu", *(["cuda"] if gpus else []), *gpus]
    if name not in allowed:
        refuse(where, key, name, ", ".join(allowed))


def check_precision(precision: str, device: torch.device) -> None:
    """Make sure that the device computes as a run says.

    Raises:
        UserError: it has no TensorFloat-32 and would silently compute in float32.
    """
    if not has_precision(precision, device):
        refuse("experiment", "precision", precision, f"float32 or bf16 on {device}; tf32 on NVIDIA GPUs from Ampere on")


def has_precision(precision: str, device: torch.device) -> bool:
    """Whether a device computes in a precision: TensorFloat-32 is one of NVIDIA's GPUs alone."""
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= TF32_FROM
    return precision != "tf32" or has_tf32


def triton_version(device: torch.device) -> str | None:
    """The version of Triton where a device is there that its kernels can train on; else none.

    All products of theirs are of TensorFloat-32, or of less.
    """
    if device.type != "cuda" or not torch.cuda.is_available() or not has_precision("tf32", device):
        return None
    with contextlib.suppress(PackageNotFoundError):
        return version("triton")
    return None


def set_precision(precision: str, device: torch.device) -> None:
    """Let products of float32 matrices and convolutions round to TensorFloat-32, or not; for all that follows.

    Args:
        precision: of the training that begins: float32, tf32 or bf16. Torch's own choice would be tf32 in cuDNN alone.
        device: where.

    Raises:
        UserError: the device does not have it.
    """
    check_precision(precision, device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on the device. The host does not wait for it: a GPU gets it in the order of its work."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def describe(device: torch.device) -> dict[str, str]:
    """The device in words, for a run's record."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    return {"device": processor_name(), "threads": str(torch.get_num_threads())}


def forget_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    processor.give_back_memory()
    with contextlib.suppress(OSError):  # Linux; elsewhere the peak is that of the process's life
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def release_memory(device: torch.device) -> None:
    """On the CPU, before memory is used in another way: give back what the process keeps, if that is much."""
    if device.type == "cpu":
        processor.give_back_memory(above=processor.KEPT)


def peak_memory(device: torch.device) -> int:
    """The most bytes held: by tensors on a GPU, else by the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _memory("VmHWM")


def held_memory() -> int:
    """Bytes that the process holds now; where the system does not tell, the most it ever held."""
    return _memory("VmRSS")


def _memory(field: str) -> int:
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return sizes[0] if sizes else used * (1 if sys.platform == "darwin" else 1024)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had: on a GPU, else on the machine and in the control groups that this process is in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    return max(0, min(free + _free_in_groups()))


def _free_in_groups() -> list[int]:
    """What Linux's control groups, version 2, leave to the process, from its own group up."""
    free = []
    with contextlib.suppress(OSError):
        paths = [
            line[3:]
            for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
            if line.startswith("0::")
        ]
        groups = [group for path in paths for group in (path, *map(str, PurePosixPath(path).parents))]
        for folder in (Path(f"/sys/fs/cgroup{group}") for group in groups):
            with contextlib.suppress(OSError, ValueError):  # the root has none, and "max" is no number
                free.append(
                    int((folder / "memory.max").read_text(encoding="utf-8"))
                    - int((folder / "memory.current").read_text(encoding="utf-8"))
                )
    return free
