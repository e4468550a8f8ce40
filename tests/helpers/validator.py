"""What the RO-Crate validator finds in an archive, without a network; as a program, it is the process that validates.

The validator needs another rich than the project, so `make test` installs it in a folder of its own. Where that is
missing its tests skip; with SMALLBATCH_VALIDATOR=required in the environment they fail instead.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PLACE = Path(sys.prefix, "validator")
CONTEXT = "https://w3id.org/ro/crate/1.3/context"

OLDER = "https://bioschemas.org/terms/", "https://bioschemas.org/"
"""Beginnings of the terms of workflows in RO-Crate 1.3 and in 1.1, which the validator's profiles of workflows know."""

NOT_KNOWN = {
    "ro-crate-1.3": {
        "ro-crate-1.3_13.1",  # that the workflow keeps to the profile of Bioschemas, which asks for its address
        "ro-crate-1.2_42.1",  # another name of ro-crate-preview.html, which the specification gives it
        "ro-crate-1.2_62.4",  # a person as author of the workflow
        "ro-crate-1.2_80.2", "ro-crate-1.2_80.3",  # where the paper's authors work
        "ro-crate-1.2_86.2", "ro-crate-1.2_89.0", "ro-crate-1.2_91.0",  # addresses, RORs and ORCIDs
        "ro-crate-1.2_90.1", "ro-crate-1.2_93.0",  # whom to write to
    },
    "workflow-run-crate": {
        "ro-crate-1.1_5.3",  # RO-Crate 1.1: this is of 1.3, and checked as such
        "workflow-ro-crate-1.0_7.1",  # the same, and the version 1.0 of Workflow RO-Crate: this is of 1.1
        "workflow-ro-crate-1.0_8.1",  # the profile of Bioschemas
        "process-run-crate-0.5_5.1",  # an absolute address as name of a file: of every workflow that is one
        "process-run-crate-0.5_3.2",  # the workflow's address
        "ro-crate-1.1_30.2", "ro-crate-1.1_30.3",  # where the paper's authors work
        "ro-crate-1.1_31.2",  # the authors' address
    },
}  # fmt: skip
"""Profile -> what an archive lacks of what it requires or recommends: it is of newer versions, or nobody knows it."""


def findings(archive: Path, profile: str) -> dict[str, set[str]]:
    """What an archive lacks of what a profile requires or recommends: name of the check -> what it says of what."""
    if not PLACE.exists():
        tell = pytest.fail if os.environ.get("SMALLBATCH_VALIDATOR") == "required" else pytest.skip
        tell("the RO-Crate validator is not installed: make test installs it")
    from rocrate.vocabs import RO_CRATE

    context = json.dumps(RO_CRATE)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "context").write_text(
            context if profile.startswith("ro-crate") else context.replace(*OLDER), encoding="utf-8"
        )
        done = subprocess.run(
            [sys.executable, __file__, archive.absolute(), profile], cwd=folder, text=True, capture_output=True,
            env=os.environ | {"PYTHONPATH": str(PLACE)}, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        issues = json.loads(Path(folder, "issues").read_text(encoding="utf-8"))
    found: dict[str, set[str]] = {}
    for check, says in issues:
        found.setdefault(check, set()).add(says)
    return found


def _validate(archive: str, profile: str) -> None:
    from rocrate_validator.models import Severity, ValidationSettings
    from rocrate_validator.services import validate

    _keep_context(Path("context"))
    settings = ValidationSettings(
        rocrate_uri=archive,
        profile_identifier=profile,
        requirement_severity=Severity.RECOMMENDED,
        offline=True,
        cache_path=Path("cache"),
    )
    issues = [
        (issue.check.identifier, f"{issue.severity.name}: {issue.violatingEntity}: {issue.message}")
        for issue in validate(settings).get_issues()
    ]
    Path("issues").write_text(json.dumps(issues), encoding="utf-8")


def _keep_context(content: Path) -> None:
    """As if the validator had downloaded it."""
    import requests
    import urllib3
    from requests_cache import CachedSession

    response = requests.Response()
    response.status_code, response.url, response._content = 200, CONTEXT, content.read_bytes()
    response.headers["Content-Type"] = "application/ld+json"
    response.request, response.raw = requests.Request("GET", CONTEXT).prepare(), urllib3.HTTPResponse(b"")
    with CachedSession("cache", backend="sqlite", expire_after=-1) as session:
        session.cache.save_response(response)


if __name__ == "__main__":
    _validate(*sys.argv[1:])
