"""docs/ten-minutes.md: what it shows, and nothing else, makes a study of one's own in ten minutes."""

import re
import time
from pathlib import Path

import pandas as pd
from helpers import PROJECT
from helpers.pages import blocks, run, shown

PAGE = PROJECT / "docs" / "ten-minutes.md"

COMMANDS = """
python docs/example_pictures.py pictures
python -m smallbatch check --config study=my-digits
snakemake cost --config study=my-digits
snakemake --cores 2 all --config study=my-digits
""".strip().splitlines()
"""Those of the page, which are run with the files that it shows."""


def test_the_page_shows_these_commands():
    assert shown(PAGE) == COMMANDS


def lay_out(project: Path, block: str) -> None:
    """Write a file that a page shows, or put its lines under a key of one that is there; its first line says where."""
    file, key = re.match(r"# (\S+?)(?:, under (\w+))?\n", block).groups()
    text = block.partition("\n")[2]
    if key:
        before = (project / file).read_text(encoding="utf-8")
        assert before.count(f"\n{key}:\n") == 1
        text = before.replace(f"\n{key}:\n", f"\n{key}:\n{text}")
    (project / file).write_text(text, encoding="utf-8")


def test_a_study_of_ones_own_takes_ten_minutes(project, home):
    """From nothing to the report, by what the page shows and nothing else."""
    for block in blocks(PAGE, "yaml"):
        lay_out(project, block)
    began = time.monotonic()
    pictures, check, cost, whole = (run(project, command, home) for command in COMMANDS)
    assert time.monotonic() - began < 600
    assert not pictures and len(list((project / "pictures").glob("?/*.png"))) == 1797
    assert "18 runs: nothing wrong was found" in check and re.search(r"^ *all +18 ", cost, re.MULTILINE)
    assert "Study my-digits is complete" in whole and "2 of 2 steps" not in whole
    claims = pd.read_csv(project / "results" / "my-digits" / "claims.csv")
    assert dict(zip(claims["claim"], claims["verdict"], strict=True)) == {"small-is-best": "supported"}
    assert "small-is-best" in (project / "results" / "my-digits" / "report.html").read_text(encoding="utf-8")
