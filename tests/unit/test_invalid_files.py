"""What is found before any job: damaged, edited and outdated files, with what is said and done of each."""

import errno
from pathlib import Path

import pytest

from smallbatch import data
from smallbatch.core import checksums
from smallbatch.core.errors import UserError
from smallbatch.runs import invalid_files
from smallbatch.runs.chosen_rates import write_chosen


@pytest.fixture
def job(tmp_path):
    """A job that made a table and a picture from a source."""
    names = {name: tmp_path / name for name in ("source", "table.csv", "paper_figures/a/one.svg")}
    for content, path in enumerate(names.values()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(content))
    source, *made = names.values()
    checksums.write(tmp_path / "sums.json", made, made_by="new", inputs=[source])
    return invalid_files.Job(tmp_path / "sums.json", list(map(str, made)), [str(source)], "new")


def test_nothing_is_found_of_what_is_as_it_was_made(job, tmp_path):
    assert not list(invalid_files.damaged_files([job], tmp_path / "paper_figures"))
    assert not list(invalid_files.outdated_files([job, job._replace(sums=tmp_path / "none.json", made_by="other")]))


def test_files_and_checksums_that_are_gone_are_missed_where_others_are_there_or_they_were_read(job, tmp_path):
    table, picture = map(Path, job.makes)
    reader = invalid_files.Job(tmp_path / "page.json", [str(tmp_path / "page.html")], [str(table)], "")
    assert invalid_files.incomplete([job, reader]) == []
    picture.unlink()
    assert invalid_files.incomplete([job, reader]) == [job.sums]
    picture.touch()
    job.sums.unlink()
    assert invalid_files.incomplete([job, reader]) == [job.sums]
    table.unlink()
    picture.unlink()
    assert invalid_files.incomplete([job, reader]) == []  # nothing is there that is shown
    Path(reader.makes[0]).symlink_to("nowhere")
    assert invalid_files.incomplete([job, reader]) == [job.sums, reader.sums]
    other = reader._replace(reads=["other"])
    assert invalid_files.incomplete([job, other]) == [reader.sums]


def test_an_edited_table_is_set_aside(job, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("9")
    (invalid,) = invalid_files.damaged_files([job], tmp_path / "paper_figures")
    assert invalid.files == (table,) and table.exists()
    assert invalid.planned == f"{table}: edited or damaged; a call without -n would make table.csv again"
    aside = tmp_path / "table.csv.damaged-1"
    assert invalid.discard() == f"{table}: edited or damaged; set aside as {aside}, to make table.csv again"
    assert not table.exists() and aside.read_text() == "9"


def test_a_link_to_nothing_is_set_aside(job, tmp_path):
    table = tmp_path / "table.csv"
    for file in (table, tmp_path / "table.csv.damaged-1"):
        file.unlink(missing_ok=True)
        file.symlink_to(tmp_path / "gone")
    (invalid,) = invalid_files.damaged_files([job], tmp_path / "paper_figures")
    assert invalid.discard().endswith(f"set aside as {tmp_path}/table.csv.damaged-2, to make table.csv again")
    assert {path.name for path in tmp_path.glob("table*")} == {"table.csv.damaged-1", "table.csv.damaged-2"}
    job.sums.unlink()
    job.sums.symlink_to(tmp_path / "gone")
    (invalid,) = invalid_files.damaged_files([job], tmp_path / "paper_figures")
    assert invalid.files == (job.sums,)
    (invalid,) = invalid_files.damaged_rates([job.sums])
    assert invalid.files == (job.sums,)


@pytest.mark.parametrize("name", ["meta.json", "test_labels.npy"])
def test_a_link_to_nothing_among_data_is_set_aside(name, tmp_path):
    settings = {"source": "digits"}
    data.prepare("digits", settings, tmp_path / "digits", tmp_path / "downloads")
    (tmp_path / "digits" / name).unlink()
    (tmp_path / "digits" / name).symlink_to(tmp_path / "gone")
    (invalid,) = invalid_files.unprepared({"digits": settings}, tmp_path)
    assert tmp_path / "digits" / name in invalid.files
    invalid.discard()
    assert (tmp_path / f"digits.{name}.damaged-1").is_symlink()
    assert invalid_files.reason_to_prepare("digits", settings, tmp_path / "digits").endswith("prepares the data set")


def test_an_edited_picture_is_drawn_over(job, tmp_path):
    picture = tmp_path / "paper_figures/a/one.svg"
    picture.write_text("9")
    (invalid,) = invalid_files.damaged_files([job], tmp_path / "paper_figures")
    assert invalid.files == (job.sums,)
    assert invalid.discard() == invalid.planned == f"{picture}: not as drawn from these tables; to be drawn again"
    assert picture.read_text() == "9" and not job.sums.exists(), "it is drawn over"


def test_checksums_of_other_files_are_set_aside_themselves(job, tmp_path):
    (invalid,) = invalid_files.damaged_files([job._replace(makes=job.makes[1:])], tmp_path / "paper_figures")
    assert invalid.files == (job.sums,)


def test_what_a_study_makes_from_fewer_experiments_since_is_outdated_not_damaged(job, tmp_path):
    fewer = job._replace(reads=[])
    assert not list(invalid_files.damaged_files([fewer], tmp_path / "paper_figures"))
    (invalid,) = invalid_files.outdated_files([fewer])
    assert invalid.planned == f"{job.sums}: made from other inputs; to be made again"


def test_what_was_made_by_other_settings_or_from_others_is_made_again(job, tmp_path):
    (invalid,) = invalid_files.outdated_files([job._replace(made_by="newer")])
    assert invalid.planned == f"{job.sums}: made by other settings or another version of the code; to be made again"
    (tmp_path / "source").write_text("3")
    (invalid,) = invalid_files.outdated_files([job])
    assert invalid.files == (job.sums,)
    assert invalid.discard() == f"{job.sums}: made from other inputs; to be made again"
    assert not job.sums.exists() and (tmp_path / "table.csv").exists()


def test_rates_are_chosen_again_when_the_tables_show_other_runs_or_by_other_code(tmp_path):
    path, tables = tmp_path / "study/chosen/e.json", [tmp_path / "a.json", tmp_path / "b.json"]
    write_chosen(path, {4: 2.0**-8}, ["one", "two"], "code")

    def reasons(tables, code="code"):
        return [invalid.planned for invalid in invalid_files.outdated_rates({path: tables}, code)]

    assert reasons(tables) == [], "as long as it is not known what they show"
    for table, digest in zip(tables, ("one", "two"), strict=True):
        checksums.write(table, [], digest)
    assert reasons(tables) == []
    assert reasons(tables[::-1]) == [f"{path}: chosen from other runs; to be made again"]
    assert reasons(tables, "other") == [f"{path}: chosen by another version of the code; to be made again"]
    assert not list(invalid_files.damaged_rates([path, tmp_path / "study/chosen/none.json"]))
    path.write_text(path.read_text().replace("0.0039", "0.0078"))
    assert [invalid.files for invalid in invalid_files.damaged_rates([path])] == [(path,)]


def test_a_data_set_of_other_settings_is_prepared_again(tmp_path):
    settings = {"source": "digits"}
    data.prepare("made", settings, tmp_path / "made", tmp_path / "downloads")
    assert not list(invalid_files.unprepared({"made": settings}, tmp_path))
    (invalid,) = invalid_files.unprepared({"made": {"source": "digits", "label": "made", "train": 100}}, tmp_path)
    assert invalid.files == (tmp_path / "made/meta.json",)
    assert invalid.discard().endswith(f"set aside as {tmp_path / 'made.meta.json.damaged-1'}, to make meta.json again")


def test_pictures_of_figures_that_left_are_strays(tmp_path):
    for name in ("one.svg", "one.png", "two.svg", "notes.txt"):
        (tmp_path / name).touch()
    assert invalid_files.unexpected_files(tmp_path, [tmp_path / "one.svg", tmp_path / "one.png"]) == [
        tmp_path / "two.svg"
    ]
    assert invalid_files.unexpected_files(tmp_path / "none", [tmp_path / "one.svg"]) == []


def test_checksums_of_another_person_that_cannot_be_deleted_end_in_one_line(job, monkeypatch):
    (invalid,) = invalid_files.outdated_files([job._replace(made_by="newer")])

    def forbidden(self, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", forbidden)
    with pytest.raises(UserError, match=f"{job.sums}: cannot be written: "):
        invalid.discard()
