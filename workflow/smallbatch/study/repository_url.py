"""What the workflow's `CITATION.cff` says of it."""

from pathlib import Path
from typing import Any

from smallbatch.study.yaml_validation import read_yaml

CITATION = "CITATION.cff"
"""The file, beside the workflow; where the library is installed alone there is none."""


def repository(folder: Path) -> str | None:
    """The address of the workflow's repository, as people open it; None where no citation in the folder names one.

    The key is that of the Citation File Format 1.2: `repository-code`.

    Raises:
        UserError: the file is no YAML.
    """
    if not (folder / CITATION).is_file():
        return None
    cited: dict[str, Any] = read_yaml(folder / CITATION)
    return cited.get("repository-code")
