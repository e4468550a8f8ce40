"""Renew the pins of the conda files beside this from requirements.txt: `make lock` runs it."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = "3.12"
"""Of the conda environments; where the lock has versions by Python, this one's are taken."""


def locked(requirements: str) -> dict[str, str]:
    """Name -> version of a locked requirements file."""
    found = {}
    for name, version, marker in re.findall(r"^([\w.-]+)==(\S+)(?: ; (.+?))? \\$", requirements, re.MULTILINE):
        if f"python_full_version < '{PYTHON}'" not in marker:
            found[name] = version
    return found


def renewed(conda: str, versions: dict[str, str]) -> str:
    """A conda file's text with every pip pin at its locked version."""
    return re.sub(r"- ([\w-]+)==\S+", lambda pin: f"- {pin[1]}=={versions[pin[1]]}", conda)


def conda_files() -> list[Path]:
    """The conda files."""
    return sorted(HERE.glob("*.yaml"))


if __name__ == "__main__":
    for path in conda_files():
        path.write_text(renewed(path.read_text(), locked((HERE / "requirements.txt").read_text())))
