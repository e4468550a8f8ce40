"""Checksums of what a job made: what is told of files that changed since."""

import os
from pathlib import Path

import pytest

from smallbatch.core import checksums


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Two files of a job and their checksums."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs.csv", "claims.csv"):
        (tmp_path / name).write_text(f"{name}\n")
    checksums.write(tmp_path / "sums.json", outputs(tmp_path), made_from="abc")
    return tmp_path / "sums.json"


def outputs(folder):
    """What the job makes, in no order."""
    return [folder / name for name in ("claims.csv", "sums.json", "runs.csv")]


def test_what_is_as_it_was_made_is_not_reported_nor_what_is_gone(made):
    assert checksums.damaged(made, outputs(made.parent)) == [] and checksums.made_from(made) == "abc"
    (made.parent / "runs.csv").unlink()
    assert checksums.damaged(made, outputs(made.parent)) == []


def test_an_edited_file_is_reported(made):
    (made.parent / "claims.csv").write_text("claims,csv\n")
    assert checksums.damaged(made, outputs(made.parent)) == [made.parent / "claims.csv"]


def test_a_folder_in_the_place_of_a_file_is_reported(made):
    (made.parent / "claims.csv").unlink()
    (made.parent / "claims.csv").mkdir()
    assert checksums.damaged(made, outputs(made.parent)) == [made.parent / "claims.csv"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": {}, "made_from": "", "digest": "0"}'])
def test_damaged_checksums_are_reported_themselves(made, content):
    made.write_text(content)
    assert checksums.damaged(made, outputs(made.parent)) == [made] and checksums.made_from(made) is None


def test_a_folder_in_the_place_of_checksums_is_reported_and_none_are_no_damage(made):
    made.unlink()
    assert checksums.damaged(made, outputs(made.parent)) == [] and checksums.made_from(made) is None
    made.mkdir()
    assert checksums.damaged(made, outputs(made.parent)) == [made] and checksums.made_from(made) is None


def test_what_other_settings_code_or_inputs_would_make_is_reported(made):
    sums, runs = made.with_name("claims.json"), made.parent / "runs.csv"
    made_by = checksums.settings_digest({"margin": 0.2, "near": 2.0}, "code")
    whose = [made.parent / "claims.csv"], [runs]
    checksums.write(sums, whose[0], made_by=made_by, inputs=whose[1])
    assert made_by == checksums.settings_digest({"near": 2.0, "margin": 0.2}, "code")
    assert checksums.why_outdated(sums, made_by, whose[1]) is None
    other = checksums.settings_digest({"margin": 0.3, "near": 2.0}, "code")
    assert checksums.why_outdated(sums, other, whose[1]) == "made by other settings or another version of the code"
    runs.write_text("other runs\n")
    os.utime(runs, (0, 0))
    assert checksums.why_outdated(sums, made_by, whose[1]) == "made from other inputs"
    assert checksums.damaged(sums, whose[0]) == []
    runs.unlink()  # which is made again, and this after it
    assert checksums.why_outdated(sums, made_by, whose[1]) is None
    sums.write_text("{}")
    assert checksums.why_outdated(sums, made_by, whose[1]) is None and checksums.damaged(sums, whose[0]) == [sums]


@pytest.mark.parametrize("inputs", [[], ["source", "runs.csv"], ["twin/source"]])
def test_what_would_be_made_from_more_or_fewer_inputs_is_outdated_not_damaged(inputs, made):
    """As by a study that has another experiment since."""
    (made.parent / "twin").mkdir()
    for name in ("source", "twin/source"):
        (made.parent / name).write_text("source")
    sums, files = made.with_name("gather.json"), [made.parent / "claims.csv"]
    checksums.write(sums, files, inputs=inputs)
    assert checksums.why_outdated(sums, "", ["source"]) == "made from other inputs"
    assert checksums.damaged(sums, files) == [] and checksums.why_outdated(sums, "", inputs) is None


@pytest.mark.parametrize(
    "files",
    [
        ["runs.csv"],
        ["runs.csv", "claims.csv", "report.html"],
        ["runs.csv", "twin/claims.csv"],
        ["runs.csv", "twin/../claims.csv"],
        ["runs.csv", "{}/claims.csv"],
        [],
    ],
)
def test_checksums_of_other_files_than_the_job_s_are_damaged(files, tmp_path, monkeypatch):
    """As of a study that was renamed, of a twin of it, or of another job."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twin").mkdir()
    for folder in (tmp_path, tmp_path / "twin"):
        for name in ("runs.csv", "claims.csv", "report.html"):
            (folder / name).write_text(name)
    sums, made = Path("sums.json"), ["runs.csv", "sums.json", Path("claims.csv")]
    checksums.write(sums, made)
    assert checksums.damaged(sums, made) == []
    checksums.write(sums, [Path(file.format(tmp_path)) for file in files])
    assert checksums.damaged(sums, made) == [sums]


def test_checksums_that_name_a_file_twice_are_damaged(made):
    """The digest fits what Python reads, which is the last; others read the first."""
    twice = f'"files": {{"{made.parent}/runs.csv": "0",'
    made.write_text(made.read_text().replace('"files": {', twice, 1))
    assert checksums.damaged(made, outputs(made.parent)) == [made]


def test_files_that_a_job_makes_again_meanwhile_are_left_to_it(made, monkeypatch):
    """The job deletes the checksums first; whoever read them before finds other files than they say."""

    def as_the_job_writes(file):
        made.unlink(missing_ok=True)
        return "of another file"

    monkeypatch.setattr(checksums, "sha256", as_the_job_writes)
    assert checksums.damaged(made, outputs(made.parent)) == []
