"""Licence, citation and what the workflow catalog reads say the same as the code."""

import tomllib

import yaml
from conftest import PROJECT

from smallbatch import __version__


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


def test_the_catalog_finds_how_to_call_the_workflow():
    usage = yaml.safe_load((PROJECT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["software-stack-deployment"] == {"conda": True} and usage["report"] is True
    assert (PROJECT / "config" / "README.md").is_file()
