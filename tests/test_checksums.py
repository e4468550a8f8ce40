"""Checksums of what a job made: what is told of files that changed since."""

import os

import pytest

from smallbatch.core import checksums


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Two files of a job and their checksums."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs.csv", "claims.csv"):
        (tmp_path / name).write_text(f"{name}\n")
    sums = tmp_path / "sums.json"
    checksums.write(sums, [tmp_path / "runs.csv", tmp_path / "claims.csv", sums], made_from="abc")
    return sums


def test_what_is_as_it_was_made_is_not_told_nor_what_is_gone(made):
    assert checksums.damaged(made) == [] and checksums.made_from(made) == "abc"
    (made.parent / "runs.csv").unlink()
    assert checksums.damaged(made) == []


def test_an_edited_file_is_told(made):
    (made.parent / "claims.csv").write_text("claims,csv\n")
    assert checksums.damaged(made) == [made.parent / "claims.csv"]


def test_a_folder_in_the_place_of_a_file_is_told(made):
    (made.parent / "claims.csv").unlink()
    (made.parent / "claims.csv").mkdir()
    assert checksums.damaged(made) == [made.parent / "claims.csv"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": {}, "made_from": "", "digest": "0"}'])
def test_damaged_checksums_are_told_themselves(made, content):
    made.write_text(content)
    assert checksums.damaged(made) == [made] and checksums.made_from(made) is None


def test_a_folder_in_the_place_of_checksums_is_told_and_none_are_no_damage(made):
    made.unlink()
    assert checksums.damaged(made) == [] and checksums.made_from(made) is None
    made.mkdir()
    assert checksums.damaged(made) == [made] and checksums.made_from(made) is None


def test_what_other_settings_code_or_inputs_would_make_is_told(made):
    sums, runs = made.with_name("claims.json"), made.parent / "runs.csv"
    recipe = checksums.recipe_of({"margin": 0.2, "near": 2.0}, "code")
    checksums.write(sums, [made.parent / "claims.csv"], recipe=recipe, inputs=[runs])
    assert recipe == checksums.recipe_of({"near": 2.0, "margin": 0.2}, "code")
    assert checksums.outdated(sums, recipe) is None
    other = checksums.recipe_of({"margin": 0.3, "near": 2.0}, "code")
    assert checksums.outdated(sums, other) == "made by other settings or another version of the code"
    runs.write_text("other runs\n")
    os.utime(runs, (0, 0))
    assert checksums.outdated(sums, recipe) == "made from others" and checksums.damaged(sums) == []
    runs.unlink()  # which is made again, and this after it
    assert checksums.outdated(sums, recipe) is None
    sums.write_text("{}")
    assert checksums.outdated(sums, recipe) is None and checksums.damaged(sums) == [sums]


def test_files_that_a_job_makes_anew_meanwhile_are_left_to_it(made, monkeypatch):
    """The job deletes the checksums first; whoever read them before finds other files than they say."""

    def as_the_job_writes(file):
        made.unlink(missing_ok=True)
        return "of another file"

    monkeypatch.setattr(checksums, "sha256", as_the_job_writes)
    assert checksums.damaged(made) == []
