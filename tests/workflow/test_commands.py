"""Every command that README.md, docs/ and config/README.md show is run, as it stands, or is refused here as unknown."""

import re
import shutil
import subprocess
import tomllib

import pytest
from helpers import PROJECT, write_study
from helpers.pages import run, shown
from PIL import Image

TEN_MINUTES_PAGE = PROJECT / "docs" / "ten-minutes.md"
"""test_ten_minutes.py runs its commands."""

PAGES = [PROJECT / "README.md", PROJECT / "config" / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]

SMALL = {
    "title": "Small",
    "seeds": [3],
    "experiments": {
        "alexnet": {
            "data": "digits", "model": "alexnet", "weight_decay": 5e-4, "epochs": 10, "batch_sizes": [2],
            "base_lrs": ["2^-8"],
        },
    },
    "figures": {"fig01": {"kind": "accuracy", "title": "A", "experiments": ["alexnet"]}},
}  # fmt: skip
"""Stands in for every study: one run of `laptop`, of which the pages show how to use its weights."""

TOGETHER = """
git init && git add -A && git commit -m 'As downloaded'
mkdir -p /scratch/me/runs /scratch/me/checkpoints
ln -s /scratch/me/runs /scratch/me/checkpoints results/
python -m smallbatch check --config study=laptop
python -m smallbatch check --config study=mine
python -m smallbatch prepare --config study=laptop
snakemake -n all
snakemake --profile slurm -n figures
snakemake cost
snakemake --cores 2 report --config 'scale={name: first, figures: [fig01]}'
snakemake --cores 8 figure:fig01
snakemake --cores 8 experiment:alexnet
snakemake --cores 8 claims
python -m smallbatch status
watch -n 10 python -m smallbatch status
snakemake preview --nolock
snakemake --cores 8 all
snakemake --list
snakemake --cores 8 trained
snakemake --cores 8 figures
python -m smallbatch train --config study=laptop --experiment alexnet
python -m smallbatch evaluate digits_alexnet-none_m2_log2lr-8_seed3-5546e31d5fcf
snakemake --report report.zip
snakemake crate
snakemake cost --config study=mine
snakemake --cores 8 all --config study=mine
python -m smallbatch compare laptop mine
snakemake cost --config study=paper
snakemake --cores 8 figures --config study=paper
snakemake --cores 8 all --config study=paper 'scale={name: glimpse, epochs: 0.05, batch_sizes: [2, 8, 32, 128]}'
python -m smallbatch status --config study=paper
snakemake --cores 8 all --config study=cifar10-quick
snakemake --unlock
python -m smallbatch prepare
rm -r ~/.cache/smallbatch
CXX=clang++ snakemake --cores 8 all
XDG_CACHE_HOME=$PWD/cache snakemake --cores 8 all
snakemake --cores 8 all --set-resources train:mem_mb=8000
dvc pull
rm -r paper_figures/laptop
snakemake --cores 2 all
git status --short paper_figures
snakemake publish
git pull --no-rebase -X ours && dvc pull && snakemake --cores 8 publish
dvc remote add --default lab ssh://host/smallbatch && dvc remote modify lab verify true
dvc pull --remote embedded data.dvc && echo "- path: data/cifar10" >> data.dvc && dvc commit --force data.dvc
dvc fetch --remote embedded && dvc push --remote lab
""".strip().splitlines()  # fmt: skip
"""Those that are run one after the other, in one copy of the project."""

ONLY_PLANNED = {"snakemake --profile slurm figures": "snakemake --profile slurm figures -n"}
"""What needs a cluster; tests/slurm has one."""

MADE = ("all", "env", "test", "test-avx2", "mutants", "docs", "lock", "bench", "pipeline", "env-reader")
"""Targets of make, of which is checked that make knows what to do: they install, which takes minutes."""

INSTALLED = (
    ". .venv/bin/activate",
    ". .venv-reader/bin/activate",
    "pip install .",
    "pip install '.[training]'",
    "pip install '.[training,sharing]'",
    "pip install '.[training,hdf5]'",
    "pip install '.[training,sharing,development]'",
    "pip install '.[tensorboard,mlflow,wandb]'",
)
"""What installs for minutes, or needs what was installed; test_install.py does so without the dependencies."""

LONG = {
    **{f"python -m smallbatch export {tracker} laptop": f"python -m smallbatch export {tracker} laptop --help"
       for tracker in ("tensorboard", "mlflow", "wandb")},
    "python -m smallbatch export tensorboard laptop --follow": "python -m smallbatch export tensorboard --help",
    "pytest -m gpu": "pytest -m gpu --collect-only tests/engine/test_graphs.py",
    "pytest": "pytest --collect-only tests/unit/test_code.py",
    "SMALLBATCH_SLURM=required pytest -m slurm": "SMALLBATCH_SLURM=required pytest -m slurm --collect-only tests/slurm",
    "python tests/faults/matrix.py": "python tests/faults/matrix.py --help",
    "python tests/faults/kills.py": "python tests/faults/kills.py --help",
    "python tests/faults/fuzz.py --count 100000": "python tests/faults/fuzz.py --count 1 --kind metrics.csv",
    "python benchmarks/intervals.py": "python benchmarks/intervals.py 1",
    "python benchmarks/verdicts.py": "python benchmarks/verdicts.py --studies 1 C1",
    "python benchmarks/power.py": "python benchmarks/power.py C18",
    "python benchmarks/optimizers.py": "python benchmarks/optimizers.py --help",
    "python benchmarks/growth.py --runs 2200 4400 11000": "python benchmarks/growth.py --runs 2200 4400 11000 --help",
    "python benchmarks/decoding.py FOLDER_OF_JPEGS": "python benchmarks/decoding.py FOLDER_OF_JPEGS",
    "PYTHONPATH=workflow python benchmarks/visit.py --device cuda --out visit.json --steps kernels": (
        "python benchmarks/visit.py --device cuda --out visit.json --steps kernels --help"
    ),
    "PYTHONPATH=workflow python benchmarks/visit.py --device cuda --out visit.json": (
        "python benchmarks/visit.py --device cuda --out visit.json --help"
    ),
}  # fmt: skip
"""What takes hours, a GPU or other packages, and a part of it that takes seconds; other tests run more of each."""


def test_every_command_that_is_shown_is_run_here_and_no_other():
    known = {
        *TOGETHER,
        *shown(TEN_MINUTES_PAGE),
        *ONLY_PLANNED,
        *INSTALLED,
        *LONG,
        *(f"make {target}" for target in MADE),
    }
    assert set(shown(*PAGES)) == known


def test_every_block_says_what_it_is_so_that_no_command_hides():
    for page in PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(fences[::2]) <= {"sh", "python", "yaml", "text"}, page
        assert set(fences[1::2]) <= {""}, page


@pytest.mark.parametrize("target", MADE)
def test_make_knows_its_targets(target):
    done = subprocess.run(["make", "--dry-run", target], cwd=PROJECT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_what_is_installed_is_what_the_project_names():
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = [re.findall(r"\w+", listed) for listed in re.findall(r"\[(.*?)\]", " ".join(INSTALLED))]
    assert {extra for listed in named for extra in listed} == set(extras)
    makefile = (PROJECT / "Makefile").read_text()
    for kind, activation in zip(("BIN", "READER"), INSTALLED, strict=False):
        folder = activation.removeprefix(". ").removesuffix("/bin/activate")
        assert re.search(rf"^{kind} := {re.escape(folder)}(/bin)?$", makefile, re.MULTILINE)


@pytest.fixture
def downloaded(project, tmp_path):
    """The project as an archive of it would have it, with small studies."""
    if not shutil.which("git") or not (PROJECT / ".dvc" / "store").exists():
        pytest.skip("without git and the remote in the repository there is nothing to share")
    for name in (".gitignore", ".dvcignore", ".gitattributes", "data.dvc"):
        shutil.copy(PROJECT / name, project)
    (project / ".dvc").mkdir()
    shutil.copy(PROJECT / ".dvc" / "config", project / ".dvc")
    shutil.copytree(PROJECT / ".dvc" / "store", project / ".dvc" / "store")
    for file in PROJECT.glob("results/*/*.dvc"):
        copied = project / file.relative_to(PROJECT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copied)
    for name in ("laptop", "cifar10-quick", "paper", "mine"):
        write_study(project, name, SMALL)
    return project


def test_commands_work_one_after_the_other(downloaded, home):
    for command in TOGETHER:
        if command.startswith("git pull"):
            run(downloaded, "git add -A && git commit -m Published && git clone --quiet --bare . ../hub", home)
            run(
                downloaded,
                "git remote add origin ../hub && git fetch --quiet && git branch --set-upstream-to origin/main",
                home,
            )
        if "data/cifar10" in command:
            run(downloaded, "mkdir data/cifar10 && echo {} > data/cifar10/meta.json", home)
        printed = run(downloaded, command, home)
        if "evaluate" in command:
            assert "equal to the recorded" in printed
    assert (downloaded / "results" / "laptop" / "report.html").exists() and (downloaded / "report.zip").exists()
    assert (downloaded / "results" / "laptop" / "laptop.crate.zip").exists()
    assert len(list((downloaded.parent / "lab").rglob("*"))) > 10


@pytest.mark.parametrize("command", ONLY_PLANNED)
def test_what_needs_a_cluster_is_planned(command, project, home):
    assert "This was a dry-run" in run(project, ONLY_PLANNED[command], home)


@pytest.mark.parametrize("command", LONG)
def test_what_takes_long_is_begun(command, home, tmp_path):
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "one.jpg")
    assert run(PROJECT, LONG[command].replace("FOLDER_OF_JPEGS", str(tmp_path)), home)
