"""Commands and files that the pages of the documentation show, and how commands are run."""

import os
import re
import subprocess
import sys
from pathlib import Path

from helpers import PROJECT, warm

INSTEAD = {
    "watch -n 10 ": "",  # has no end
    "ssh://host/smallbatch": "../lab",
    "/scratch/me": "$PWD/../scratch",
    "git commit -m": "git commit --quiet -m",  # of hundreds of files
}
"""What cannot be had everywhere, and what is taken for it."""


def blocks(page: Path, language: str) -> list[str]:
    """The code of one language that a page shows."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def shown(*pages: Path) -> list[str]:
    """The commands of pages, without what is said of them behind a #."""
    lines = [line for page in pages for block in blocks(page, "sh") for line in block.splitlines()]
    return [re.split(r"\s+# ", line)[0].strip() for line in lines]


def run(folder: Path, command: str, home: Path) -> str:
    """Run a line of shell as in the activated environment, with a home folder; returns what it printed."""
    for word, other in INSTEAD.items():
        command = command.replace(word, other)
    (home / ".cache" / "smallbatch").mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"} | {
        "PATH": os.pathsep.join([str(warm.python().parent), os.path.dirname(sys.executable), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(map(str, [folder / "workflow", PROJECT / "benchmarks"])),
        "HOME": str(home), "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "init.defaultBranch", "GIT_CONFIG_VALUE_0": "main",
        **{f"GIT_{role}_{key}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")},
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, text=True, timeout=570,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout
