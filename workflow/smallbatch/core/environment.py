"""Where results come from: versions, commit, device."""

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
"""What is recorded of where a run was trained; `cuda` on a GPU only, `threads` on the CPU only."""

ROOT = Path(__file__).parents[3]
"""Of the project, whose repository alone is asked."""

STAMP = Path("workflow/smallbatch/commit.txt")
"""In which `git archive`, and GitHub with it, writes the commit (export-subst)."""

GIT_TIMEOUT_S = 60
"""Seconds that git has for an answer."""

NAMED = 3
"""The most files that a line names."""

_COMMIT = "git add -A && git commit -m 'As downloaded'"
_INIT = f"git init && {_COMMIT}"
_OF_A_REPOSITORY = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_PREFIX", "GIT_CEILING_DIRECTORIES", "GIT_LITERAL_PATHSPECS",
)  # fmt: skip


def describe() -> dict[str, str]:
    """Versions of what computes, and the commit of the code. Knows no device: see `training.resources.device`."""
    return {
        "smallbatch": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def words(environment: Mapping[str, str]) -> str:
    """What was recorded of an environment, in one line."""
    return ", ".join(f"{key} {environment[key]}" for key in ENVIRONMENT if key in environment)


def merge(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What is recorded of a training that went on elsewhere, or with other versions: `A then B` where they differ."""
    keys = dict.fromkeys(key for environment in environments for key in environment)
    return {key: " then ".join(dict.fromkeys(one.get(key, "unknown") for one in environments)) for key in keys}


def differences(environments: Sequence[Mapping[str, str]]) -> str:
    """In what they differ, in words: `torch 2.11.0 then 2.15.0`; nothing where they are the same."""
    both = merge(environments)
    return ", ".join(f"{key} {both[key]}" for key in both if len({one.get(key) for one in environments}) > 1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """The commit of the code, as `git_commit` finds it."""
    return git_commit()[0]


def git_commit(root: Path = ROOT) -> tuple[str, str]:
    """The git commit of the code in `root`, and where it is not all of the truth: why, and how to mend it.

    Returns:
        The commit: with `+changes` where files of the workflow differ from it, new ones included; with
        `+unknown-changes` of an archive that git made, which nothing compares; or `unknown`.
        What is to be said of it in one line; empty where there is nothing.
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
    """Files of the workflow that are not as committed: those as well that git is set to pass over, or cannot see."""
    status = "status", "--porcelain", "--untracked-files=all", "--ignore-submodules=none"
    listed = _git(root, *status, "--", "workflow").splitlines()
    modules = [f"workflow/*{suffix}" for suffix in (".py", *importlib.machinery.EXTENSION_SUFFIXES)]
    ignored = _git(root, "ls-files", "--others", "--ignored", "--exclude-standard", "--", *modules).splitlines()
    # Marked as sparse checkouts have it (S), or to be taken for unchanged (small letters).
    marks = _git(root, "ls-files", "-v", "--", "workflow").splitlines()
    hidden = [_path_of(mark) for mark in marks if mark.startswith("S") or mark[0].islower()]
    changed = [line[3:] for line in listed] + ignored + [path for path in hidden if _differs(root, path)]
    return changed + [path for path in map(_path_of, marks) if path not in changed and _leads_out(root, path)]


def _path_of(mark: str) -> str:
    return mark[2:]


def _leads_out(root: Path, path: str) -> bool:
    """Whether a committed file is, or lies behind, a link out of the workflow: git knows only where that leads."""
    return not Path(os.path.realpath(root / path)).is_relative_to(os.path.realpath(root) + "/workflow")


def _differs(root: Path, path: str) -> bool:
    """Whether a file that is there has another content than in the commit."""
    there = os.path.lexists(root / path)
    return there and _git(root, "hash-object", "--", path) != _git(root, "rev-parse", f"HEAD:{path}")


def _git(root: Path, *arguments: str) -> str:
    """What git says of `root`, whatever repository the caller's variables name."""
    variables = {name: value for name, value in os.environ.items() if name not in _OF_A_REPOSITORY}
    # A monitor of the file system may be wrong, and would be believed.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(root), *arguments]
    done = subprocess.run(
        command, env=variables | {"LC_ALL": "C"}, capture_output=True, check=True, timeout=GIT_TIMEOUT_S,
        encoding="utf-8", errors="surrogateescape",
    )  # fmt: skip
    return done.stdout.rstrip("\n")


def _unversioned(root: Path, reason: str) -> tuple[str, str]:
    """What an archive that git made says of its commit, if this is one."""
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
    named = os.environ.get("XDG_CACHE_HOME", "")
    usual = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return (Path(named) if os.path.isabs(named) else Path.home() / usual) / "smallbatch"
