"""What a study will cost, and what there is of it so far."""

import json
import re
from pathlib import Path

from helpers import snakemake, write_study
from helpers.cifar import archive, cifar10_contents
from helpers.pictures import divided
from helpers.workflows import jobs, trained

from smallbatch.core.files import read_sealed, write_sealed
from smallbatch.data.download import md5_of
from smallbatch.data.prepared import read_meta
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import load_study


def test_cost_is_reported_before_anything_is_trained(tiny):
    done = snakemake(tiny, "--config", "study=tiny", "--", "cost")
    assert done.returncode == 0, done.stdout
    assert re.search(r"fig01 +4 +5.12e\+02 ", done.stdout) and re.search(r"all +8 ", done.stdout), done.stdout
    assert not trained(tiny) and not (tiny / "data/digits").exists()
    jobs_follow_it(tiny)


def test_cost_prepares_what_tells_its_size_by_that_alone(project, tmp_path):
    """Class folders of one's own, and a part of the original: counted as the original they would cost far more."""
    divided(tmp_path / "pictures")  # 6 images to train on
    small = archive(tmp_path, cifar10_contents(per_batch=3))  # 15
    datasets = {
        "digits": {"source": "image-folder", "path": f"{tmp_path}/pictures", "size": 8, "label": "pets"},
        "cifar10": {"source": "cifar10", "archive": str(small), "md5": md5_of(small), "label": "small"},
    }
    grid = {"model": "alexnet", "weight_decay": 0, "epochs": 1, "batch_sizes": [2], "base_lrs": ["2^-8"]}
    experiments = {"pets": grid | {"data": "digits"}, "small": grid | {"data": "cifar10"}}
    figures = {name: {"kind": "accuracy", "title": name, "experiments": [name]} for name in experiments}
    study = {"title": "Own", "seeds": [1], "experiments": experiments, "figures": figures}
    write_study(project, "own", study)
    asked = ("--cores", "1", "--config", "study=own", f"datasets={json.dumps(datasets)}", "--", "cost")
    assert jobs(snakemake(project, "-n", *asked).stdout) == {"cost": 1, "prepare": 2}
    done = snakemake(project, *asked)
    assert jobs(done.stdout) == {"cost": 1, "prepare": 2}, done.stdout
    assert re.search(r"^ *pets +1 +6\.00e\+00 ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^ *small +1 +1\.50e\+01 ", done.stdout, re.MULTILINE), done.stdout
    assert jobs(snakemake(project, *asked).stdout) == {"cost": 1}
    experiments["pets"]["train_images"] = 7
    write_study(project, "own", study)
    refused = snakemake(project, *asked)
    words = "experiments.pets.train_images: 7 is not allowed; allowed: whole numbers up to 6"
    assert refused.returncode == 1 and words in refused.stdout, refused.stdout


def jobs_follow_it(project):
    """Training jobs ask for the memory and time that were measured, instead of what does for most."""
    prepared = snakemake(project, "--cores", "1", "--config", "study=tiny", "--", "datasets")
    assert prepared.returncode == 0, prepared.stdout
    timings = project / "results/tiny/cost.json"
    known, asked = read_sealed(timings), ("-n", "--config", "study=tiny", "--", "figures")
    assert known["device"] and {kind["model"] for kind in known["kinds"]} == {"alexnet", "resnet8"}
    assert re.search(r"\(4 runs, about 0:0\d; at most (1000|1500) MB, 10 min\)", snakemake(project, *asked).stdout)
    for kind in known["kinds"]:
        kind["speeds"] = {m: speed | {"training": 5.0, "memory": 3.1e9} for m, speed in kind["speeds"].items()}
    write_sealed(timings, known)
    # 4 runs of 128 images make 43 minutes, twice that and 5 are 90; a quarter more of memory is 3875.
    assert "(4 runs, about 42:40; at most 4000 MB, 120 min)" in snakemake(project, *asked).stdout
    timings.unlink()
    assert "(4 runs; at most 2000 MB, 240 min)" in snakemake(project, *asked).stdout


def test_preview_draws_what_there_is_each_time(tiny, monkeypatch):
    asked = ("--cores", "1", "--config", "study=tiny", "--", "preview")
    early = snakemake(tiny, *asked)
    assert early.returncode != 0 and "not prepared yet" in early.stdout
    assert snakemake(tiny, "--cores", "1", "--config", "study=tiny", "--", "datasets").returncode == 0
    picture = tiny / "results/tiny/preview/fig01.png"
    picture.parent.mkdir(parents=True)
    picture.with_name("fig99.png").touch()
    for _ in range(2):
        done = snakemake(tiny, *asked)
        assert done.returncode == 0, done.stdout
        assert "0 of 8 runs exist" in done.stdout and picture.stat().st_size > 1000
        assert {path.name for path in picture.parent.iterdir()} == {"fig01.png", "fig13.png"}
        picture.unlink()
    monkeypatch.chdir(tiny)
    study = load_study(read_yaml(Path("config/config.yaml")) | {"study": "tiny"})
    name = study.runs()[0].name(read_meta(Path("data/digits/meta.json")).fingerprint)
    (tiny / "results/runs" / name).mkdir(parents=True)
    done = snakemake(tiny, *asked)
    assert f"results/runs/{name}: damaged: run.json is missing; not drawn" in done.stdout, done.stdout
    touched = snakemake(tiny, "--touch", *asked)
    assert touched.returncode != 0 and "error: command line: --touch is not allowed" in touched.stdout
    lock = tiny / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("results/another")
    beside = snakemake(tiny, *asked)
    assert beside.returncode != 0 and "locks: another call of snakemake works in this folder; wait" in beside.stdout
    assert snakemake(tiny, "--nolock", *asked).returncode == 0 and lock.exists()
    lock.unlink()
    stray = tiny / "paper_figures/tiny/fig99.png"
    stray.parent.mkdir(parents=True)
    stray.touch()
    done = snakemake(tiny, *asked)
    assert "fig99.png: of no figure of config/studies/tiny.yaml; nothing brings it up to date" in done.stdout
