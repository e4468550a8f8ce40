"""What is edited, damaged or outdated is named and made again, and nothing else is."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from helpers import snakemake
from helpers.workflows import ALL, RUNS, jobs, trained
from PIL import Image

from smallbatch.core.files import read_sealed
from smallbatch.runs.chosen_rates import write_chosen
from smallbatch.runs.store import RunStore


def test_tables_follow_a_run_that_came_out_otherwise(copied):
    store, name = RunStore(copied / "results"), next(name for name in trained(copied) if "alexnet" in name)
    record = store.read(name)
    other = [epoch._replace(test_accuracy=0.125) for epoch in record.outcome.epochs]
    outcome = replace(record.outcome, epochs=other)
    store.write(record.run, record.fingerprint, outcome, record.environment, None)
    (copied / "results/tiny/experiments/alexnet/epochs.parquet").unlink()
    done = snakemake(copied, *ALL[:-1], "paper_figures/tiny/fig01.pdf")
    assert done.returncode == 0 and jobs(done.stdout) == {"figure": 1, "table": 1}, done.stdout
    runs = pd.read_parquet(copied / "results/tiny/experiments/alexnet/runs.parquet").set_index("run")
    assert runs.loc[name, "accuracy"] == 0.125


def test_edited_tables_are_named_and_made_again(copied):
    names = ("runs.csv", "claims.csv", "experiments/bn/runs.parquet", "chosen/bn.json", "checksums/page.json")
    before = {name: (copied / "results/tiny" / name).read_bytes() for name in names}
    for name, content in before.items():
        (copied / "results/tiny" / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    report = snakemake(copied, "--report", "report.html", "--config", "study=tiny")
    assert report.returncode == 1 and "error: command line: --report: study tiny is not complete" in report.stdout
    looked, done = snakemake(copied, "-n", *ALL), snakemake(copied, *ALL)
    assert done.returncode == 0, done.stdout
    planned = {"choose": 1, "table": 1, "figure": 1, "gather": 1, "claims": 1, "page": 1, "all": 1}
    assert looked.returncode == 0 and jobs(looked.stdout) == planned, looked.stdout
    for name, content in before.items():
        file, told = copied / "results/tiny" / name, f"results/tiny/{name}: edited or damaged; "
        assert f"{told}a call without -n would make {file.name} again" in looked.stdout
        assert f"{told}set aside as results/tiny/{name}.damaged-1, to make {file.name} again" in done.stdout
        assert file.read_bytes() == content and file.with_name(f"{file.name}.damaged-1").exists()


def test_snakemakes_own_report_lists_figures_by_number_and_title(copied):
    done = snakemake(copied, "--report", "report.html", "--config", "study=tiny")
    text = (copied / "report.html").read_text(encoding="utf-8")
    assert done.returncode == 0 and '"file": "fig01", "figure": "Figure 1: ' in text, done.stdout
    assert "bands 95 % intervals" in text and "here they are under Tables" in text


@pytest.mark.parametrize("target", ["report", "results/tiny/report.html", "paper_figures/tiny/fig01.svg"])
def test_an_edited_picture_is_drawn_again_whatever_is_asked_for(target, copied):
    """Whoever asks for another file of its job, or for what shows it, would not miss the job's checksums."""
    picture = copied / "paper_figures/tiny/fig01.svg"
    whole = picture.read_bytes()
    picture.write_bytes(whole.replace(b"</svg>", b"<!-- edited --></svg>"))
    done = snakemake(copied, *ALL[:-1], target)
    assert done.returncode == 0 and "fig01.svg: not as drawn from these tables; to be drawn again" in done.stdout
    assert picture.read_bytes() == whole and b"edited -->" not in (copied / "results/tiny/report.html").read_bytes()
    assert "Nothing to be done" in snakemake(copied, *ALL[:-1], target).stdout


def test_edited_tables_and_those_without_checksums_are_made_again_whatever_is_asked_for(copied):
    table = copied / "results/tiny/runs.parquet"
    whole = table.read_bytes()
    for without_checksums in (False, True):
        table.write_bytes(whole[:-9] + b"edited...")
        if without_checksums:
            (copied / "results/tiny/checksums/gather.json").unlink()
        done = snakemake(copied, *ALL[:-1], "claims")
        assert done.returncode == 0 and table.read_bytes() == whole, done.stdout


def test_verdicts_of_other_thresholds_are_made_again_for_the_report_without_snakemakes_memory(copied):
    file = copied / "config/config.yaml"
    text = file.read_text()
    assert text.count("margin: ") == 1
    file.write_text(re.sub(r"margin: \S+", "margin: 0.5", text))
    shutil.rmtree(copied / ".snakemake")
    (copied / "results/tiny/claims.csv").unlink()  # the report that shows it is whole
    report = (copied / "results/tiny/report.html").read_bytes()
    done = snakemake(copied, *ALL[:-1], "report")
    assert done.returncode == 0 and jobs(done.stdout) == {"claims": 1, "page": 1, "report": 1}, done.stdout
    assert (copied / "results/tiny/report.html").read_bytes() != report


def test_damaged_data_are_planned_again_and_reported_in_one_line(copied):
    folder = copied / "data/digits"
    for names in (["meta.json"], ["train_images.npy", "meta.json"]):
        aside = ", ".join(f"data/digits.{name}.damaged-1" for name in names)
        whole = {name: (folder / name).read_bytes() for name in names}
        (folder / names[0]).write_bytes(whole[names[0]][:-1] + b"?")
        looked = snakemake(copied, "-n", *ALL)
        assert looked.returncode == 0 and jobs(looked.stdout)["prepare"] == 1, looked.stdout
        done = snakemake(copied, *ALL)
        for output, told in (
            (looked, f"a call without -n would make {', '.join(names)} again"),
            (done, f"set aside as {aside}, to make {', '.join(names)} again"),
        ):
            [line] = [line for line in output.stdout.splitlines() if "again" in line]
            assert line.startswith(f"data/digits/{names[0]}: ") and line.endswith(told)
        assert {name: (folder / name).read_bytes() for name in names} == whole
        (copied / "data/digits.meta.json.damaged-1").unlink()


def test_pictures_that_are_new_are_seen_of_a_data_set_that_the_study_does_not_have_too(project, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), 60 * number).save(tmp_path / "pictures" / name / f"{number}.png")
    source = f"source: image-folder, path: {tmp_path}/pictures, size: 8, test_fraction: 0.5, label: pictures"
    asked = ("--config", f"datasets={{cifar10: {{{source}}}}}", "--", "data/pictures/meta.json")
    done = snakemake(project, "--cores", "1", *asked)
    assert done.returncode == 0 and jobs(done.stdout) == {"prepare": 1}, done.stdout
    assert "Nothing to be done" in snakemake(project, "-n", *asked).stdout
    Image.new("L", (8, 8)).save(tmp_path / "pictures" / "a" / "new.png")
    assert jobs(snakemake(project, "-n", *asked).stdout) == {"prepare": 1}


def test_what_lies_there_whole_but_would_be_made_otherwise_is_made_again(copied):
    """As after a move to another machine or out of a backup: Snakemake knows no earlier settings, and times are new."""
    results, rates = copied / "results/tiny", copied / "results/tiny/chosen/bn.json"
    before = rates.read_bytes()
    write_chosen(rates, {16: 2.0**-10, 64: 2.0**-8}, ["of other runs"], read_sealed(rates)["code"])
    shutil.rmtree(copied / ".snakemake")
    tried = snakemake(copied, "-n", *ALL[:-2], "convergence_threshold=0.25", *ALL[-2:])
    assert "Study tiny-convergence_threshold0.25 would be complete" in tried.stdout, tried.stdout
    assert "train" not in jobs(tried.stdout) and jobs(tried.stdout)["table"] == 2, tried.stdout
    config = copied / "config/config.yaml"
    config.write_text(config.read_text().replace("convergence_threshold: 0.8", "convergence_threshold: 0.25"))
    done = snakemake(copied, *ALL)
    assert done.returncode == 0 and "results/tiny/chosen/bn.json: chosen from other runs; to be made" in done.stdout
    told = "made by other settings or another version of the code; to be made again"
    assert all(f"results/tiny/checksums/table-{name}.json: {told}" in done.stdout for name in ("alexnet", "bn"))
    assert rates.read_bytes() == before and len(trained(copied)) == RUNS
    runs = pd.read_csv(results / "runs.csv").groupby("experiment").get_group("alexnet")
    assert runs["bar"].tolist() == pytest.approx([0.1 + 0.25 * (runs["accuracy"].max() - 0.1)] * 4)


def test_what_was_copied_from_another_study_is_made_again(copied):
    """Its checksums are of the other's files, whatever these are like."""
    (copied / "config/studies/twin.yaml").write_text((copied / "config/studies/tiny.yaml").read_text())
    for folder in ("results", "paper_figures"):
        shutil.copytree(copied / folder / "tiny", copied / folder / "twin")
    claims, figures = copied / "results/twin/claims.csv", copied / "paper_figures/twin"
    claims.write_text(claims.read_text().replace("not run", "confirmed"))
    shutil.copy(figures / "fig01.svg", figures / "fig13.svg")
    (copied / "results/twin/checksums/figure-fig13.json").unlink()
    figure = copied / "results/twin/checksums/figure-fig01.json"
    shutil.copy(figure, figure.with_name("figure-fig13.json"))
    done = snakemake(copied, *["study=twin" if part == "study=tiny" else part for part in ALL])
    assert done.returncode == 0, done.stdout
    for job in ("table-bn", "gather", "claims", "page", "figure-fig01", "figure-fig13"):
        assert f"results/twin/checksums/{job}.json: edited or damaged; set aside" in done.stdout
    for made in [*copied.glob("paper_figures/tiny/*"), *copied.glob("results/tiny/*.csv")]:
        assert Path(str(made).replace("/tiny/", "/twin/")).read_bytes() == made.read_bytes()


def test_a_picture_that_git_has_brought_is_drawn_again(copied):
    folder = copied / "paper_figures/tiny"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "fig01.svg").write_text("<svg>another</svg>")
    done = snakemake(copied, *ALL)
    said = "paper_figures/tiny/fig01.svg: not as drawn from these tables; to be drawn again"
    assert done.returncode == 0 and said in done.stdout, done.stdout
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
