"""A study as a Workflow Run RO-Crate: what the profiles ask for is there, right, and the same each time."""

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from helpers import PROJECT, a_run, an_outcome, made_data
from helpers.validator import NOT_KNOWN, findings
from rocrate.rocrate import ROCrate
from rocrate.vocabs import RO_CRATE

from smallbatch import __version__
from smallbatch.analysis.claims.verdict_table import COLUMNS
from smallbatch.analysis.table import collect, runs_table
from smallbatch.data.prepared import META, read_meta
from smallbatch.publish import crate
from smallbatch.publish.archive_files import workflow_files
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Experiment, Study
from smallbatch.study.yaml_validation import read_yaml

RUNS = [a_run(seed=seed) for seed in (1, 2, 3)]
STUDY = Study(
    "config/studies/mine.yaml", "mine-look", "Mine", "For the tests.",
    {"one": Experiment("one", RUNS[0].setting, (4,), None, (RUNS[0].base_lr,), (1, 2, 3))},
    {"fig01": {"kind": "accuracy", "title": "Mine alone", "experiments": ["one"]}}, {"name": "look"},
)  # fmt: skip
HERE = {"device": "this", "threads": "1", "system": "Linux", "python": "3.11.7", "torch": "2.15.0", "numpy": "2.4.6"}
THERE = {"device": "that", "cuda": "13", "system": "Linux", "python": "3.12.1", "torch": "2.15.0", "numpy": "2.4.6"}
COMMIT = {"smallbatch": "0.1.0", "commit": "c0ffee"}
CLAIMS = pd.DataFrame(
    [
        ["C1", "3.2", "small is good", "small minus large", "supported", "+2.0 points", "1.0", "3.0", "points",
         "fig01", "", "best at m = 4"],
        ["C2", "3.2", "large is good", "large minus small", "not run", "", "", "", "", "", "fig02", "no results"],
    ],
    columns=COLUMNS[:12],
)  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a study whose runs were trained at two places, and what was made of them."""
    made_data(tmp_path / "data" / "made")
    for name in ("README.md", "LICENSE", "CITATION.cff", "Snakefile", "workflow/rules/common.smk"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    results = ["claims.csv", "report.html", "runs.csv", "runs.parquet", "epochs.parquet", "variance.parquet"]
    for name in ("config/studies/mine.yaml", "config/config.yaml", "paper_figures/mine-look/fig01.svg",
                 *(f"results/mine-look/{name}" for name in results)):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def runs(project, monkeypatch):
    """Their table; each took 10 s of three lanes, and they ended a minute apart, the second first."""
    store, meta = RunStore(Path("results")), read_meta(Path("data", "made", META))
    for run, place, minute in zip(RUNS, (HERE, HERE, THERE), (2, 1, 3), strict=True):
        monkeypatch.setattr(
            "smallbatch.runs.store.now", lambda minute=minute: datetime(2026, 11, 25, 12, minute, tzinfo=UTC)
        )
        store.write(run, meta.fingerprint, an_outcome(run, seconds=10.0, lanes=3), place | COMMIT, None)
    planned = [("one", run) for run in RUNS]
    return runs_table(planned, collect(planned, store, {"made": meta}), {"made": meta}, 0.8)


LAB = {"name": "A lab", "kind": "organization", "url": "https://lab.example.org"}


def write(runs, output="mine.crate.zip", study=STUDY, claims=CLAIMS, publisher=LAB):
    """The archive's metadata, by identifier."""
    files = crate.Files(
        citation=Path("CITATION.cff"),
        documents=[Path("README.md"), Path("LICENSE")],
        code=[Path("Snakefile"), Path("workflow/rules/common.smk")],
        settings=[Path("config/config.yaml"), Path(STUDY.file)],
        data=[Path("data/made", META)],
        results=sorted([*Path("results/mine-look").iterdir(), *Path("paper_figures/mine-look").iterdir()]),
    )
    crate.write(study, runs, claims, files, publisher, "9.27.1", Path(output))
    with zipfile.ZipFile(output) as archive:
        assert archive.testzip() is None
        graph = json.loads(archive.read("ro-crate-metadata.json"))["@graph"]
    assert len({entity["@id"] for entity in graph}) == len(graph)
    return {entity["@id"]: entity for entity in graph}


@pytest.fixture
def entities(runs):
    return write(runs)


def listed(value) -> list:
    return value if isinstance(value, list) else [value]


def linked(entities, entity, key) -> list[dict]:
    return [entities[link["@id"]] for link in listed(entity[key])]


def links(value):
    """Every identifier that is linked to in a value."""
    if isinstance(value, dict) and set(value) == {"@id"}:
        yield value["@id"]
    elif isinstance(value, list):
        for one in value:
            yield from links(one)


def test_the_root_is_as_ro_crate_and_the_profiles_ask(entities):
    descriptor, root = entities["ro-crate-metadata.json"], entities["./"]
    assert descriptor["about"] == {"@id": "./"} and descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.3"}
    assert root["@type"] == "Dataset" and root["name"] == "Mine (study mine-look)"
    assert root["description"] == "For the tests." and root["datePublished"] == "2026-11-25T12:03:00+00:00"
    assert linked(entities, root, "license")[0]["@id"] == "https://spdx.org/licenses/MIT"
    assert [author["name"] for author in linked(entities, root, "author")] == ["The small-batch reproduction authors"]
    assert "Revisiting Small Batch" in linked(entities, root, "citation")[0]["name"]
    profiles = {profile["@id"]: profile for profile in linked(entities, root, "conformsTo")}
    assert set(profiles) == {
        "https://w3id.org/ro/wfrun/process/0.6",
        "https://w3id.org/ro/wfrun/workflow/0.6",
        "https://w3id.org/workflowhub/workflow-ro-crate/1.1",
    }
    assert all({"CreativeWork", "Profile"} <= set(profile["@type"]) for profile in profiles.values())
    assert (
        entities["README.md"]["about"] == {"@id": "./"} and entities["README.md"]["encodingFormat"] == "text/markdown"
    )


def test_the_main_entity_is_the_workflow(entities):
    (workflow,) = linked(entities, entities["./"], "mainEntity")
    assert workflow["@id"] == "Snakefile" and workflow["name"] and workflow["version"] == __version__
    assert {"File", "SoftwareSourceCode", "ComputationalWorkflow"} <= set(workflow["@type"])
    (language,) = linked(entities, workflow, "programmingLanguage")
    assert (
        language["@type"] == "ComputerLanguage" and language["name"] == "Snakemake" and language["version"] == "9.27.1"
    )
    assert [part["@id"] for part in linked(entities, workflow, "hasPart")] == ["workflow/rules/common.smk"]
    software = {(one["name"], one["version"]) for one in linked(entities, workflow, "softwareRequirements")}
    assert software == {("Python", "3.11.7"), ("Python", "3.12.1"), ("PyTorch", "2.15.0"), ("NumPy", "2.4.6")}


def test_each_place_that_trained_is_an_action_with_its_times_and_environment(entities):
    here, there = linked(entities, entities["./"], "mentions")
    for action in (here, there):
        assert action["@type"] == "CreateAction" and action["name"] and action["description"]
        assert action["instrument"] == {"@id": "Snakefile"}
        objects = [one["@id"] for one in linked(entities, action, "object")]
        assert objects == ["config/config.yaml", "config/studies/mine.yaml", "study.json", "#data-made"]
        results = {one["@id"] for one in linked(entities, action, "result")}
        assert {"results/mine-look/claims.csv", "paper_figures/mine-look/fig01.svg"} <= results and len(results) == 7
    assert here["name"] == "2 runs of study mine-look" and there["name"] == "1 run of study mine-look"
    assert (here["startTime"], here["endTime"]) == ("2026-11-25T12:00:30+00:00", "2026-11-25T12:02:00+00:00")
    assert there["endTime"] == "2026-11-25T12:03:00+00:00"
    for action, place in ((here, HERE), (there, THERE)):
        known = {one["name"]: one["value"] for one in linked(entities, action, "additionalProperty")}
        assert known == place | COMMIT


def test_runs_that_do_not_say_when_they_ended_give_no_times(runs):
    entities = write(runs.assign(ended=None))
    assert not any({"startTime", "endTime"} & set(entity) for entity in entities.values())
    assert entities["./"]["datePublished"] > "2026"


def test_data_are_named_by_their_fingerprint(entities, project):
    data = entities["#data-made"]
    (fingerprint,) = linked(entities, data, "identifier")
    assert fingerprint["value"] == read_meta(project / "data" / "made" / META).fingerprint
    assert data["description"] == "64 training and 32 test images of 1x8x8, 4 classes"
    assert linked(entities, data, "subjectOf")[0]["@id"] == "data/made/meta.json"


def test_claims_have_their_verdicts(entities):
    first, second = linked(entities, entities["results/mine-look/claims.csv"], "mentions")
    assert first["claimReviewed"] == "small is good" and second["name"] == "C2: not run"
    assert linked(entities, first, "reviewRating")[0]["ratingValue"] == "supported"
    assert first["itemReviewed"]["@id"].startswith("https://doi.org/")
    assert first["isBasedOn"] == {"@id": "paper_figures/mine-look/fig01.svg"} and "isBasedOn" not in second
    assert first["reviewBody"] == "small minus large: +2.0 points (+1.0 to +3.0). best at m = 4"


def test_claims_of_ones_own_are_of_the_study_whatever_they_are_called(runs):
    entities = write(runs, claims=CLAIMS.assign(claim=["supported", "verdict-supported"], section=""))
    first, second = linked(entities, entities["results/mine-look/claims.csv"], "mentions")
    assert {first["@id"], second["@id"]} == {"#claim-supported", "#claim-verdict-supported"}
    assert linked(entities, first, "itemReviewed")[0]["@id"] == "study.json"
    assert linked(entities, first, "reviewRating")[0]["@id"] == "#verdict-supported"


def test_the_study_stands_there_as_it_was_trained(entities):
    with zipfile.ZipFile("mine.crate.zip") as archive:
        assert Study.from_json(json.loads(archive.read("study.json"))) == STUDY


def test_every_file_is_there_listed_and_right(entities):
    parts = {part["@id"]: part for part in linked(entities, entities["./"], "hasPart")}
    with zipfile.ZipFile("mine.crate.zip") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
        assert all(entry.external_attr >> 16 == 0o644 for entry in archive.infolist())
    assert contents.keys() - parts.keys() == {"ro-crate-metadata.json", "ro-crate-preview.html"}
    for name, part in parts.items():
        assert "File" in part["@type"] and part["name"] and part["description"] and part["encodingFormat"], name
        assert part["contentSize"] == str(len(contents[name]))
        assert part["sha256"] == hashlib.sha256(contents[name]).hexdigest()


def test_every_link_has_an_end_and_every_term_a_meaning(entities):
    terms = RO_CRATE["@context"]
    beyond = {"https://w3id.org/ro/crate/1.3"}
    for entity in entities.values():
        assert all(kind in terms for kind in listed(entity["@type"])), entity
        assert all(key in terms for key in entity if not key.startswith("@")), entity
        assert set(links(list(entity.values()))) <= set(entities) | beyond, entity


def test_it_is_read_again_by_the_library(entities):
    found = ROCrate("mine.crate.zip")
    assert found.mainEntity.id == "Snakefile" and len(found.get_by_type("CreateAction")) == 2


def test_the_same_study_gives_the_same_bytes(runs):
    write(runs, "one.crate.zip")
    write(runs, "two.crate.zip")
    assert Path("one.crate.zip").read_bytes() == Path("two.crate.zip").read_bytes()
    write(runs, "other.crate.zip", replace(STUDY, title="Another"))
    assert Path("other.crate.zip").read_bytes() != Path("one.crate.zip").read_bytes()


def test_who_trained_and_publishes_is_said_or_left_out(runs):
    entities = write(runs)
    root = entities["./"]
    [lab] = linked(entities, root, "publisher")
    assert lab == {"@id": LAB["url"], "@type": "Organization", "name": "A lab", "url": LAB["url"]}
    assert all(linked(entities, training, "agent") == [lab] for training in linked(entities, root, "mentions"))
    alone = write(runs, publisher={"name": "Ada Lovelace", "kind": "person"})
    assert alone["./"]["publisher"] == {"@id": "#ada-lovelace"} and alone["#ada-lovelace"]["@type"] == "Person"
    nobody = write(runs, publisher={})
    assert not any({"publisher", "agent"} & entity.keys() for entity in nobody.values())


def test_an_author_who_publishes_is_one_entity(runs):
    [author] = read_yaml(PROJECT / "CITATION.cff")["authors"]
    root = write(runs, publisher=author | {"kind": "organization"})["./"]
    assert root["publisher"] == root["author"]


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["ro-crate-1.3", "workflow-run-crate"])
def test_the_validator_misses_only_what_is_not_known(profile, runs):
    write(runs)
    assert findings(Path("mine.crate.zip"), profile).keys() == NOT_KNOWN[profile]


def test_an_archive_has_the_files_of_the_workflow_and_nothing_that_was_made_of_them(tmp_path, monkeypatch):
    kept = ("workflow/Snakefile", "workflow/smallbatch/a.py", "envs/requirements.txt")
    for name in (*kept, "workflow/.x", "workflow/__pycache__/a.pyc", "workflow/a.egg-info/PKG-INFO", "results/r"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert set(workflow_files()) == {*kept, "Snakefile", "pyproject.toml", "Makefile"}
