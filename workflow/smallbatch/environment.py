"""Where results come from: versions, commit, device."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from smallbatch import __version__

PACKAGES = ("torch", "numpy")

ENVIRONMENT = ("device", "cuda", "threads", "system", "python", *PACKAGES, "smallbatch", "commit")
"""What is recorded of where a run was trained; `cuda` on a GPU only, `threads` on the CPU only."""


def describe() -> dict[str, str]:
    """Versions of what computes, and the commit of the code. Knows no device: see `training.device`."""
    return {
        "smallbatch": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def words(environment: Mapping[str, str]) -> str:
    """What was recorded of a place, in one line."""
    return ", ".join(f"{key} {environment[key]}" for key in ENVIRONMENT if key in environment)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """The git commit of the code, with `+changes` where tracked files differ from it; `unknown` outside git."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", ":/workflow"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed.strip() else "")


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cache_folder() -> Path:
    """Where what is remembered for this user lies, between projects: it may be deleted at any time.

    Raises:
        RuntimeError: the user has no home folder.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    usual = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return (Path(named) if named else Path.home() / usual) / "smallbatch"
