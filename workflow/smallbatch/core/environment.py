"""The origin of results: versions, commit, device."""

import importlib.machinery
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from smallbatch import __version__

PACKAGES = ("torch", "numpy")

ENVIRONMENT = ("device", "cuda", "threads", "kernels", "system", "python", *PACKAGES, "smallbatch", "commit")
"""Keys recorded about the environment of a training; `cuda` only on a GPU, `threads` only on the CPU."""

ROOT = Path(__file__).parents[3]
"""The project's folder; git is asked about this repository only."""

STAMP = Path("workflow/smallbatch/commit.txt")
"""The file in which `git archive`, also used by GitHub, writes the commit (export-subst)."""

GIT_TIMEOUT_S = 60
"""Seconds after which git is considered not to answer."""

NAMED = 3
"""The largest number of files that a message names."""

_COMMIT = "git add -A && git commit -m 'As downloaded'"
_INIT = f"git init && {_COMMIT}"
_OF_A_REPOSITORY = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_PREFIX", "GIT_CEILING_DIRECTORIES", "GIT_LITERAL_PATHSPECS",
)  # fmt: skip


def describe() -> dict[str, str]:
    """Versions of the software, and the commit of the code; for the device see `training.resources.device`."""
    return {
        "smallbatch": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def words(environment: Mapping[str, str]) -> str:
    """A recorded environment in one line."""
    return ", ".join(f"{key} {environment[key]}" for key in ENVIRONMENT if key in environment)


def merge(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The record of a training that continued in another environment: `A then B` where values differ."""
    keys = dict.fromkeys(key for environment in environments for key in environment)
    return {key: " then ".join(dict.fromkeys(one.get(key, "unknown") for one in environments)) for key in keys}


def differences(environments: Sequence[Mapping[str, str]]) -> str:
    """The differences of environments in words: `torch 2.11.0 then 2.15.0`; empty if there are none."""
    both = merge(environments)
    return ", ".join(f"{key} {both[key]}" for key in both if len({one.get(key) for one in environments}) > 1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """The commit of the code, as `git_commit` returns it."""
    return git_commit()[0]


def git_commit(root: Path = ROOT) -> tuple[str, str]:
    """The git commit of the code in `root` and, if it does not describe the code fully, why and how to mend that.

    Returns:
        The commit: with `+changes` if files of the workflow, new ones included, differ from it; with
        `+unknown-changes` in an archive made by git, whose files cannot be compared; or `unknown`.
        A message of one line; empty if there is nothing to say.
    """
    try:
        found = _git(root, "rev-parse", "--show-toplevel")
        is_own_repository = os.path.samefile(found, root)
        head = _git(root, "rev-parse", "--verify", "HEAD") if is_own_repository else ""
        changed = _changed(root) if is_own_repository else []
    except OSError as error:
        return _unversioned(root, f"git cannot be called ({error.strerror}): install it")
    except subprocess.TimeoutExpired:
        return _unversioned(root, f"git does not answer within {GIT_TIMEOUT_S} s")
    except subprocess.CalledProcessError as error:
        if "dubious ownership" in error.stderr:
            trust = f"git config --global --add safe.directory {shlex.quote(str(root))}"
            return _unversioned(root, f"its files belong to another user, whom git does not trust: {trust}")
        if "HEAD" in error.cmd:
            return _unversioned(root, f"it has no commit yet: {_COMMIT}")
        return _unversioned(root, f"it is no git repository: work in a clone, or {_INIT}")
    if not is_own_repository:
        return _unversioned(root, f"it lies inside another git repository, {found}: work in a clone, or {_INIT}")
    if not changed:
        return head, ""
    named = ", ".join([*changed[:NAMED], *[f"{len(changed) - NAMED} more"] * (len(changed) > NAMED)])
    be, them = ("is", "it") if len(changed) == 1 else ("are", "them")
    return (
        f"{head}+changes",
        f"records will say {head[:12]}+changes: {named} {be} not as committed; commit {them} first",
    )


def _changed(root: Path) -> list[str]:
    """Files of the workflow that differ from the commit, including those that git is told to ignore or cannot see."""
    status = "status", "--porcelain", "--untracked-files=all", "--ignore-submodules=none"
    listed = _git(root, *status, "--", "workflow").splitlines()
    modules = [f"workflow/*{suffix}" for suffix in (".py", *importlib.machinery.EXTENSION_SUFFIXES)]
    ignored = _git(root, "ls-files", "--others", "--ignored", "--exclude-standard", "--", *modules).splitlines()
    # Marked as outside a sparse checkout (S), or as assumed unchanged (lower case).
    marks = _git(root, "ls-files", "-v", "--", "workflow").splitlines()
    hidden = [_path_of(mark) for mark in marks if mark.startswith("S") or mark[0].islower()]
    changed = [line[3:] for line in listed] + ignored + [path for path in hidden if _differs(root, path)]
    return changed + [path for path in map(_path_of, marks) if path not in changed and _leads_out(root, path)]


def _path_of(mark: str) -> str:
    return mark[2:]


def _leads_out(root: Path, path: str) -> bool:
    """Whether a committed file is, or lies behind, a link out of the workflow; git records only the link's target."""
    return not Path(os.path.realpath(root / path)).is_relative_to(os.path.realpath(root) + "/workflow")


def _differs(root: Path, path: str) -> bool:
    """Whether an existing file has other content than in the commit."""
    there = os.path.lexists(root / path)
    return there and _git(root, "hash-object", "--", path) != _git(root, "rev-parse", f"HEAD:{path}")


def _git(root: Path, *arguments: str) -> str:
    """The output of git for `root`, whatever repository the environment variables name."""
    variables = {name: value for name, value in os.environ.items() if name not in _OF_A_REPOSITORY}
    # Without a file system monitor, whose answers git would trust even if they were wrong.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(root), *arguments]
    done = subprocess.run(
        command, env=variables | {"LC_ALL": "C"}, capture_output=True, check=True, timeout=GIT_TIMEOUT_S,
        encoding="utf-8", errors="surrogateescape",
    )  # fmt: skip
    return done.stdout.rstrip("\n")


def _unversioned(root: Path, reason: str) -> tuple[str, str]:
    """The commit recorded in an archive made by git, and a message; `unknown` if this is no such archive."""
    try:
        stamp = (root / STAMP).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        stamp = ""
    if re.fullmatch("[0-9a-f]{40,64}", stamp):
        said = f"{stamp}+unknown-changes"
        return said, f"records will say {stamp[:12]}+unknown-changes, the commit of the archive: {root}: {reason}"
    return "unknown", f"records will lack the commit, and cannot be published: {root}: {reason}"


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The model name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cache_folder() -> Path:
    """The user's cache folder, shared between projects; it may be deleted at any time.

    Raises:
        RuntimeError: the user has no home folder.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    usual = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return (Path(named) if os.path.isabs(named) else Path.home() / usual) / "smallbatch"
