"""Publishing a study, and what colleagues have of it: pulled, merged, redrawn, never trained again."""

import shutil

import pandas as pd
import pytest
from helpers import a_run, an_outcome
from helpers.publishing import as_repository, clone, make, names, objects, pictures, set_seeds, sh, trained_repository

from smallbatch.core.errors import UserError
from smallbatch.publish.dvc_publish import (
    RECORDED,
    check,
    claims_markdown,
    fill_marked_parts,
    runs_with_published_weights,
    undamaged_weights,
)
from smallbatch.runs.store import RunStore


@pytest.fixture
def shared(project, tmp_path):
    """A repository in which two colleagues' clones and a remote of DVC meet."""
    return as_repository(project, tmp_path / "store")


@pytest.fixture
def trained(tmp_path_factory, tmp_path):
    """Such a repository, whose study is trained."""
    return trained_repository(tmp_path_factory, tmp_path / "project")


def test_a_study_that_is_not_trained_is_not_published(shared):
    refused = make(shared, "publish")
    assert refused.returncode and "is not complete: runs of alexnet are missing" in refused.stdout
    assert not (shared / "results" / "runs").exists()


def test_publish_pull_redraw_merge(trained, tmp_path):
    done = make(trained, "publish")
    assert done.returncode == 0, done.stdout
    assert (
        "4 runs and 1 weights file of study laptop-one are in remote embedded; 5 of these are new or changed"
        in done.stdout
    )
    assert "git add docs/results.md paper_figures/laptop-one results .dvc && git commit" in done.stdout
    assert "C1: reduced AlexNet" in (trained / "docs" / "results.md").read_text()
    sh(trained, "git add docs/results.md paper_figures results && git commit --quiet --message 'Publish study one'")
    again = make(trained, "publish")
    assert "0 of these are new or changed; nothing is left to commit" in again.stdout, again.stdout

    # Killed before DVC knew of the bundle and anything was pushed, and called again.
    pushed = objects(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    next((trained / "results" / "published").glob("*.dvc")).unlink()
    assert make(trained, "publish").returncode == 0
    assert objects(tmp_path / "store") == pushed and sh(trained, "git status --porcelain") == ""

    # A colleague's clone, with all modification times upset, trains nothing and draws the same.
    other = clone(trained, tmp_path / "other")
    sh(other, "dvc pull --quiet && find . -path ./.git -prune -o -type f -print0 | xargs -0 touch -d 2001-01-01")
    planned = make(other, "-n", "all")
    assert "train" not in planned.stdout.partition("Job stats:")[2].partition("total")[0], planned.stdout
    assert not (other / "results" / "runs").exists()  # a dry run lays nothing
    assert make(other, "all").returncode == 0
    assert names(other) == names(trained) and len(names(trained)) == 4
    assert pictures(other) == pictures(trained)
    assert sh(other, "git status --porcelain") == ""

    # Both publish runs of their own; git unites them.
    for folder, figure, name in ((other, "fig02", "two"), (trained, "fig05", "three")):
        for target in ("all", "publish"):
            done = make(folder, target, name=name, figure=figure)
            assert done.returncode == 0, done.stdout
        sh(folder, f"git add --all paper_figures results && git commit --quiet --message 'Publish study {name}'")
    sh(trained, f"git pull --quiet --no-rebase {other} main && dvc pull --quiet")
    assert make(trained, "all").returncode == 0
    assert len(names(trained)) == 12 and sh(trained, "git status --porcelain") == ""

    # A pulled run that does not fit its name is named, set aside and trained again.
    victim = next((trained / "results" / "runs").glob("*alexnet-none*/metrics.csv"))
    victim.chmod(0o644)
    content = victim.read_text()
    victim.unlink()
    victim.write_text(content.replace("0", "1"))
    done = make(trained, "all")
    assert done.returncode == 0, done.stdout
    log = "".join(path.read_text() for path in (trained / "logs" / "train").iterdir())
    assert f"{victim.parent.name}: damaged: metrics.csv does not fit" in log and victim.read_text() == content


def test_what_two_have_published_of_one_study_is_united(shared, tmp_path):
    other = clone(shared, tmp_path / "other")
    for folder, seeds in ((shared, 3), (other, 2)):
        set_seeds(folder, seeds)
        for target in ("all", "publish"):
            done = make(folder, target)
            assert done.returncode == 0, done.stdout
        sh(
            folder,
            "git add config docs/results.md paper_figures results && git commit --quiet --message 'Publish study one'",
        )
    before = pictures(shared), (shared / "docs" / "results.md").read_text()
    sh(shared, f"git pull --quiet --no-rebase -X ours {other} main && dvc pull --quiet")
    united = make(shared, "publish")
    assert "0 of these are new or changed; nothing is left to commit" in united.stdout, united.stdout
    assert len(names(shared)) == 12 and (pictures(shared), (shared / "docs" / "results.md").read_text()) == before


def test_a_remote_that_refuses_leaves_all_as_it_was(trained, tmp_path):
    (tmp_path / "store").write_text("a file where the remote's folder should be")
    refused = make(trained, "publish")
    assert refused.returncode and "error: dvc push: " in refused.stdout, refused.stdout
    assert not list((trained / "results").rglob("*.dvc")) and not list((trained / "results").rglob("*.zip"))
    unknown = make(trained, "publish", more=["publish={remote: nowhere}"])
    line = "error: --config: publish.remote: 'nowhere' is not allowed; allowed: a remote of DVC: embedded"
    assert unknown.returncode and line in unknown.stdout


def test_a_study_whose_rates_are_not_chosen_yet_is_not_trained_to_be_published(shared):
    assert make(shared, "all", figure="fig13").returncode == 0
    shutil.rmtree(shared / "results" / "laptop-one")  # as in a clone that has pulled the runs
    (victim,) = (shared / "results" / "runs").glob("*_m32_b8_*")
    victim.rename(shared / "elsewhere")
    refused = make(shared, "publish", figure="fig13")
    assert refused.returncode and "is not complete: runs of resnet8-bn-batches are missing" in refused.stdout, (
        refused.stdout
    )
    assert not victim.exists()
    (shared / "elsewhere").rename(victim)
    assert make(shared, "publish", figure="fig13").returncode == 0


@pytest.fixture
def table(tmp_path):
    """Three runs of a cell and one of another; of the second there are no weights."""
    store, rows = RunStore(tmp_path), []
    for seed, accuracy, base_lr, weights in (
        (1, 0.5, 1.0, b"a"),
        (2, 0.75, 1.0, None),
        (3, 0.7, 1.0, b"c"),
        (4, 0.6, 2.0, b"d"),
    ):
        run = a_run(seed=seed, base_lr=base_lr, epochs=1)
        store.write(run, "f", an_outcome(run, accuracy), dict.fromkeys(RECORDED, "x"), weights)
        rows.append((run.name("f"), accuracy, base_lr))
    runs = pd.DataFrame(rows, columns=["run", "accuracy", "base_lr"])
    place = dict.fromkeys(RECORDED, "x")
    return runs.assign(experiment="e", status="finished", batch_size=2, bn_batch_size=2, **place), store


@pytest.mark.parametrize(("weights", "best"), [("experiment", [2]), ("cell", [2, 3]), ("none", [])])
def test_whose_weights_go_along(weights, best, table):
    runs, store = table
    assert runs_with_published_weights(runs, check("s", runs, store), store, weights) == [
        runs["run"][row] for row in best
    ]


def test_damaged_weights_are_set_aside_and_the_next_call_does_without_them(table):
    runs, store = table
    records = check("s", runs, store)
    chosen = runs_with_published_weights(runs, records, store, "experiment")
    file = store.weights(records[chosen[0]])
    assert undamaged_weights(records, store, chosen) == [file]
    file.write_bytes(b"C")
    with pytest.raises(UserError, match=rf"{file.name}: damaged: .*; set aside as .*; the run is whole without it"):
        undamaged_weights(records, store, chosen)
    assert runs_with_published_weights(runs, check("s", runs, store), store, "experiment") == [runs["run"][3]]


def test_a_study_that_lacks_a_run_is_refused(table):
    runs, store = table
    (store.root / runs["run"][1] / "run.json").unlink()
    with pytest.raises(UserError, match=r"run.json is missing; study s is published when `all` has made it again"):
        check("s", runs, store)


def test_a_page_is_filled_between_its_marks_alone(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("x\n<!-- s: claims -->\nold\nolder\n<!-- end -->\ny\n<!-- t: claims -->\nz\n<!-- end -->\n")
    fill_marked_parts(page, {"s: claims": r"a \1 table", "u: claims": "nowhere"})
    assert page.read_text() == (
        "x\n<!-- s: claims -->\na \\1 table\n<!-- end -->\ny\n<!-- t: claims -->\nz\n<!-- end -->\n"
    )


def test_a_page_that_is_not_there_is_not_made(tmp_path):
    fill_marked_parts(tmp_path / "results.md", {"s: claims": "a table"})
    assert not list(tmp_path.iterdir())


def test_claims_are_counted_and_reported():
    columns = ["claim", "section", "text", "figures", "absent", "verdict", "differences", "effect", "low", "high"]
    rows = [
        ["C1", "3.1", "small is best", "fig01", "", "supported", "digits, not CIFAR-10", "+1.4 points", 0.5, 5.4],
        ["C6", "3.2", "none", "", "", "not run", "", "", "", ""],
    ]
    text = claims_markdown(pd.DataFrame(rows, columns=columns))
    assert text.startswith("1 supported, 0 refuted, 0 undecided, 1 not run.\n\n| claim | verdict |")
    assert text.endswith(
        "\n| C1: small is best | supported | digits, not CIFAR-10 | +1.4 points (+0.5 to +5.4) | Figure 1 |"
        "\n| C6: none | not run |  |  |  |"
    )
