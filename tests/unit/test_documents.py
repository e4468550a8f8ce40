"""What README.md, docs/ and config/README.md state: each key by the schemas, each number by the study or results."""

import copy
import re
import shutil
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import PROJECT, snakemake

from smallbatch import models
from smallbatch.cluster.slurm_jobs import STOP_BEFORE_LIMIT_S
from smallbatch.data import public_datasets
from smallbatch.data.prepared import Meta
from smallbatch.estimate import job_resources as resources
from smallbatch.estimate.timings import images
from smallbatch.runs.heartbeat import SILENCE
from smallbatch.runs.packs import FEWEST, MOST
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import DEFAULT_BETAS, VALIDATION_FRACTION, Setting
from smallbatch.study.rates import format_base_lr
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import check_config, load_study
from smallbatch.study_file.experiment import MAX_RATE, MIN_RATE
from smallbatch.training.schedule import ONE_CYCLE_PEAK, ONE_CYCLE_START

README = (PROJECT / "README.md").read_text(encoding="utf-8")
CLUSTER, RESULTS, RUNNING, SPEED = (
    (PROJECT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("cluster", "results", "running", "speed")
)
KEYS = (PROJECT / "config" / "README.md").read_text(encoding="utf-8")
CONFIG = read_yaml(PROJECT / "config" / "config.yaml")
SCHEMAS = {
    name: read_yaml(PROJECT / "workflow" / "smallbatch" / "schemas" / f"{name}.yaml") for name in ("config", "study")
}


def rows(head: str, page: str = KEYS) -> list[list[str]]:
    """Cells of the first table under a head of a page."""
    section = page.partition(f"\n{head}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def code(text: str) -> list[str]:
    """What a cell has between backticks."""
    return re.findall(r"`([^`]+)`", text)


def keys(head: str) -> list[str]:
    """Keys that a table explains, those that it explains for several sources once."""
    return list(dict.fromkeys(key for row in rows(head) for key in code(row[0])))


def documented(head: str) -> dict[str, list[str]]:
    """Key -> the cells after it."""
    return {key: row[1:] for row in rows(head) for key in code(row[0])}


def flat(schema: dict, *closed: str) -> list[str]:
    """Keys of a schema with dots, down to those that have no keys of their own or are named in `closed`."""
    found = []
    for key, own in schema["properties"].items():
        below = own.get("properties")
        found += [key] if not below or key in closed else [f"{key}.{name}" for name in flat(own)]
    return found


def test_every_key_of_the_configuration_is_explained_and_no_other():
    assert keys("## config.yaml") == [
        key.replace("datasets", "datasets.NAME") for key in flat(SCHEMAS["config"], "scale")
    ]  # fmt: skip
    assert keys("### Scale") == list(SCHEMAS["config"]["properties"]["scale"]["properties"])
    assert set(keys("### Data sets")) == set(SCHEMAS["config"]["$defs"]["dataset"]["properties"])


def test_every_key_of_a_study_is_explained_and_no_other():
    nested = {"experiments": "experiments.NAME", "figures": "figures.NAME", "claims": "claims.NAME"}
    assert keys("## A study") == [nested.get(key, key) for key in SCHEMAS["study"]["properties"]]
    augment = SCHEMAS["study"]["$defs"]["experiment"]["properties"]["augment"]["properties"]
    assert {*keys("### Augmentation"), "pad", "resized_crop", "flip"} == set(augment)
    assert sorted(keys("### An experiment")) == sorted(SCHEMAS["study"]["$defs"]["experiment"]["properties"])
    assert keys("### A figure")[:1] == ["kind"]
    assert set(keys("### A figure")) == set(SCHEMAS["study"]["$defs"]["figure"]["properties"])
    assert keys("### A claim") == list(SCHEMAS["study"]["$defs"]["claim"]["properties"])


def test_the_kinds_of_figures_are_those_that_there_are():
    kinds = [code(row[1])[0] for row in rows("### A figure") if row[0] in ("`kind`", "")]
    assert kinds == SCHEMAS["study"]["$defs"]["figure"]["properties"]["kind"]["enum"]


@pytest.mark.parametrize(
    ("schema", "head"),
    [
        (SCHEMAS["study"]["$defs"]["experiment"], "### An experiment"),
        (SCHEMAS["config"]["$defs"]["dataset"], "### Data sets"),
        (SCHEMAS["config"]["properties"]["training"], "## config.yaml"),
        (SCHEMAS["config"]["properties"]["publish"], "## config.yaml"),
    ],
)
def test_values_that_are_named_are_those_that_are_allowed(schema, head):
    told = {key.rpartition(".")[2]: cells for key, cells in documented(head).items()}
    named = {key: own["enum"] for key, own in schema["properties"].items() if "enum" in own}
    assert named
    for key, allowed in named.items():
        assert code(told[key][0] if head != "### Data sets" else told[key][1]) == allowed, key


def test_what_an_experiment_is_unless_set():
    told = {key: cells[1] for key, cells in documented("### An experiment").items()}
    required = {key for key, said in told.items() if said == "required"}
    assert required == set(SCHEMAS["study"]["$defs"]["experiment"]["required"])
    own = {one.name: one.default for one in fields(Setting)}
    empty = {"variance_batch_sizes": (), "weight_decay_excludes": (), "clip_norm": None, "metrics": ()}
    budgets = {"epochs", "steps", "images"}
    assert {key: told[key] for key in budgets} == {
        "epochs": "or `steps`, or `images`", "steps": "or `epochs`", "images": "or `epochs`"
    }  # fmt: skip
    for key in told.keys() & own.keys() - required - {"train_images", "betas", "eps", *empty, *budgets}:
        default = yaml.safe_load(told[key].strip("`"))
        assert (tuple(default) if isinstance(default, list) else default) == own[key], key
    assert (own["train_images"], told["train_images"]) == (None, "all")
    assert {key: own[key] for key in empty} == empty and {told[key] for key in empty} == {"none"}
    adam, lion = (list(DEFAULT_BETAS[name]) for name in ("adam", "lion"))
    assert DEFAULT_BETAS["adamw"] == DEFAULT_BETAS["adam"] and told["betas"] == f"`{adam}`; `lion`: `{lion}`"
    assert float(told["eps"]) == own["eps"]
    assert (told["augment"], told["seeds"], told["bn_batch_sizes"]) == ("none", "the study's", "m alone")


def test_models_are_those_that_there_are():
    assert code(documented("### An experiment")["model"][0]) == [
        *models.MODELS, *(f"{package}:NAME" for package in models.PACKAGES)
    ]  # fmt: skip


def test_bounds_are_those_that_are_kept():
    told = documented("## config.yaml")
    training, claims = (SCHEMAS["config"]["properties"][key]["properties"] for key in ("training", "claims"))
    assert told["seeds"][0].endswith(f"from 1 to {SCHEMAS['config']['properties']['seeds']['anyOf'][1]['maximum']:,}")
    for key in ("processes", "side_by_side"):
        assert told[f"training.{key}"][0] == f"whole number from {training[key]['minimum']}"
    packs = training["runs_per_pack"]["anyOf"][1]["minimum"]
    assert told["training.runs_per_pack"][0] == f"`auto` or whole number from {packs}"
    assert f"from {FEWEST} to {MOST}, so that" in told["training.runs_per_pack"][1]
    for key in ("margin", "same", "near"):
        assert told[f"claims.{key}"][0] == "number from 0 to 100" and claims[key] == {"$ref": "#/$defs/points"}
    sizes = documented("### Data sets")
    assert f"up to {SCHEMAS['config']['$defs']['dataset']['properties']['size']['maximum']:,}" in sizes["size"][1]
    rates = documented("### An experiment")["base_lrs"][0]
    assert f"from {format_base_lr(MIN_RATE)} to {format_base_lr(MAX_RATE)}" in rates
    told, own = documented("### An experiment"), {one.name: one.default for one in fields(Setting)}
    start, length = f"eta/{1 / own['warmup_start']:.0f}", f"{100 * own['warmup_fraction']:g} %"
    assert told["warmup"][2].startswith(f"from {start} linearly to eta over the first {length} of training")
    assert f"rises from eta/{1 / ONE_CYCLE_START:.0f} to eta over {100 * ONE_CYCLE_PEAK:g} %" in told["lr_schedule"][2]
    assert (
        VALIDATION_FRACTION == 0.1
        and "a tenth of the training images, held out" in documented("### An experiment")["selection"][2]
    )


def line(text: str) -> str:
    """A page without its breaks of lines."""
    return " ".join(text.split())


def test_what_jobs_ask_for_is_reported_as_it_is():
    text = line(KEYS)
    assert "A job has 2,000 MB for each 256 examples of its largest m" in text
    assert f"asks for {'four' if resources.UNMEASURED == 240 else 'other'} hours" in text
    low, *_, high = resources.MINUTES
    assert f"twice the minutes ({low} to {high:,}, more at each attempt)" in text and "a quarter more than" in text
    assert SILENCE == 300 and "reported as silent after five minutes without an update" in line(RUNNING)
    assert STOP_BEFORE_LIMIT_S == 120 and "Two minutes before its time limit" in CLUSTER


@cache
def study(name: str, **changed):
    return load_study(check_config(CONFIG | {"study": name} | changed))


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(PROJECT)


def with_rates(study):
    """Its planned runs once rates are chosen: which those are does not change how many there are."""
    first = {e.name: dict.fromkeys(e.batch_sizes, e.base_lrs[0]) for e in study.experiments.values() if e.base_lrs}
    chosen = {e.name: first[e.best_of[0]] | first[e.best_of[-1]] for e in study.experiments.values() if e.best_of}
    return study.planned(chosen)


def test_the_status_that_is_shown_has_the_runs_of_laptop():
    shown = re.search(r"^figure  .*?\n(.*?)\n\n", RUNNING, re.MULTILINE | re.DOTALL)[1]
    counts = [line.split() for line in shown.splitlines()]
    laptop = study("laptop")
    expected, planned = {}, with_rates(laptop)
    for figure, spec in laptop.figures.items():
        own = {run for name, run in planned if name in laptop.sources(figure)}
        expected[figure] = sum(run.base_lr == spec.get("base_lr", run.base_lr) for run in own)
    expected["all"] = len({run for _, run in planned})
    assert {name: int(runs) for name, runs, *_ in counts} == expected
    for name, runs, done, diverged, running, waiting, failed in counts:
        states = [0 if count == "-" else int(count) for count in (done, running, waiting, failed)]
        assert sum(states) == int(runs) and int(diverged.replace("-", "0")) <= states[0], name


def test_the_terminal_that_is_shown_has_the_runs_of_the_readmes_first_command():
    told = re.search(r"^snakemake .* report --config 'scale=(\{.*?\})'", README, re.MULTILINE)[1]
    first = load_study(CONFIG | {"scale": read_as_yaml(told)})
    shown = re.findall(rf"^{first.name}: \d+ of (\d+) runs", RUNNING, re.MULTILINE)
    assert shown == [str(len(first.runs()))] * 2 and f"results/{first.name}/report.html" in RUNNING


def weights(setting: Setting) -> int:
    of = public_datasets.PUBLIC_DATASETS[setting.data]
    model = models.build(setting.model, of.shape, of.classes, norm=setting.norm, norm_layers=setting.norm_layers)
    return sum(own.numel() for own in model.parameters())


def stored(runs) -> float:
    """Bytes of records and of kept weights: of each cell those of the best seed, 4 bytes each."""
    cells = {(run.setting, run.batch_size, run.bn_batch_size, run.base_lr) for run in runs}
    kept = {setting: weights(setting) for setting in {run.setting for run in runs}}
    return sum(2000 + 90 * run.setting.epochs for run in runs) + sum(4 * kept[setting] for setting, *_ in cells)


def test_sizes_of_the_paper_are_those_of_its_study():
    runs = {run for _, run in with_rates(study("paper"))}
    of = public_datasets.PUBLIC_DATASETS
    seen = sum(
        images(run.setting, run.batch_size, of[run.setting.data].train, of[run.setting.data].test)[0] for run in runs
    )
    told = f"{len(runs):,} runs with one seed, {seen / 1e10:.2f}e10 gradients, {stored(runs) / 1e9:.0f} GB of results"
    assert told in line(RUNNING)
    five = load_study(CONFIG | {"study": "paper", "seeds": 5})
    assert f"with {len({run for _, run in with_rates(five)}):,} made runs (the paper with five seeds" in line(RUNNING)


def read_as_yaml(text: str):
    return yaml.safe_load(line(text))


def test_the_table_of_speeds_is_the_one_that_was_measured():
    measured = (PROJECT / "benchmarks" / "results" / "speed-cpu.md").read_text(encoding="utf-8")
    table = re.search(r"(?:^\|.*\n)+", measured, re.MULTILINE)[0]
    assert table in SPEED
    ratios = [float(row.split(" | ")[8].partition(" ")[0]) for row in table.splitlines()[2:]]
    assert f"on two cores, {min(ratios):.1f} to {max(ratios):.0f} times as fast as the usual PyTorch loop" in line(
        README
    )


def laid_out(name: str, folder: Path) -> RunStore:
    """The published runs of a study, from the remote that lies in the repository."""
    from smallbatch.runs.bundles import import_published

    (folder / "results" / "published").mkdir(parents=True)
    for pointer in (PROJECT / "results" / "published").glob(f"{name}-*.dvc"):
        (out,) = read_yaml(pointer)["outs"]
        stored = PROJECT / ".dvc" / "store" / "files" / "md5" / out["md5"][:2] / out["md5"][2:]
        if not stored.exists():
            pytest.skip("the remote in the repository is not here")
        shutil.copy(stored, folder / "results" / "published" / out["path"])
    store = RunStore(folder / "results")
    import_published(store)
    return store


def meta_of(name: str, store: RunStore, folder: Path) -> Meta:
    """The data of a published study: digits as they are prepared, of the images of CIFAR-10 what a record knows."""
    from smallbatch.data import prepare

    if name != "cifar10":
        return prepare("digits", CONFIG["datasets"]["digits"], folder / "data" / "digits", folder)
    size, record = public_datasets.PUBLIC_DATASETS["cifar10"], store.read(next(store.root.iterdir()).name)
    classes = ("class",) * size.classes
    return Meta("cifar10-jpeg", classes, size.shape, (), (), size.train, size.test, record.fingerprint)


class Published(NamedTuple):
    """A published study: its data, its table of runs, the claims judged by it, and how many images its runs saw."""

    meta: Meta
    runs: pd.DataFrame
    claims: pd.DataFrame
    images: int


@cache
def published_as(name: str, folder: Path) -> Published:
    from smallbatch.analysis.claims.verdict_table import judge
    from smallbatch.analysis.selection import rates_so_far
    from smallbatch.analysis.table import collect, epochs_table, runs_table, variance_table

    config = copy.deepcopy(CONFIG) | {"study": name}
    config["datasets"]["cifar10"]["label"] = "cifar10-jpeg"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        planned_study = load_study(config)
    store = laid_out(name, folder)
    meta = meta_of(name, store, folder)
    metas = {meta.label: meta}
    threshold = CONFIG["convergence_threshold"]
    grids = runs_table(planned_study.planned(), collect(planned_study.planned(), store, metas), metas, threshold)
    planned = planned_study.planned(rates_so_far(planned_study, grids))
    records = collect(planned, store, metas)
    tables = runs_table(planned, records, metas, threshold), epochs_table(records), variance_table(records)
    claims = judge(planned_study.figures, *tables, CONFIG["claims"], np.random.default_rng(0))
    return Published(meta, tables[0], claims, sum(record.outcome.images for record in records.values()))


PUBLISHED = ("cifar10", "laptop", "adamw")
IN_README = PUBLISHED[:2]
DECIDED = ("supported", "refuted")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return lambda name: published_as(name, folder / name)


def between(name: str) -> str:
    return re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", RESULTS, re.DOTALL)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_results_are_those_of_the_published_runs(name, published):
    from smallbatch.publish.dvc_publish import results_markdown

    assert between(f"{name}: results") == results_markdown(published(name).runs)


def test_each_verdict_that_changed_is_reported_and_so_is_each_that_did_not():
    judged = {row[0].partition(":")[0]: row[1] for row in rows("<!-- laptop: claims -->", RESULTS)}
    changed = rows("### Verdicts that changed", RESULTS)
    told = {claim: now for claim, _, now, _ in changed}
    assert all(before.partition(",")[0] != now for _, before, now, _ in changed)
    section = line(RESULTS.partition("### Verdicts that changed")[2].partition("\n## ")[0])
    for claims, verdict in re.findall(r"((?:C\d+(?:, and | and |, )?)+) (?:is|are) (\w+(?: run)?)", section):
        told |= dict.fromkeys(re.findall(r"C\d+", claims), verdict)
    assert told == judged and len(judged) == 26


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_verdicts_are_those_of_the_published_runs(name, published):
    from smallbatch.publish.dvc_publish import claims_markdown

    claims = published(name).claims
    assert between(f"{name}: claims") == claims_markdown(claims), claims.to_csv(index=False)


def test_what_is_read_from_the_verdicts_on_adamw_is_so(published):
    theirs, ours = (
        {row[0].partition(":")[0]: row[1] for row in rows(f"<!-- {name}: claims -->", RESULTS)}
        for name in ("laptop", "adamw")
    )
    same = {claim: ours[claim] for claim in ours if ours[claim] == theirs[claim] and ours[claim] in DECIDED}
    assert same == {"C17": "supported", "C20": "supported", "C24": "supported", "C13": "refuted"}
    others = {claim for claim in ours if theirs[claim] in DECIDED and ours[claim] not in (theirs[claim], "not run")}
    assert others == {"C3", "C8"} and {ours[claim] for claim in others} == {"undecided"}
    assert not [claim for claim in ours if ours[claim] in DECIDED and theirs[claim] != ours[claim]]
    runs = published("adamw").runs
    assert all(int(row[5]) <= 32 for row in rows("<!-- adamw: results -->", RESULTS))
    assert ours["C23"] == "undecided" and set(runs["status"]) == {"finished"}
    assert "As by `laptop`, C17, C20 and C24 are supported, and C13 is refuted. C3 and C8 are supported there" in line(
        RESULTS
    )


def test_the_readme_says_of_claims_what_was_judged(published):
    from smallbatch.publish.report import claim_rows

    by_study = [{claim["claim"]: claim for claim in claim_rows(published(name).claims)} for name in IN_README]
    shown = rows("## Does the paper hold?", README)
    assert len(shown) == 9
    for text, *cells in shown:
        claims = [by_name[re.search(r"\((C\d+)\)$", text)[1]] for by_name in by_study]
        assert cells == [f"{claim['verdict']}, {claim['effect']} ({claim['interval']})" for claim in claims], text
    images, digits = (published(name).claims["verdict"].value_counts() for name in IN_README)
    assert (
        f"Of the {images.sum()} claims {images['supported']} are supported, none is refuted, {images['undecided']} are "
        f"undecided, and {images['not run']} are not run."
    ) in line(README)
    assert "refuted" not in images
    assert (
        f"of the {digits.sum()} claims {digits['supported']} are supported, {digits['refuted']} is refuted, "
        f"{digits['undecided']} are undecided, and {digits['not run']} are not run."
    ) in line(README)


def test_what_was_trained_on_images_is_what_the_documents_say(published):
    _, runs, _, images_seen = published("cifar10")
    runs = runs.drop_duplicates("run")
    assert set(runs["device"]) == {"NVIDIA H200"} and set(runs["train_images"]) == {10_000}
    assert f"trained {len(runs)} networks" in line(README) and set(runs["epochs"]) == {15}
    assert f"All {len(runs)} runs, of {images_seen / 1e6:.1f} million images, were trained on one" in line(RESULTS)


def test_the_tables_beside_the_papers_figures_are_those_of_the_published_runs(published):
    runs = published("cifar10").runs
    own = runs[(runs["batch_size"] == runs["bn_batch_size"]) & (runs["experiment"] != "resnet8-bn-batches")]
    cells = own.groupby(["experiment", "batch_size", "base_lr"])
    best = 100 * cells["accuracy"].mean().groupby(["experiment", "batch_size"]).max().unstack()
    rates = cells["converged"].mean().groupby(["experiment", "batch_size"]).sum().unstack()
    order = ["alexnet", "resnet8", "alexnet-bn", "alexnet-bn-conv", "resnet8-bn-augmented", "resnet8-bn-warmup"]
    shown = rows("### Beside the paper's figures", RESULTS)
    assert [row[1:8] for row in shown[:6]] == [[f"{value:.1f}" for value in best.loc[name]] for name in order]
    assert [row[9] for row in shown[:6]] == [str(best.loc[name].idxmax()) for name in order]
    shown = rows("### The rates that converge", RESULTS)
    assert [row[1:8] for row in shown] == [[f"{value:.1f}" for value in rates.loc[name]] for name in order]
    by_bn = (
        100
        * runs[runs["experiment"] == "resnet8-bn-batches"].groupby(["batch_size", "bn_batch_size"])["accuracy"].mean()
    )
    shown = rows("### BN batch against SGD batch", RESULTS)
    assert [row[1:8] for row in shown] == [
        ["" if np.isnan(value) else f"{value:.1f}" for value in line] for line in by_bn.unstack().to_numpy()
    ]


def test_the_readme_is_short_and_says_what_the_default_study_takes():
    assert 900 <= len(README.split()) <= 1200
    planned, of = {run for _, run in with_rates(study("laptop"))}, public_datasets.PUBLIC_DATASETS["digits"]
    assert (
        f"trains {len(planned)} small networks on the {of.train + of.test:,} hand-written digits that scikit-learn "
        "carries: 8 to 9 minutes on two cores without a GPU (21 without AVX-512), and "
        f"{stored(planned) / 1e6:.0f} MB"
    ) in line(README)


@pytest.mark.parametrize(("name", "seeds"), [("laptop", [1, 2, 3, 4, 5]), ("adamw", [1, 2, 3])])
def test_what_is_reported_of_the_published_runs_is_what_their_records_say(name, seeds, published):
    runs, meta = published(name).runs, published(name).meta
    text, once = line(RESULTS), runs.drop_duplicates("run")
    told = f"(`digits`: {meta.train:,} training and {meta.test} test images of 8x8 pixels), 10 epochs, "
    assert f"{told}seeds 1 to {len(seeds)}" in text
    assert set(once["epochs"]) == {10} and sorted(set(once["seed"])) == seeds
    assert f"All {len(once)} runs were trained on" in text and set(once["status"]) <= {"finished", "diverged"}
    ((_, (torch, python, commit)),) = once[["torch", "python", "commit"]].drop_duplicates().iterrows()
    assert f"torch {torch}, Python {python}, commit `{commit[:12]}`" in text
    assert set(once["precision"]) == {"float32"} and "one thread per run, float32" in text
    assert set(once["threads"]) == {"1"}


def test_what_a_row_of_a_run_has_is_reported(published):
    runs = published("laptop").runs
    told = next(row[1] for row in rows("## What comes out", RUNNING) if "runs.csv" in row[0])
    assert told.startswith(
        "one row per run: all settings, accuracy (median of the last 5 epochs, or of all where there are fewer), "
        "converged, diverged_at, "
    )
    columns = {"images/s": "images_per_second", "peak memory": "peak_memory_mb", "when it ended": "ended"}
    last = told.partition("fewer), ")[2].replace("versions", "python, torch, smallbatch").split(", ")
    assert {columns.get(name, name) for name in last} <= set(runs.columns)


@pytest.mark.slow
def test_the_picture_of_the_stages_has_the_rules_and_what_they_need(project, monkeypatch):
    monkeypatch.syspath_prepend(PROJECT / "docs")
    import pipeline

    graph = snakemake(project, "--rulegraph", "dot", "--", "all", "crate").stdout
    drawn = re.findall(r'id="([a-z]+)-([a-z]+)"', (PROJECT / "docs" / "pipeline.svg").read_text(encoding="utf-8"))
    assert sorted(drawn) == pipeline.edges(graph)
