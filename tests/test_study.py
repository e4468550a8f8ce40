"""Studies: expansion, identity, and every mistake told in one line before any work."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT, a_run

from smallbatch import study as studies
from smallbatch.errors import UserError
from smallbatch.packs import Plan, cut, row
from smallbatch.settings import read_yaml
from smallbatch.store import Outcome, RunStore
from smallbatch.study import CHOSEN_LATER, Run, Study
from smallbatch.study_file import check_config, load_study

CONFIG = yaml.safe_load((PROJECT / "config" / "config.yaml").read_text())
GOOD = {
    "title": "A study",
    "seeds": [1, 2],
    "experiments": {
        "small": {
            "data": "digits",
            "model": "alexnet",
            "weight_decay": 5e-4,
            "epochs": 2,
            "norm": "batch",
            "batch_sizes": [4, 8],
            "base_lrs": ["2^-8", 0.001],
        }
    },
    "figures": {"fig01": {"kind": "accuracy", "title": "One", "experiments": ["small"]}},
}


@pytest.fixture(autouse=True)
def in_a_folder_of_studies(tmp_path, monkeypatch):
    (tmp_path / "config" / "studies").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


def load(change=None, name="mine", **config):
    values = yaml.safe_load(yaml.safe_dump(GOOD, sort_keys=False))
    if isinstance(change, dict):
        small(values).update(change)
    elif change:
        change(values)
    Path(f"config/studies/{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return load_study(CONFIG | {"study": name} | config)


def test_a_study_expands_into_its_grid_with_every_seed():
    runs = load().runs()
    assert [(run.batch_size, run.base_lr, run.seed) for run in runs] == [
        (m, lr, seed) for m in (4, 8) for lr in (2**-8, 0.001) for seed in (1, 2)
    ]
    assert all(run.bn_batch_size == run.batch_size and run.setting.lr_drops == (0.5, 0.75) for run in runs)


def test_of_the_bn_batches_those_up_to_m_are_taken():
    pairs = {
        (run.batch_size, run.bn_batch_size) for run in load(lambda v: small(v).update(bn_batch_sizes=[2, 8])).runs()
    }
    assert pairs == {(4, 2), (8, 2), (8, 8)}


def test_runs_shared_by_experiments_are_trained_once():
    def share(values):
        values["experiments"]["again"] = {**small(values), "batch_sizes": [8, 16]}

    study = load(share)
    assert len(study.planned()) == 16 and len(study.runs()) == 12


def test_names_are_readable_and_end_in_a_hash():
    name = a_run(batch_size=8, b=4, base_lr=2**-9, seed=3, norm="batch").name("f" * 64)
    assert name.startswith("made_alexnet-batch_m8_b4_log2lr-9_seed3-")
    assert len(name.rpartition("-")[2]) == 12


def test_everything_that_can_change_the_numbers_changes_the_name(monkeypatch):
    base = a_run()
    changes = [
        a_run(batch_size=8), a_run(b=2), a_run(base_lr=0.1), a_run(seed=2), a_run(model="resnet8"), a_run(norm="group"),
        a_run(norm_layers="conv"), a_run(weight_decay=0.0), a_run(epochs=3), a_run(lr_drops=(0.5,)), a_run(warmup=True),
        a_run(augment_pad=1), a_run(augment_flip=True), a_run(train_images=5), a_run(data="other"),
    ]  # fmt: skip
    names = {run.name("f").rpartition("-")[2] for run in [base, *changes]} | {base.name("g").rpartition("-")[2]}
    monkeypatch.setattr(studies, "PROTOCOL", studies.PROTOCOL + 1)
    names.add(base.name("f").rpartition("-")[2])
    assert len(names) == len(changes) + 3
    assert set(base.settings) == {"batch_size", "bn_batch_size", "base_lr", "seed", *vars(base.setting)}


def test_settings_lead_back_to_the_run():
    import json

    run = a_run(b=2, base_lr=0.003, norm="batch", train_images=7)
    assert Run.from_settings(json.loads(json.dumps(run.settings))) == run


def test_packs_hold_every_run_once_and_rows_whole():
    study = load(lambda v: small(v).update(batch_sizes=[2, 4, 8, 16], bn_batch_sizes=[2, 4]))
    runs, packs = study.runs(), list(cut(study, 8).values())
    assert sorted((run for pack in packs for run in pack.runs), key=runs.index) == runs
    assert len(packs) == 4 and len({pack.name for pack in packs}) == 4
    for key in {row(run) for run in runs}:
        assert sum(any(row(run) == key for run in pack.runs) for pack in packs) == 1
    assert list(cut(study, 8).values()) == packs


def base_and_dependent(values):
    values["experiments"]["later"] = small(values) | {
        "bn_batch_sizes": [4], "base_lrs": {"best_of": ["small"]}, "batch_sizes": [4, 8]
    }  # fmt: skip


def test_rates_are_taken_from_other_experiments():
    later = load(base_and_dependent).experiments["later"]
    assert {run.base_lr for run in later.runs()} == {CHOSEN_LATER}
    chosen = [(run.batch_size, run.base_lr) for run in later.runs({4: 0.5, 8: 0.25})]
    assert chosen == [(4, 0.5), (4, 0.5), (8, 0.25), (8, 0.25)]


def test_packs_keep_their_names_when_rates_are_chosen_and_then_find_shared_runs(tmp_path):
    study, store = load(base_and_dependent), RunStore(tmp_path)
    plan = Plan(study, 100, store)
    assert [pack.experiment for pack in plan.packs.values()] == ["small", "later"]
    # Rate 2^-8 with b = m = 4 is a run of the grid, b = 4 < m = 8 is not.
    for run in study.experiments["small"].runs():
        store.write(run, "print", Outcome([], 1, 1.0, 1, 1, 1, []), {}, None)
    assert plan.pending("small", "print").packs == []
    pending = plan.pending("later", "print", {4: 2**-8, 8: 2**-8})
    assert [pack.experiment for pack in pending.packs] == ["later"] and pending.records == ""
    only_shared = replace(study.experiments["later"], batch_sizes=(4,))
    study = replace(study, experiments=study.experiments | {"later": only_shared})
    assert Plan(study, 100, store).pending("later", "print", {4: 2**-8}).packs == []


def test_the_digest_of_an_experiment_s_records_changes_with_each_of_them(tmp_path):
    study, store = load(base_and_dependent), RunStore(tmp_path)
    plan, runs = Plan(study, 100, store), list(study.experiments["small"].runs())
    digests = set()
    for seconds in (1.0, 2.0):
        for run in runs:
            store.write(run, "print", Outcome([], 1, seconds, 1, 1, 1, []), {}, None)
            digests.add(plan.pending("small", "print").records)
    # None while runs are missing, one when all are there, and another with each that is trained anew.
    assert "" in digests and len(digests) == 2 + len(runs)


def test_packs_whose_rates_others_take_are_awaited_also_where_another_experiment_trains_them(tmp_path):
    def share(values):
        base_and_dependent(values)
        later = values["experiments"].pop("later")
        again = small(values) | {"batch_sizes": [4]}  # of the same runs as `small`, but not all
        values["experiments"] |= {
            "again": again,
            "later": later | {"batch_sizes": [4], "base_lrs": {"best_of": ["again"]}},
        }

    plan = Plan(load(share), 4, RunStore(tmp_path))
    assert {run.batch_size for name in plan.awaited for run in plan.packs[name].runs} == {4}
    assert {plan.packs[name].experiment for name in plan.awaited} == {"small"}
    assert Plan(load(), 4, RunStore(tmp_path)).awaited == frozenset()


def test_a_run_that_experiments_share_is_in_one_pack():
    study = load(lambda v: v["experiments"].update(again=small(v) | {"batch_sizes": [8, 16]}))
    packs = cut(study, 100).values()
    assert [(pack.experiment, len(pack.runs)) for pack in packs] == [("small", 8), ("again", 4)]
    assert len(study.planned()) == 16 and len(study.runs()) == 12


def test_experiments_and_the_configuration_have_seeds_of_their_own():
    assert {run.seed for run in load(dict(seeds=[7])).runs()} == {7}
    assert {run.seed for run in load(dict(seeds=[7]), seeds=3).runs()} == {1, 2, 3}


def test_a_study_goes_through_json_unchanged():
    import json

    study = load(base_and_dependent, scale={"name": "less", "epochs": 0.5})
    assert Study.from_json(json.loads(json.dumps(study.as_json()))) == study


def test_scale_makes_a_smaller_study_of_another_name():
    study = load(scale={"name": "less", "epochs": 0.5, "train_images": 100, "batch_sizes": [4], "base_lrs": ["2^-8"]})
    assert study.name == "mine-less" and study.scale["epochs"] == 0.5
    assert [(run.batch_size, run.base_lr, run.seed) for run in study.runs()] == [(4, 2**-8, 1), (4, 2**-8, 2)]
    assert {(run.setting.epochs, run.setting.train_images) for run in study.runs()} == {(1, 100)}


def test_scale_drops_what_it_leaves_nothing_of():
    def change(values):
        base_and_dependent(values)
        values["experiments"]["large"] = small(values) | {"batch_sizes": [64]}
        values["experiments"]["later"]["base_lrs"]["best_of"].append("large")
        values["figures"]["fig02"] = {"kind": "best", "title": "Two", "experiments": ["large"]}
        values["figures"]["fig03"] = {"kind": "best", "title": "Three", "experiments": ["later", "large"]}

    study = load(change, scale={"name": "less", "batch_sizes": [4, 8]})
    assert list(study.experiments) == ["small", "later"] and study.experiments["later"].best_of == ("small",)
    assert list(study.figures) == ["fig01", "fig03"] and study.figures["fig03"]["experiments"] == ["later"]
    study = load(
        lambda v: (change(v), v["experiments"]["large"].update(data="cifar10")),
        scale={"name": "less", "data": ["digits"]},
    )
    assert list(study.experiments) == ["small", "later"] and list(study.figures) == ["fig01", "fig03"]
    study = load(change, scale={"name": "less", "figures": ["fig02"]})
    assert list(study.experiments) == ["large"]
    study = load(change, scale={"name": "less", "figures": ["fig03"]})
    assert list(study.experiments) == ["small", "later", "large"]


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ({"figures": ["fig1"]}, "scale.figures: 'fig1' is not allowed; allowed: fig01 (did you mean 'fig01'?)"),
        ({"data": ["cifar"]}, "scale.data: 'cifar' is not allowed; allowed: digits, cifar10"),
        ({"batch_sizes": [3]}, "allowed: one that leaves an experiment of the study"),
    ],
)
def test_a_scale_that_fits_nothing_is_refused(scale, words):
    with pytest.raises(UserError) as caught:
        load(scale={"name": "less"} | scale)
    assert str(caught.value).startswith("config/config.yaml: scale") and words in str(caught.value)


def test_rates_fall_at_fractions():
    (drops,) = {run.setting.lr_drops for run in load(dict(lr_drops=["1/3", 0.75])).runs()}
    assert drops == (1 / 3, 0.75)


def test_the_rate_scales_with_the_batch_and_its_momentum():
    linear, root = a_run(batch_size=16, base_lr=0.5), a_run(batch_size=16, base_lr=0.5, lr_scaling="sqrt")
    assert (linear.learning_rate, root.learning_rate) == (8, 2)
    assert a_run(batch_size=4, base_lr=0.5, momentum=0.75).learning_rate == 2
    assert a_run(batch_size=4, base_lr=0.5, momentum=0.75, momentum_scaled=True).learning_rate == 0.5


def test_a_setting_at_its_default_is_no_part_of_the_name():
    run = a_run()
    told = {key: value for key, value in run.settings.items() if key not in ("momentum", "precision", "selection")}
    assert Run.from_settings(told) == run
    assert run.name("print") == "made_alexnet-none_m4_log2lr-8_seed1-49cb8e8aad6f"


def small(values):
    return values["experiments"]["small"]


MISTAKES = {
    "unknown key": (dict(epoch=3), "experiments.small.epoch: unknown key (did you mean 'epochs'?)"),
    "unknown top key": (lambda v: v.update(seed=[1]), "seed: unknown key (did you mean 'seeds'?)"),
    "missing key": (lambda v: small(v).pop("model"), "experiments.small: key 'model' is missing"),
    "batch size 0": (dict(batch_sizes=[0]), "batch_sizes.0: 0 is not allowed; allowed: a whole number"),
    "batch size 3.5": (dict(batch_sizes=[3.5]), "batch_sizes.0: 3.5 is not allowed; allowed: a whole"),
    "batch size 3.0": (dict(batch_sizes=[3.0]), "batch_sizes.0: 3.0 is not allowed; allowed: a whole"),
    "batch size text": (dict(batch_sizes=["4"]), "batch_sizes.0: '4' is not allowed"),
    "too large": (dict(batch_sizes=[2048]), "batch_sizes: 2048 is not allowed; allowed: whole numbers up to 1437"),
    "larger than the part": (
        dict(train_images=100, batch_sizes=[128]),
        "batch_sizes: 128 is not allowed; allowed: whole numbers up to 100",
    ),
    "part too large": (dict(train_images=9999), "train_images: 9999 is not allowed; allowed: whole numbers up to 1437"),
    "b does not divide m": (dict(bn_batch_sizes=[3]), "bn_batch_sizes: 3 is not allowed; allowed: numbers that divide"),
    "b above every m": (dict(bn_batch_sizes=[16]), "bn_batch_sizes: 16 is not allowed"),
    "BN over one example": (dict(bn_batch_sizes=[1, 2]), "batch_sizes: 1 is not allowed; allowed: numbers from 2"),
    "b without BN": (
        dict(norm="none", bn_batch_sizes=[2]),
        "bn_batch_sizes: [2] is not allowed; allowed: only with norm: batch",
    ),
    "negative rate": (dict(base_lrs=[-0.1]), "base_lrs.0: -0.1 is not allowed; allowed: a power of two"),
    "rate of another form": (dict(base_lrs=["3^-8"]), "base_lrs.0: '3^-8' is not allowed"),
    "the same rate twice": (dict(base_lrs=["2^-1", 0.5]), "base_lrs: ['2^-1', 0.5] is not allowed"),
    "duplicate seeds": (lambda v: v.update(seeds=[1, 2, 1]), "seeds: 1 stands twice in [1, 2, 1]"),
    "negative seed": (lambda v: v.update(seeds=[-1]), "seeds.0: -1 is not allowed"),
    "unknown model": (dict(model="alexnt"), "model: 'alexnt' is not allowed; allowed: alexnet, resnet8"),
    "unknown data set": (dict(data="cifar"), "data: 'cifar' is not allowed; allowed: digits, cifar10"),
    "unknown norm": (dict(norm="layer"), "norm: 'layer' is not allowed; allowed: none, batch or group"),
    "falling drops": (dict(lr_drops=[0.75, 0.5]), "lr_drops: [0.75, 0.5] is not allowed; allowed: rising"),
    "drops that are no fractions": (dict(lr_drops=["1/2/3"]), "lr_drops.0: '1/2/3' is not allowed; allowed: a number"),
    "drops above 1": (dict(lr_drops=["4/3"]), "lr_drops: ['4/3'] is not allowed; allowed: rising fractions"),
    "scaled by no momentum": (
        dict(momentum_scaled=True), "momentum_scaled: True is not allowed; allowed: only with a momentum above 0"
    ),
    "more than is left to train on": (
        dict(selection="validation", train_images=100, batch_sizes=[95]),
        "batch_sizes: 95 is not allowed; allowed: whole numbers up to 90",
    ),
    "the best of nothing": (dict(base_lrs={"best_of": []}), "base_lrs.best_of: [] is not allowed; allowed: a list of"),
    "the best of the unknown": (
        dict(base_lrs={"best_of": ["smal"]}), "small.base_lrs.best_of: 'smal' is not allowed"
    ),
    "the best of others without that m": (
        lambda v: v["experiments"].update(large=small(v) | dict(batch_sizes=[8, 64], base_lrs={"best_of": ["small"]})),
        "large.base_lrs.best_of: ['small'] is not allowed; allowed: experiments that together have each batch size; 64",
    ),
    "variance with batch statistics": (
        dict(variance_batch_sizes=[2, 4]), "variance_batch_sizes: [2, 4] is not allowed; allowed: set without norm:"
    ),
    "a figure of what is not measured": (
        lambda v: v["figures"]["fig01"].update(kind="variance"),
        "figures.fig01.experiments: 'small' is not allowed; allowed: for kind variance experiments with variance_batch",
    ),
    "unknown experiment": (lambda v: v["figures"]["fig01"].update(experiments=["smal"]),
        "figures.fig01.experiments: 'smal' is not"),
    "unknown kind": (lambda v: v["figures"]["fig01"].update(kind="pie"),
        "figures.fig01.kind: 'pie' is not allowed; allowed: accuracy"),
    "rate not in the grid": (
        lambda v: v["figures"]["fig01"].update(kind="convergence", base_lr="2^-3"),
        "figures.fig01.base_lr: '2^-3' is not allowed; allowed: a rate of experiment small: 2^-8, 0.001",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_a_study_are_told_in_one_line(mistake):
    change, words = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        load(change)
    message = str(caught.value)
    assert message.startswith("config/studies/mine.yaml: ") and words in message and "\n" not in message


def test_a_misspelt_study_is_told_with_the_likely_one():
    load(name="laptop")
    with pytest.raises(UserError, match=r"study: 'laptp': no such study \(did you mean 'laptop'\?\); allowed: laptop"):
        load_study(CONFIG | {"study": "laptp"})


def test_yaml_that_is_none_and_keys_that_stand_twice_are_told_with_their_line(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: 1\nb: [\n")
    with pytest.raises(UserError, match=r"bad.yaml: line 3: not valid YAML"):
        read_yaml(bad)
    bad.write_text("a: 1\na: 2\n")
    with pytest.raises(UserError, match=r"bad.yaml: line 2: not valid YAML: key 'a' stands twice"):
        read_yaml(bad)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stduy", "laptop", "stduy: unknown key (did you mean 'study'?)"),
        (
            "convergence_threshold",
            1.5,
            "convergence_threshold: 1.5 is not allowed; allowed: a number above 0 and up to 1",
        ),
        (
            "training",
            CONFIG["training"] | {"lanes": 0},
            "training.lanes: 0 is not allowed; allowed: auto or a whole number",
        ),
        (
            "training",
            CONFIG["training"] | {"device": "tpu"},
            "training.device: 'tpu' is not allowed; allowed: auto, cpu",
        ),
        (
            "datasets",
            {
                name: {"source": "image-folder", "path": name, "size": 8, "test_fraction": 0.5, "label": "x"}
                for name in "ab"
            },
            "datasets.b.label: 'x' is not allowed; allowed: a label of its own; a has this one",
        ),
        ("datasets", {"mine": {"source": "mnist"}}, "datasets.mine.source: 'mnist' is not allowed; allowed: digits"),
    ],
)
def test_mistakes_in_the_configuration_are_told_in_one_line(key, value, words):
    with pytest.raises(UserError) as caught:
        check_config({**CONFIG, key: value})
    assert str(caught.value).startswith("config/config.yaml: ") and words in str(caught.value)


@pytest.mark.parametrize("path", sorted((PROJECT / "config" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_is_sound(path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    check_config(CONFIG)
    assert load_study(CONFIG | {"study": path.stem}).runs()
