"""Licence, citation and what the workflow catalog reads say the same as the code."""

import re
import tomllib

import yaml
from helpers import PROJECT

from smallbatch import __version__
from smallbatch.study.repository_url import repository


def test_licence_version_and_authors_agree():
    cited = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    package = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert cited["cff-version"] == "1.2.0" and cited["message"] and cited["title"]
    assert cited["version"] == __version__ and package["dynamic"] == ["version"], "setuptools reads it from the library"
    assert cited["license"] == package["license"] == "MIT" and package["license-files"] == ["LICENSE"]
    licence = (PROJECT / "LICENSE").read_text()
    assert licence.startswith("MIT License\n") and all(author["name"] in licence for author in cited["authors"])
    [paper] = cited["references"]
    assert paper["doi"] == "10.48550/arXiv.1804.07612" and len(paper["authors"]) == 2


def test_the_repository_is_the_one_that_the_citation_names(tmp_path):
    assert repository(tmp_path) is None, "no citation"
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\n")
    assert repository(tmp_path) is None
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\nrepository-code: https://example.org/code\n")
    assert repository(tmp_path) == "https://example.org/code"


def test_the_catalog_finds_how_to_call_the_workflow():
    usage = yaml.safe_load((PROJECT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["software-stack-deployment"] == {"conda": True} and usage["report"] is True
    assert (PROJECT / "config" / "README.md").is_file()


def test_the_change_log_begins_with_this_version():
    assert re.findall(r"^## (.+)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == __version__


def test_what_the_forge_and_the_hooks_call_is_a_target_of_make():
    targets = set(re.findall(r"^([a-z-]+):(?!=)", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    steps = yaml.safe_load((PROJECT / ".github/workflows/ci.yml").read_text())["jobs"]["all"]["steps"]
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    called = [step["run"] for step in steps if "run" in step] + [hook["entry"] for hook in hooks]
    assert called == ["make all", "make test", "make lint"]
    assert {call.removeprefix("make ") for call in called} <= targets
