"""Studies: expansion, identity, and every mistake told in one line before any work."""

import copy
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from helpers import PROJECT, a_run, write_study
from snakemake.utils import update_config

from smallbatch import study_file
from smallbatch.core.errors import UserError
from smallbatch.runs.packs import Plan, cut, lane_key, with_rates
from smallbatch.runs.store import Outcome, RunStore
from smallbatch.study import experiments as studies
from smallbatch.study import settings
from smallbatch.study.experiments import Run, Setting, Study
from smallbatch.study.settings import entries_of, read_yaml, suggestion
from smallbatch.study_file import check_config, load_study, scaled

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
    write_study(Path(), name, values)
    return load_study(CONFIG | {"study": name} | config)


def test_a_study_expands_into_its_grid_with_every_seed():
    runs = load().runs()
    assert [(run.batch_size, run.base_lr, run.seed) for run in runs] == [
        (m, lr, seed) for m in (4, 8) for lr in (2**-8, 0.001) for seed in (1, 2)
    ]
    assert all(run.bn_batch_size == run.batch_size and run.setting.lr_drops == (0.5, 0.75) for run in runs)


def test_what_a_file_says_of_an_experiment_is_what_its_runs_are():
    (plain,) = {run.setting for run in load(lambda v: small(v).pop("norm")).runs()}
    assert plain == Setting(
        data="digits", model="alexnet", weight_decay=5e-4, epochs=2, train_images=None, norm="none", norm_layers="all",
        lr_schedule="drops", lr_drops=(0.5, 0.75), lr_drop_factor=0.1, warmup=False, warmup_fraction=0.05,
        warmup_start=1 / 32, augment_pad=0, augment_flip=False, augment_resized=False,
        lr_scaling="linear", momentum=0.0, momentum_scaled=False, precision="float32", selection="test",
        variance_batch_sizes=(), model_content=None,
    )  # fmt: skip
    all_of_them = dict(
        train_images=100, norm="group", norm_layers="conv", weight_decay=0, lr_drops=["1/4", 0.9], warmup=True,
        lr_drop_factor=0.2, warmup_fraction=0.1, warmup_start=0,
        augment={"pad": 2, "flip": True}, lr_scaling="sqrt", momentum=0.9, momentum_scaled=True, precision="bf16",
        selection="validation", variance_batch_sizes=[2, 4],
    )  # fmt: skip
    (told,) = {run.setting for run in load(all_of_them).runs()}
    assert told == Setting(
        data="digits", model="alexnet", weight_decay=0.0, epochs=2, train_images=100, norm="group", norm_layers="conv",
        lr_drops=(0.25, 0.9), lr_drop_factor=0.2, warmup=True, warmup_fraction=0.1, warmup_start=0.0,
        augment_pad=2, augment_flip=True, augment_resized=False, lr_scaling="sqrt",
        momentum=0.9, momentum_scaled=True, precision="bf16", selection="validation", variance_batch_sizes=(2, 4),
        model_content=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "schedule", "drops"),
    [
        ({"lr_schedule": "cosine"}, "cosine", ()),
        ({"lr_schedule": "constant"}, "drops", ()),
        ({"lr_drops": []}, "drops", ()),
        ({"lr_schedule": "drops"}, "drops", (0.5, 0.75)),
    ],
)
def test_a_schedule_has_one_name(said, schedule, drops):
    (setting,) = {run.setting for run in load(said).runs()}
    assert (setting.lr_schedule, setting.lr_drops) == (schedule, drops)


def test_whole_numbers_and_others_of_a_schedule_are_the_same_run():
    runs = [load(dict(warmup=True, warmup_start=start)).runs()[0] for start in (0, 0.0, -0.0)]
    assert len({run.name("f" * 64) for run in runs}) == 1


def test_layers_with_normalisation_mean_nothing_where_there_is_none():
    # Otherwise one and the same training would have two names.
    assert {run.setting.norm_layers for run in load(dict(norm="none", norm_layers="conv")).runs()} == {"all"}
    unsaid = load(lambda v: (small(v).pop("norm"), small(v).update(norm_layers="conv")))
    assert {run.setting.norm_layers for run in unsaid.runs()} == {"all"}
    assert {run.setting.norm_layers for run in load(dict(norm="batch")).runs()} == {"all"}


def test_photos_are_cropped_at_random_where_a_file_says_so():
    photos = {"photos": {"source": "imagenet", "path": "p"}}
    crops = dict(data="photos", augment={"flip": True, "resized_crop": True})
    (setting,) = {run.setting for run in load(crops, datasets=photos).runs()}
    assert (setting.augment_resized, setting.augment_flip, setting.augment_pad) == (True, True, 0)


def test_a_study_has_the_title_and_the_description_of_its_file():
    study = load(lambda v: v.update(description="What for."))
    assert (study.file, study.name, study.title, study.description) == (
        "config/studies/mine.yaml", "mine", "A study", "What for."
    )  # fmt: skip
    assert load().description == "" and load().scale == {}


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
        a_run(lr_schedule="cosine"), a_run(lr_drop_factor=0.2), a_run(warmup_fraction=0.1), a_run(warmup_start=0.0),
        a_run(augment_pad=1), a_run(augment_flip=True), a_run(train_images=5), a_run(data="other"),
    ]  # fmt: skip
    names = {run.name("f").rpartition("-")[2] for run in [base, *changes]} | {base.name("g").rpartition("-")[2]}
    monkeypatch.setattr(studies, "PROTOCOL", studies.PROTOCOL + 1)
    names.add(base.name("f").rpartition("-")[2])
    assert len(names) == len(changes) + 3
    assert set(base.settings) == {"batch_size", "bn_batch_size", "base_lr", "seed", *vars(base.setting)}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({}, "none"), ({"augment_pad": 4}, "pad 4"), ({"augment_flip": True}, "flip"),
        ({"augment_pad": 4, "augment_flip": True}, "pad 4 + flip"),
        ({"augment_resized": True, "augment_flip": True}, "resized crop + flip"),
    ],
)  # fmt: skip
def test_augmentation_in_words(setting, words):
    assert a_run(**setting).setting.augment == words


def test_lanes_of_one_row_differ_in_rate_and_seed_alone():
    same = [a_run(), a_run(seed=2), a_run(base_lr=0.5)]
    others = [a_run(batch_size=8), a_run(b=2), a_run(epochs=3), a_run(momentum=0.5), a_run(data="other")]
    assert len({lane_key(run) for run in same}) == 1 and len({lane_key(run) for run in [a_run(), *others]}) == 6
    assert {pack.data for pack in cut(load(), 4).values()} == {"digits"}


def test_a_pack_is_named_after_its_experiment_and_batch_sizes():
    names = [[name.rpartition("_")[0] for name in cut(load(), count)] for count in (100, 4)]
    assert names == [["small_m4to8"], ["small_m4", "small_m8"]]
    assert len({name.rpartition("_")[2] for name in cut(load(), 4)}) == 2
    assert all(len(name.rpartition("_")[2]) == 10 for name in cut(load(), 4))


def test_settings_lead_back_to_the_run():
    import json

    run = a_run(b=2, base_lr=0.003, norm="batch", train_images=7)
    assert Run.from_settings(json.loads(json.dumps(run.settings))) == run


def test_packs_hold_every_run_once_and_rows_whole():
    study = load(lambda v: small(v).update(batch_sizes=[2, 4, 8, 16], bn_batch_sizes=[2, 4]))
    runs, packs = study.runs(), list(cut(study, 8).values())
    assert sorted((run for pack in packs for run in pack.runs), key=runs.index) == runs
    assert len(packs) == 4 and len({pack.name for pack in packs}) == 4
    for key in {lane_key(run) for run in runs}:
        assert sum(any(lane_key(run) == key for run in pack.runs) for pack in packs) == 1
    assert list(cut(study, 8).values()) == packs


def base_and_dependent(values):
    values["experiments"]["later"] = small(values) | {
        "bn_batch_sizes": [4], "base_lrs": {"best_of": ["small"]}, "batch_sizes": [4, 8]
    }  # fmt: skip


def test_rates_are_taken_from_other_experiments():
    later = load(base_and_dependent).experiments["later"]
    assert {run.base_lr for run in later.runs()} == {None}
    waiting = next(later.runs())
    assert "_m4_lropen_seed" in waiting.name("print")
    with pytest.raises(ValueError, match="the base learning rate of m = 4 is not chosen yet"):
        waiting.learning_rate  # noqa: B018
    chosen = [(run.batch_size, run.base_lr) for run in later.runs({4: 0.5, 8: 0.25})]
    assert chosen == [(4, 0.5), (4, 0.5), (8, 0.25), (8, 0.25)]


def test_chosen_rates_are_given_to_those_runs_alone_that_wait_for_them():
    study = load(base_and_dependent)
    rates = {"later": {4: 0.5, 8: 0.25}}
    planned = study.planned(rates)
    assert [run.base_lr for name, run in planned if name == "later"] == [0.5, 0.5, 0.25, 0.25]
    assert [run for name, run in planned if name == "small"] == list(study.experiments["small"].runs())
    runs = [run for _, run in study.planned()]
    assert with_rates(runs, None) == runs
    assert with_rates(runs, rates["later"]) == [run for _, run in planned]


def test_a_figure_takes_its_experiments_and_before_each_those_whose_rates_that_takes():
    def show(values):
        base_and_dependent(values)
        for name, shown in (("fig13", ["later"]), ("fig15", ["later", "small"]), ("fig16", ["small", "later"])):
            values["figures"][name] = {"kind": "best", "title": name, "experiments": shown}

    study = load(show)
    assert [study.sources(figure) for figure in ("fig01", "fig13", "fig15", "fig16")] == [
        ["small"], ["small", "later"], ["small", "later"], ["small", "later"]
    ]  # fmt: skip
    assert study.labels == ["digits"]


def test_a_rate_that_was_not_chosen_is_refused_and_never_trained(data_folder):
    from smallbatch.training.pack import train_pack

    later = load(base_and_dependent).experiments["later"]
    assert [run.base_lr for run in with_rates(list(later.runs()), {4: 0.5, 8: 0.25})] == [0.5, 0.5, 0.25, 0.25]
    for chosen in ({}, {4: 0.5}):
        with pytest.raises(UserError, match=r"^base_lrs.best_of: no rate is known for m = "):
            with_rates(list(later.runs()), chosen)
    for rate in (None, 0.0, math.nan):
        with pytest.raises(UserError, match=r"^base_lrs.best_of: no rate was chosen for m = 4; no run trains without"):
            train_pack([a_run(base_lr=rate)], data_folder, data_folder.parent)


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
    # None while runs are missing, one when all are there, and another with each that is trained again.
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
    assert {run.batch_size for name in plan.rate_sources for run in plan.packs[name].runs} == {4}
    assert {plan.packs[name].experiment for name in plan.rate_sources} == {"small"}
    assert Plan(load(), 4, RunStore(tmp_path)).rate_sources == frozenset()


def test_a_run_that_experiments_share_is_in_one_pack():
    study = load(lambda v: v["experiments"].update(again=small(v) | {"batch_sizes": [8, 16]}))
    packs = cut(study, 100).values()
    assert [(pack.experiment, len(pack.runs)) for pack in packs] == [("small", 8), ("again", 4)]
    assert len(study.planned()) == 16 and len(study.runs()) == 12


def test_runs_at_a_rate_that_is_chosen_later_count_once_where_the_grid_has_them_whatever_is_chosen():
    def change(values):
        base_and_dependent(values)
        values["experiments"]["later"]["bn_batch_sizes"] = [4, 8]

    study = load(change)
    grid, pairs = len(list(study.experiments["small"].runs())), {(4, 4), (8, 4), (8, 8)}
    assert {(run.batch_size, run.bn_batch_size) for run in study.runs_of("later")} == pairs
    (seeds,) = {len(study.experiments["later"].seeds)}
    # With b = m the grid has the run at each rate; with m = 8, b = 4 at none.
    assert len(study.runs()) == grid + seeds
    later = study.runs_of("later", {4: 2**-8, 8: 2**-6})
    assert {(run.batch_size, run.base_lr) for run in later} == {(4, 2**-8), (8, 2**-6)}


def test_a_grid_that_nobody_trains_is_refused_before_it_is_made():
    line = "experiments: 3,000,000 runs, 3,000,000 of them of small; allowed: up to 200,000"
    with pytest.raises(UserError, match=line):
        load(dict(seeds=list(range(1, 3001)), batch_sizes=list(range(2, 1002)), base_lrs=["2^-8"]))


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
    ("scale", "own", "changed"),
    [
        ({}, {}, {}),
        ({"epochs": 0.3}, {}, {"epochs": 6}),
        ({"epochs": 0.01}, {}, {"epochs": 1}),
        ({"train_images": 100}, {}, {"train_images": 100}),
        ({"train_images": 100}, {"train_images": 500}, {"train_images": 100}),
        ({"train_images": 100}, {"train_images": 50}, {}),
        (
            {"batch_sizes": [2, 8]},
            {"bn_batch_sizes": [2, 4, 8], "variance_batch_sizes": [2, 4]},
            {"batch_sizes": [8], "bn_batch_sizes": [2, 8], "variance_batch_sizes": [2]},
        ),
        ({"base_lrs": [2**-6, 0.5]}, {}, {"base_lrs": ["2^-6"]}),
        ({"base_lrs": ["2^-3"]}, {}, {}),  # it has none of them: all stay
        ({"base_lrs": ["2^-6"]}, {"base_lrs": {"best_of": ["one"]}}, {}),
    ],
)
def test_of_an_experiment_a_scale_changes_what_it_names(scale, own, changed):
    one = {"data": "digits", "epochs": 20, "batch_sizes": [4, 8], "base_lrs": ["2^-8", "2^-6"]} | own
    assert scaled({"experiments": {"one": one}, "figures": {}}, scale)["experiments"] == {"one": one | changed}


def test_an_experiment_without_bn_batches_or_bases_that_are_left_is_dropped():
    def change(values):
        base_and_dependent(values)
        values["experiments"]["later"] |= {"bn_batch_sizes": [2], "batch_sizes": [4]}

    assert list(load(change, scale={"name": "less", "batch_sizes": [4]}).experiments) == ["small"]
    values = {"data": "digits", "epochs": 2, "batch_sizes": [4], "base_lrs": ["2^-8"]}
    both = {"base": values | {"data": "cifar10"}, "later": values | {"base_lrs": {"best_of": ["base"]}}}
    assert scaled({"experiments": both, "figures": {}}, {"data": ["digits"]})["experiments"] == {}


def test_batches_may_be_of_all_images_and_variances_of_half_of_an_epoch():
    assert load(dict(train_images=10, batch_sizes=[10], variance_batch_sizes=[2, 5])).runs()
    # Of 10 images an epoch at m = 4 has 8, though those at m = 3 and 5 have more.
    with pytest.raises(UserError, match=r"variance_batch_sizes: 5 is not allowed; .* 4, half the images .* at m = 4$"):
        load(dict(train_images=10, batch_sizes=[3, 4, 5], variance_batch_sizes=[2, 5]))


def test_each_experiment_is_checked_against_its_own_data():
    pictures = {"source": "image-folder", "path": "p", "size": 8}

    def change(values):
        values["experiments"]["large"] = small(values) | {"batch_sizes": [1438]}
        values["experiments"]["small"]["data"] = "pictures"

    def few(values):
        values["experiments"]["few"] = small(values) | {"data": "pictures", "train_images": 5}
        values["experiments"]["small"]["data"] = "pictures"

    datasets = CONFIG["datasets"] | {"pictures": pictures}
    with pytest.raises(UserError, match=r"experiments.large.batch_sizes: 1438 is not allowed"):
        load(change, datasets=datasets)
    with pytest.raises(UserError, match=r"experiments.few.batch_sizes: 8 is not allowed"):
        load(few, datasets=datasets)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ({"figures": ["fig1"]}, "scale.figures: 'fig1' is not allowed; allowed: fig01 (did you mean 'fig01'?)"),
        ({"data": ["cifar"]}, "scale.data: 'cifar' is not allowed; allowed: digits, cifar10"),
        ({"batch_sizes": [3]}, "allowed: values that leave an experiment of the study at least one run"),
    ],
)
def test_a_scale_that_fits_nothing_is_refused(scale, words):
    with pytest.raises(UserError) as caught:
        load(scale={"name": "less"} | scale)
    assert str(caught.value).startswith("config/config.yaml: scale") and words in str(caught.value)


def test_the_least_and_the_most_of_rates_are_allowed():
    assert {run.base_lr for run in load(dict(base_lrs=["2^-100", "2^100"])).runs()} == {2.0**-100, 2.0**100}


def test_the_least_and_the_most_of_weight_decay_are_allowed():
    for decay in (0, 1e-30, 1, 1e30):
        assert {run.setting.weight_decay for run in load(dict(weight_decay=decay)).runs()} == {float(decay)}


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


def test_only_runs_that_measure_have_the_measurement_in_their_name(monkeypatch):
    plain, measuring = a_run(), a_run(variance_batch_sizes=(2, 4))
    before = plain.name("print"), measuring.name("print")
    monkeypatch.setattr(studies, "MEASUREMENT", 3)
    assert a_run().name("print") == before[0]
    assert a_run(variance_batch_sizes=(2, 4)).name("print") != before[1]


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
    "BN over one example": (dict(bn_batch_sizes=[1, 2]), "experiments.small.batch_sizes: 1 is not allowed"),
    "b without BN": (
        dict(norm="none", bn_batch_sizes=[2]),
        "experiments.small.bn_batch_sizes: [2] is not allowed; allowed: only with norm: batch",
    ),
    "negative rate": (dict(base_lrs=[-0.1]), "base_lrs.0: -0.1 is not allowed; allowed: a power of two"),
    "rate of another form": (dict(base_lrs=["3^-8"]), "base_lrs.0: '3^-8' is not allowed"),
    "the same rate twice": (dict(base_lrs=["2^-1", 0.5]), "base_lrs: ['2^-1', 0.5] is not allowed"),
    "a rate that is no number": (dict(base_lrs=[math.nan]), "base_lrs.0: nan is not allowed; allowed: finite numbers"),
    "a rate without end": (dict(base_lrs=[math.inf]), "base_lrs.0: inf is not allowed; allowed: finite numbers"),
    "a rate that single precision rounds to nothing": (
        dict(base_lrs=["2^-101"]), "base_lrs: '2^-101' is not allowed; allowed: rates from 2^-100 to 2^100"
    ),
    "a rate below all": (dict(base_lrs=[1e-40]), "base_lrs: 1e-40 is not allowed; allowed: rates from 2^-100 to"),
    "a rate above all": (dict(base_lrs=["2^101"]), "base_lrs: '2^101' is not allowed; allowed: rates from 2^-100 to"),
    "a rate of four digits": (dict(base_lrs=["2^-2000"]), "base_lrs.0: '2^-2000' is not allowed; allowed: a power of"),
    "a truth value as a number": (dict(epochs=True), "small.epochs: True is not allowed; allowed: a whole number"),
    "a number as a truth value": (dict(warmup=1), "small.warmup: 1 is not allowed; allowed: true or false"),
    "weight decay without end": (dict(weight_decay=math.inf), "weight_decay: inf is not allowed; allowed: finite"),
    "weight decay beyond single precision": (
        dict(weight_decay=1e39), "small.weight_decay: 1e+39 is not allowed; allowed: 0, or a number from 1e-30 to 1e30"
    ),
    "weight decay just too large": (dict(weight_decay=1.1e30), "weight_decay: 1.1e+30 is not allowed; allowed: 0, or"),
    "weight decay that single precision rounds to nothing": (
        dict(weight_decay=1e-46), "weight_decay: 1e-46 is not allowed; allowed: 0, or a number from 1e-30"
    ),
    "negative weight decay": (dict(weight_decay=-1), "small.weight_decay: -1 is not allowed; allowed: 0, or a number"),
    "no weight decay as a truth value": (dict(weight_decay=False), "weight_decay: False is not allowed; allowed: 0"),
    "weight decay as text": (dict(weight_decay="0"), "weight_decay: '0' is not allowed; allowed: 0, or a number"),
    "drops that are no numbers": (dict(lr_drops=[math.nan]), "lr_drops.0: nan is not allowed; allowed: finite numbers"),
    "a size beyond all counting": (
        dict(batch_sizes=[10**30]), f"batch_sizes.0: {10**30} is not allowed; allowed: whole numbers up to 2147483647"
    ),
    "a crop that may miss its image": (
        dict(augment={"flip": False, "pad": 8}), "experiments.small.augment.pad: 8 is not allowed; allowed: whole"
    ),
    "nothing held out": (
        dict(selection="validation", train_images=5, batch_sizes=[4]),
        "selection: 'validation' is not allowed; allowed: test: of 5 training images a tenth, which would be held out,",
    ),
    "variance of more images than an epoch has": (
        dict(norm="none", train_images=10, batch_sizes=[2, 4], variance_batch_sizes=[2, 5]),
        "variance_batch_sizes: 5 is not allowed; allowed: whole numbers up to 4, half the images of an epoch at m = 4",
    ),
    "an experiment's name of two lines": (
        lambda v: v["experiments"].update({"small\n": small(v)}), "experiments: 'small\\n' is not allowed; allowed:"
    ),
    "an experiment's name that is a number": (
        lambda v: v["experiments"].update({2024: small(v)}), "line 18: not valid YAML: key 2024 is no text; put it in"
    ),
    "an experiment's name that no file may have": (
        lambda v: v["experiments"].update({"x" * 65: small(v)}), "is not allowed; allowed: names of small letters,"
    ),
    "a figure named as a line of the status": (
        lambda v: v["figures"].update(all=v["figures"]["fig01"]), "figures: 'all' is not allowed; allowed: names other"
    ),
    "a title of two lines": (
        lambda v: v["figures"]["fig01"].update(title="One\ntwo"), "title: 'One\\ntwo' is not allowed; allowed: one line"
    ),
    "a title in a script that the font lacks": (
        lambda v: v["figures"]["fig01"].update(title="小 and η 🐶 小"),
        "figures.fig01.title: '小 and η 🐶 小' is not allowed; allowed: characters that the font of figures, DejaVu "
        "Sans, has; it lacks 小 🐶",
    ),
    "a title without end": (lambda v: v.update(title="x" * 301), "title: 'xxx"),
    "duplicate seeds": (lambda v: v.update(seeds=[2, 1, 1]), "seeds: 1 appears twice in [2, 1, 1]"),
    "negative seed": (lambda v: v.update(seeds=[-1]), "seeds.0: -1 is not allowed"),
    "unknown model": (dict(model="alexnt"), "model: 'alexnt' is not allowed; allowed: alexnet, resnet8"),
    "unknown data set": (dict(data="cifar"), "data: 'cifar' is not allowed; allowed: digits, cifar10"),
    "the best of itself": (
        dict(base_lrs={"best_of": ["small"]}),
        "small.base_lrs.best_of: 'small' is not allowed; allowed: experiments with rates of their own; there is none",
    ),
    "unknown norm": (dict(norm="layer"), "norm: 'layer' is not allowed; allowed: none, batch, group or own"),
    "falling drops": (dict(lr_drops=[0.75, 0.5]), "experiments.small.lr_drops: [0.75, 0.5] is not allowed"),
    "drops that are no fractions": (dict(lr_drops=["1/2/3"]), "lr_drops.0: '1/2/3' is not allowed; allowed: a number"),
    "drops above 1": (dict(lr_drops=["4/3"]), "lr_drops: ['4/3'] is not allowed; allowed: rising fractions"),
    "drops of another schedule": (dict(lr_schedule="cosine", lr_drops=[0.5]), "small.lr_drops: [0.5] is not allowed"),
    "a factor of another schedule": (dict(lr_schedule="constant", lr_drop_factor=0.5), "lr_drop_factor: 0.5 is not"),
    "a factor of 1": (dict(lr_drop_factor=1), "small.lr_drop_factor: 1 is not allowed; allowed: a number between 0"),
    "a schedule of nobody": (dict(lr_schedule="cosin"), "small.lr_schedule: 'cosin' is not allowed; allowed: drops, "),
    "two warm-ups": (dict(lr_schedule="one-cycle", warmup=True), "small.warmup: True is not allowed; allowed: false "),
    "a length of no warm-up": (dict(warmup_fraction=0.1), "small.warmup_fraction: 0.1 is not allowed; allowed: only"),
    "a start of no warm-up": (dict(warmup=False, warmup_start=0), "small.warmup_start: 0 is not allowed; allowed: o"),
    "a warm-up without end": (dict(warmup=True, warmup_fraction=1), "small.warmup_fraction: 1 is not allowed; allow"),
    "drops at the end": (dict(lr_drops=["3/3"]), "lr_drops: ['3/3'] is not allowed; allowed: rising fractions"),
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
    "the best of two BN batches": (
        lambda v: (base_and_dependent(v), small(v).update(bn_batch_sizes=[2, 4])),
        "best_of: 'small' is not allowed; allowed: experiments with one BN batch size for each batch size",
    ),
    "variance with a batch statistic of one example": (
        dict(variance_batch_sizes=[1, 4]), "variance_batch_sizes: 1 is not allowed; allowed: numbers from 2 with norm:"
    ),
    "variance of batches that sub-batches do not fill": (
        dict(batch_sizes=[8], bn_batch_sizes=[4], variance_batch_sizes=[4, 6]),
        "variance_batch_sizes: 6 is not allowed; allowed: multiples of the BN batch size, 4",
    ),
    "variance with several sub-batches": (
        dict(batch_sizes=[8], bn_batch_sizes=[2, 4], variance_batch_sizes=[4, 8]),
        "variance_batch_sizes: [4, 8] is not allowed; allowed: with one of bn_batch_sizes, below each batch size",
    ),
    "variance with whole batches among sub-batches": (
        dict(batch_sizes=[4, 8], bn_batch_sizes=[4], variance_batch_sizes=[4, 8]),
        "variance_batch_sizes: [4, 8] is not allowed; allowed: with one of bn_batch_sizes, below each batch size",
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
def test_mistakes_in_a_study_are_reported_in_one_line(mistake):
    change, words = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        load(change)
    message = str(caught.value)
    assert message.startswith("config/studies/mine.yaml: ") and words in message and "\n" not in message


def test_a_misspelt_study_is_reported_with_the_likely_one():
    load(name="laptop")
    with pytest.raises(
        UserError,
        match=r"study: 'laptp': no such study \(did you mean 'laptop'\?\); allowed: those of config/studies: laptop",
    ):
        load_study(CONFIG | {"study": "laptp"})


def test_yaml_that_is_none_and_keys_that_stand_twice_are_reported_with_their_line(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: 1\nb: [\n")
    with pytest.raises(UserError, match=r"bad.yaml: line 3: not valid YAML"):
        read_yaml(bad)
    bad.write_text("a: 1\na: 2\n")
    with pytest.raises(UserError, match=r"bad.yaml: line 2: not valid YAML: key 'a' stands twice"):
        read_yaml(bad)


def repeated(times, form):
    """Each line names what the one before it has ten times over."""
    lines = [form.format(here=chr(98 + i), there=",".join([f"*{chr(97 + i)}"] * 10)) for i in range(times)]
    return "\n".join(["a: &a {x: 1}", *lines])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\ntitle: M\xf6we", "line 2: not UTF-8"),
        ("title: x".encode("utf-16"), "line 1: not UTF-8"),
        (b"a: \0", "not valid YAML: special characters are not allowed"),
        (b"[" * 5000, "nested too deeply; allowed: 20 levels"),
        (b"a: " + b"[" * 20 + b"]" * 20, "line 1: nested too deeply; allowed: 20 levels"),
        (b"a: &a [*a]", "line 1: nested too deeply; allowed: 20 levels"),
        (repeated(5, "{here}: &{here} [{there}]"), "too many values, 345685 with what its aliases repeat"),
        (repeated(9, "{here}: &{here} {{<<: [{there}]}}"), "too many values, "),
        (b"#" * 250_001, "too large: 250001 bytes; allowed: 250000"),
        (b"a: 1\n---\nb: 2", "line 2: not valid YAML: but found another document"),
        (b"b: {<<: {x: 1}, y: 1, y: 2}", "line 1: not valid YAML: key 'y' stands twice"),
        (b"1: a", "line 1: not valid YAML: key 1 is no text; put it in quotes"),
        (b"true: a", "line 1: not valid YAML: key True is no text; put it in quotes"),
        (b"null: a", "line 1: not valid YAML: key None is no text; put it in quotes"),
        (b"? [a]\n: b", "line 1: not valid YAML: key ['a'] is no text; put it in quotes"),
        (b"a: 0123", "line 1: not valid YAML: 0123: readers of YAML take it for different numbers"),
        (b"a: 0x1F", "line 1: not valid YAML: 0x1F: readers"),
        (b"a: 1_000", "line 1: not valid YAML: 1_000: readers"),
        (b"a: 1:30", "line 1: not valid YAML: 1:30: readers"),
        (b"a: 1\nb: -1.5e-400", "line 2: not valid YAML: -1.5e-400: would be read as -0.0; allowed: 0, and from"),
        (b"a: 0.02E-330", "line 1: not valid YAML: 0.02E-330: would be read as 0.0; allowed: 0, and from 1e-307 to"),
        (b"a: 1e400", "line 1: not valid YAML: 1e400: would be read as inf; allowed: 0, and from 1e-307 to 1e308"),
        (b"a: 2024-01-01", "line 1: not valid YAML: 2024-01-01: a date to YAML; put it in quotes"),
        (b"a: !!bool x", "not valid YAML: KeyError('x')"),
        (b"a: !!python/object/apply:os.getcwd []", "line 1: not valid YAML: could not determine a constructor"),
    ],
    ids=range(25),
)
def test_a_file_that_readers_choke_on_or_differ_over_is_refused(content, words, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        read_yaml(bad)
    assert str(caught.value).startswith(f"{bad}: {words}")


def test_a_file_may_have_as_much_as_is_allowed(monkeypatch, tmp_path):
    good = tmp_path / "good.yaml"
    good.write_bytes(b"#" * 250_000)
    assert read_yaml(good) is None
    good.write_bytes(b"a: " + b"[" * 19 + b"]" * 19)
    assert str(read_yaml(good)["a"]) == "[" * 19 + "]" * 19
    good.write_text("a: [1, 2]", encoding="utf-8")  # the mapping, its key, the list, two numbers
    monkeypatch.setattr(settings, "MAX_VALUES", 5)
    assert read_yaml(good) == {"a": [1, 2]}
    monkeypatch.setattr(settings, "MAX_VALUES", 4)
    with pytest.raises(UserError, match=r"good.yaml: too many values, 5 with what its aliases repeat; allowed: 4$"):
        read_yaml(good)


def test_what_is_plain_is_read_as_everybody_reads_it(tmp_path):
    good = tmp_path / "good.yaml"
    good.write_bytes(
        b"\xef\xbb\xbfa: &a [5e-4, 1.5e3, .5, 1., -3, 0, 0.0e-9, 2^-8, '0123', true]\nb: {<<: {x: 1}, y: *a}\n"
    )
    a = [0.0005, 1500.0, 0.5, 1.0, -3, 0, 0.0, "2^-8", "0123", True]
    assert read_yaml(good) == {"a": a, "b": {"x": 1, "y": a}}
    good.write_text("[.inf, -.inf, +.Inf]", encoding="utf-8")
    assert read_yaml(good) == [math.inf, -math.inf, math.inf], "what is not finite is refused by key"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_what_stands_in_place_of_a_file_is_named(make):
    make(Path("config/studies/mine.yaml"))
    with pytest.raises(UserError, match=r"^config/studies/mine.yaml: cannot be read: it is no file$"):
        load_study(CONFIG | {"study": "mine"})


@pytest.mark.parametrize("content", ["", "- a", "[" + "1, " * 1000 + "]", "text"])
def test_a_study_that_has_no_keys_is_refused_in_a_line_of_moderate_length(content):
    Path("config/studies/mine.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(
        UserError, match=r"^config/studies/mine.yaml: top level: .{4,203} is not allowed; allowed: keys"
    ):
        load_study(CONFIG | {"study": "mine"})


@pytest.mark.parametrize("values", ["claims", ["study"], 7, None])
def test_a_configuration_that_is_no_mapping_is_refused_in_one_line(values):
    with pytest.raises(UserError, match=r"^config/config.yaml: top level: .+ is not allowed; allowed: keys"):
        check_config(values)


@pytest.mark.parametrize(
    "name", ["mine (1)", "my+study", "../x", "two\nlines", "-x", ".x", "", "x/y", "runs", "x" * 65]
)
def test_a_study_is_called_what_a_folder_and_a_pattern_may_be_called(name):
    with pytest.raises(UserError, match=r"^config/config.yaml: study: '.*' is not allowed; allowed: letters, digits"):
        load_study(CONFIG | {"study": name})


@pytest.mark.parametrize("name", ["2024", "My.Study_2-b"])
def test_a_study_may_be_called_by_a_number_as_a_command_line_has_it(name):
    given = int(name) if name.isdigit() else name
    assert load(name=name, study=given).name == name


def test_what_an_experiment_says_of_its_images_is_checked_before_the_data_are_there():
    pictures = {"pictures": {"source": "image-folder", "path": "p", "size": 8}}
    few = dict(data="pictures", train_images=5, batch_sizes=[2])
    assert load(few, datasets=pictures).runs()
    with pytest.raises(UserError, match="selection: 'validation' is not allowed; allowed: test: of 5 training images"):
        load(few | dict(selection="validation"), datasets=pictures)
    with pytest.raises(UserError, match=r"augment.pad: 8 is not allowed; allowed: whole numbers below 8"):
        load(few | dict(augment={"flip": False, "pad": 8}), datasets=pictures)


def test_titles_may_have_accents_greek_and_dollars():
    for title in ("Größe η ∝ √m à 2⁻⁸", "From $5 to $10", r"Sweep of $\lambda_{x$"):
        spec = load(lambda v, title=title: v["figures"]["fig01"].update(title=title)).figures["fig01"]
        assert spec["title"] == title


def test_zero_has_no_sign_in_a_name():
    (with_sign,), (plain,) = (
        {run.setting for run in load(dict(weight_decay=zero, momentum=zero)).runs()} for zero in (-0.0, 0)
    )
    assert math.copysign(1, with_sign.weight_decay) == math.copysign(1, with_sign.momentum) == 1 and with_sign == plain


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stduy", "laptop", "stduy: unknown key (did you mean 'study'?)"),
        (1, "laptop", "top level: 1 is not allowed; allowed: keys that are a word; a number as a key is put in quotes"),
        ("claims", {"a\n": 1}, "claims: 'a\\n' is not allowed; allowed: keys that are a word"),
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
            "training",
            CONFIG["training"] | {"processes": 2, "side_by_side": 2},
            "training.side_by_side: 2 is not allowed; allowed: 1, as training.processes is 2",
        ),
        (
            "datasets",
            {
                name: {"source": "image-folder", "path": name, "size": 8, "test_fraction": 0.5, "label": "x"}
                for name in "ab"
            },
            "datasets.b.label: 'x' is not allowed; allowed: a label of its own; a has this one",
        ),
        ("datasets", {"a b": {"source": "digits"}}, "datasets: 'a b' is not allowed; allowed: a name of small letters"),
        ("datasets", {"downloads": {"source": "digits"}}, "datasets.downloads.label: 'downloads' is not allowed"),
        ("seeds", math.nan, "seeds: nan is not allowed; allowed: finite numbers"),
        ("seeds", 2**31 - 1, "seeds: 2147483647 is not allowed; allowed: study, or a whole number from 1 to 10000"),
        ("seeds", -(2**31), "seeds: -2147483648 is not allowed; allowed: whole numbers up to 2147483647"),
        ("seeds", 10001, "seeds: 10001 is not allowed; allowed: study, or a whole number from 1 to 10000"),
        ("scale", {"name": "a\n"}, "scale.name: 'a\\n' is not allowed; allowed: one line of text"),
        ("scale", {"name": "a", "batch_sizes": ["010"]}, "scale.batch_sizes.0: '010' is not allowed"),
        ("datasets", {"mine": {"source": "mnist"}}, "datasets.mine.source: 'mnist' is not allowed; allowed: digits"),
    ],
)
def test_mistakes_in_the_configuration_are_reported_in_one_line(key, value, words):
    with pytest.raises(UserError) as caught:
        check_config({**CONFIG, key: value})
    assert str(caught.value).startswith("config/config.yaml: ") and words in str(caught.value)


@pytest.mark.parametrize("letter", ["\n", "\x85", "\u2028", "\u2029", "\ud800"])
def test_what_no_line_can_show_is_in_no_text_but_a_description_has_lines(letter):
    with pytest.raises(UserError, match=r"^config/config.yaml: scale.name: '.*' is not allowed; allowed: one line of"):
        check_config(CONFIG | {"scale": {"name": f"a{letter}"}})
    assert load(lambda v: v.update(description="What\nfor.\n")).description == "What\nfor.\n"


def test_of_several_mistakes_the_first_by_its_key_is_reported():
    with pytest.raises(UserError, match=r"^config/config.yaml: convergence_threshold: 2 is not allowed"):
        check_config(CONFIG | {"seeds": 0, "convergence_threshold": 2, "study": 3})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"training": {"lanes": 0}}, "--config: training.lanes: 0 is not allowed"),
        ({"training": {"lanes": "0"}}, "--config: training.lanes: 0 is not allowed"),
        ({"claims": {"same": "1e-400"}}, "--config: claims.same: '1e-400' is not allowed; allowed: a number from 0 to"),
        ({"training": {"processes": 2, "side_by_side": 2}}, "--config: training.side_by_side: 2 is not allowed"),
        ({"training": {"kernels": 1}}, "--config: training.kernels: unknown key"),
        ({"nothing": 1}, "--config: nothing: unknown key"),
        ({"seeds": math.nan}, "--config: seeds: 'nan' is not allowed; allowed: study, or a whole number"),
        ({"scale": {"name": "a", "batch_sizes": [0]}}, "--config: scale.batch_sizes.0: 0 is not allowed"),
        ({"datasets": {"mine": {"source": "digits", "size": 8}}}, "--config: datasets.mine.size: 8 is not allowed"),
        ({"datasets": {"mine": {"source": "digits", "label": "digits"}}}, "--config: datasets.mine.label: 'digits' is"),
    ],
)
def test_mistakes_of_a_command_line_are_said_to_be_there(given, words):
    before, values = copy.deepcopy(given), copy.deepcopy(CONFIG)
    update_config(values, given)
    with pytest.raises(UserError) as caught:
        check_config(values, given=given)
    assert str(caught.value).startswith(words) and given == before
    with pytest.raises(UserError, match=r"^config/config.yaml: "):
        check_config(values, given={"study": "laptop", "training": {"device": "cpu"}, "datasets": {"other": {}}})


def test_a_scale_of_a_command_line_is_said_to_be_there(monkeypatch):
    monkeypatch.chdir(PROJECT)
    scale = {"name": "a", "figures": ["fig99"]}
    with pytest.raises(UserError, match=r"^--config: scale.figures: 'fig99' is not allowed"):
        load_study(CONFIG | {"scale": scale}, {"scale": scale})
    with pytest.raises(UserError, match=r"^--config: study: '../x' is not allowed"):
        load_study(CONFIG | {"study": "../x"}, {"study": "../x"})


@pytest.mark.parametrize(
    ("arguments", "entries"),
    [
        (["snakemake", "-n", "all"], []),
        (["snakemake", "--config", "a=1", "b=x=2", "--cores", "8", "c=3"], ["a=1", "b=x=2"]),
        (["snakemake", "-n", "--config=b=2", "c=3"], ["b=2", "c=3"]),
        (["snakemake", "-Ca=1", "-n"], ["a=1"]),
        (["snakemake", "-C=a=b=", "c=3"], ["a=b=", "c=3"]),
        (["snakemake", "-n", "--cores", "8", "-Cx"], ["x"]),
        (["snakemake", "-C", "a=1", "--configfile", "x"], ["a=1"]),
    ],
)
def test_the_settings_among_the_arguments_of_snakemake(arguments, entries):
    assert entries_of(arguments) == entries


def test_what_is_no_setting_among_the_arguments_is_said_to_be_on_the_command_line():
    with pytest.raises(UserError, match=r"^command line: --config: 'a' is not allowed; allowed: KEY=VALUE"):
        settings.read_entries(["a"])


@pytest.mark.parametrize("second", [["--config", "b=2"], ["-C", "b=2"], ["-Cb=2"], ["--config=b=2"]])
def test_settings_at_two_places_of_which_snakemake_takes_the_last_are_refused(second):
    with pytest.raises(UserError, match=r"^command line: --config: stands twice; allowed: once, with all its values"):
        entries_of(["snakemake", "--config", "a=1", "-n", *second])
    with pytest.raises(UserError, match=r"^command line: --configfile: stands twice; allowed: once"):
        entries_of(["snakemake", "--configfile", "a.yaml", "--config", "a=1", "--configfiles=b.yaml"])


@pytest.mark.parametrize("more", [{"processes": 2, "side_by_side": 1}, {"processes": 1, "side_by_side": 2}])
def test_either_processes_or_trainings_side_by_side_may_be_several(more):
    config = CONFIG | {"training": CONFIG["training"] | more}
    assert check_config(config) == config


@pytest.mark.parametrize("path", sorted((PROJECT / "config" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_is_sound(path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    check_config(CONFIG)
    assert load_study(CONFIG | {"study": path.stem}).runs()


def test_what_was_meant_is_first_of_all_what_begins_so():
    runs = ["digits_m2_seed5-ce7e8a3d4038", "digits_m2_seed3-5546e31d5fcf"]
    assert suggestion("digits_m2_seed3", runs) == " (did you mean 'digits_m2_seed3-5546e31d5fcf'?)"
    assert suggestion("digits_m2_sed5-ce7e8a3d4038", runs) == " (did you mean 'digits_m2_seed5-ce7e8a3d4038'?)"
    assert suggestion("lapto", ["laptop", "cifar10"]) == " (did you mean 'laptop'?)" and suggestion("x", runs) == ""
    assert suggestion("lap", ["laptop-look"]) and not suggestion("la", ["laptop-look"]), "too short to tell"


def test_studies_are_found_by_what_they_have(monkeypatch, tmp_path):
    monkeypatch.chdir(PROJECT)
    assert study_file.studies_with("figures", "fig18") == ["cifar10-length", "paper"]
    assert study_file.studies_with("experiments", "none-such") == []
    (tmp_path / "here/config/studies").mkdir(parents=True)
    for name, text in {"a": "figures: {f: 1}", "b": "{", "c": "figures: 3", "d": "title: f"}.items():
        (tmp_path / f"here/config/studies/{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    assert study_file.studies() == ["a", "b", "c", "d"] and study_file.studies_with("figures", "f") == ["a"]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "laptop"),
        ({"seeds": 3}, "laptop-seeds3"),
        ({"convergence_threshold": 0.5}, "laptop-convergence_threshold0.5"),
        ({"claims": {"margin": 1.5, "near": 3}}, "laptop-margin1.5-near3"),
        ({"claims": {"margin": 0.2}, "training": {"processes": 1, "device": "cpu"}}, "laptop"),
        ({"scale": {"name": "look", "figures": ["fig01"]}, "seeds": 1}, "laptop-look-seeds1"),
    ],
)
def test_what_a_call_says_otherwise_than_the_configuration_is_in_the_name(changed, name, monkeypatch):
    monkeypatch.chdir(PROJECT)
    config = read_yaml(Path("config/config.yaml"))
    parts = {
        key: config[key] | value if key != "scale" and isinstance(value, dict) else value
        for key, value in changed.items()
    }
    study = load_study(config | parts)
    assert study.name == name
    assert {run.setting for run in study.runs()} <= {run.setting for run in load_study(config).runs()}, (
        "no run is another"
    )


def test_what_a_call_makes_has_the_name_of_no_study(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    shutil.copytree(PROJECT / "config", tmp_path / "here/config")
    monkeypatch.chdir(tmp_path / "here")
    shutil.copy("config/studies/laptop.yaml", "config/studies/laptop-seeds3.yaml")
    config = read_yaml(Path("config/config.yaml"))
    with pytest.raises(
        UserError, match=r"^config/studies/laptop-seeds3.yaml: has the name of what this call makes of "
    ):
        load_study(config | {"seeds": 3})
    assert load_study(config | {"study": "laptop-seeds3"}).name == "laptop-seeds3"
    file = Path("config/config.yaml")
    file.write_text(file.read_text("utf-8").replace("seeds: study", "seeds: 3"), encoding="utf-8")
    assert load_study(config | {"seeds": 3}).name == "laptop", "as the configuration says"
    file.write_text(file.read_text("utf-8").replace("seeds: 3", 'seeds: "3"'), encoding="utf-8")
    assert load_study(config | {"seeds": 3}).name == "laptop", "however it spells a number"


@pytest.fixture
def pictures(monkeypatch, tmp_path):
    """A configuration with a data set `pets` of pictures, and the file that has it."""
    shutil.copytree(PROJECT / "config", tmp_path / "here/config")
    monkeypatch.chdir(tmp_path / "here")
    file = Path("config/config.yaml")
    settings = "datasets:\n  pets: {source: image-folder, path: pets, size: 32}\n"
    file.write_text(file.read_text("utf-8").replace("datasets:\n", settings), encoding="utf-8")
    return read_yaml(file)


@pytest.mark.parametrize(
    "changed", [{"size": 64}, {"mode": "L"}, {"source": "image-folder", "size": 16, "label": "pets"}]
)
def test_data_of_one_label_are_prepared_in_one_way(changed, pictures):
    given = {"datasets": {"pets": changed}}
    datasets = pictures["datasets"] | {"pets": pictures["datasets"]["pets"] | changed}
    with pytest.raises(
        UserError, match=r"--config: datasets.pets: .* what config/config.yaml says of pets, or a `label"
    ):
        check_config(pictures | {"datasets": datasets}, given=given)


@pytest.mark.parametrize("changed", [{"path": "elsewhere"}, {"size": 64, "label": "large-pets"}])
def test_data_that_lie_elsewhere_are_the_same_and_another_label_has_others(changed, pictures):
    datasets = pictures["datasets"] | {"pets": pictures["datasets"]["pets"] | changed}
    assert check_config(pictures | {"datasets": datasets})["datasets"]["pets"] == datasets["pets"]


@pytest.mark.parametrize("file", ["datasets: {pets: 3}", "datasets:"])
def test_data_that_the_file_says_wrongly_may_be_said_by_a_call(file, pictures):
    Path("config/config.yaml").write_text(file + "\n", encoding="utf-8")
    assert check_config(pictures)["datasets"]["pets"]["size"] == 32
