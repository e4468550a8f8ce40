"""Studies: how they expand into runs and packs, and what names a run."""

import math
from dataclasses import replace

import pytest
from helpers import PROJECT, a_run
from helpers.studies import CONFIG, base_and_dependent, load, small

from smallbatch import models, study_file
from smallbatch.core.errors import UserError
from smallbatch.runs.packs import Plan, cut_into_packs, lane_key, pack_size, with_rates
from smallbatch.runs.records import Outcome
from smallbatch.runs.store import RunStore
from smallbatch.study import experiments as studies
from smallbatch.study.experiments import Run, Setting, Study
from smallbatch.study.yaml_validation import suggestion
from smallbatch.study_file import check_config, load_study

pytestmark = pytest.mark.usefixtures("folder_of_studies")


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
        variance_batch_sizes=(), model_content=None, optimizer="sgd", betas=(), eps=1e-8, weight_decay_excludes=(),
        clip_norm=None, label_smoothing=0.0,
    )  # fmt: skip
    all_of_them = dict(
        train_images=100, norm="group", norm_layers="conv", weight_decay=0, lr_drops=["1/4", 0.9], warmup=True,
        lr_drop_factor=0.2, warmup_fraction=0.1, warmup_start=0,
        augment={"pad": 2, "flip": True}, lr_scaling="sqrt", momentum=0.9, momentum_scaled=True, precision="bf16",
        selection="validation", variance_batch_sizes=[2, 4], optimizer="nesterov", label_smoothing=0.1,
        weight_decay_excludes=["norms", "biases"],
    )  # fmt: skip
    (told,) = {run.setting for run in load(all_of_them).runs()}
    assert told == Setting(
        data="digits", model="alexnet", weight_decay=0.0, epochs=2, train_images=100, norm="group", norm_layers="conv",
        lr_drops=(0.25, 0.9), lr_drop_factor=0.2, warmup=True, warmup_fraction=0.1, warmup_start=0.0,
        augment_pad=2, augment_flip=True, augment_resized=False, lr_scaling="sqrt",
        momentum=0.9, momentum_scaled=True, precision="bf16", selection="validation", variance_batch_sizes=(2, 4),
        model_content=None, optimizer="nesterov", label_smoothing=0.1, weight_decay_excludes=("biases", "norms"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "betas", "eps"),
    [
        ({"optimizer": "adam"}, (0.9, 0.999), 1e-8),
        ({"optimizer": "adamw", "betas": [0, 0.5], "eps": 1e-4, "clip_norm": 2}, (0.0, 0.5), 1e-4),
        ({"optimizer": "lion"}, (0.9, 0.99), 1e-8),
    ],
)
def test_an_optimiser_has_the_constants_of_its_authors_unless_others_are_said(said, betas, eps):
    (setting,) = {run.setting for run in load(said).runs()}
    assert (setting.optimizer, setting.betas, setting.eps) == (said["optimizer"], betas, eps)
    assert setting.clip_norm == said.get("clip_norm")


def test_a_length_in_updates_or_images_is_as_long_at_each_batch_size_and_scaled():
    def in_steps(values):
        small(values).pop("epochs")
        small(values).update(steps=100)
        values["experiments"]["other"] = {**small(values), "images": 60}
        values["experiments"]["other"].pop("steps")

    study = load(in_steps)
    settings = {name: e.setting for name, e in study.experiments.items()}
    assert [(s.epochs, s.steps, s.images) for s in settings.values()] == [(0, 100, None), (0, None, 60)]
    for m in (4, 8):  # of 90 images in an epoch
        assert settings["small"].updates(m, 90 // m) == 100 and settings["other"].updates(m, 90 // m) == 60 // m
    # 22 or 11 updates an epoch.
    assert [settings["small"].images_and_epochs(m, 90) for m in (4, 8)] == [(400, 5), (800, 10)]
    assert [settings["other"].images_and_epochs(m, 90) for m in (4, 8)] == [(60, 1), (56, 1)]
    scaled = load(in_steps, scale={"name": "short", "epochs": 0.1}).experiments
    assert (scaled["small"].setting.steps, scaled["other"].setting.images) == (10, 8)


def test_constants_that_are_said_and_those_by_default_are_the_same_run():
    plain, said = ({"optimizer": "adamw"} | more for more in ({}, {"betas": [0.9, 0.999], "eps": 1e-8}))
    assert load(plain).runs() == load(said).runs()


@pytest.mark.parametrize(
    ("setting", "tensors"),
    [({}, 0), ({"momentum": 0.5}, 1), ({"optimizer": "adam", "betas": (0.9, 0.9)}, 2), ({"optimizer": "lion"}, 1)],
)
def test_what_an_optimiser_remembers_counts_as_memory(setting, tensors):
    assert a_run(**setting).setting.optimizer_tensors == tensors


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


def test_a_rate_that_never_drops_is_one_run_whatever_it_would_drop_to():
    runs = [load(said).runs()[0] for said in ({"lr_schedule": "constant"}, {"lr_drops": [], "lr_drop_factor": 0.5})]
    assert runs[0] == runs[1]


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
    colours = {"brightness": 0.4, "contrast": 1, "cutout": 8, "flip": False, "mixup": 0, "cutmix": 1}
    (setting,) = {run.setting for run in load(dict(augment=colours)).runs()}
    assert (setting.augment_brightness, setting.augment_contrast, setting.augment_saturation) == (0.4, 1.0, 0.0)
    assert (setting.augment_cutout, setting.augment_flip) == (8, False)
    assert (setting.augment_mixup, setting.augment_cutmix) == (0.0, 1.0)
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
        a_run(augment_cutout=2), a_run(augment_brightness=0.1), a_run(augment_contrast=0.1),
        a_run(augment_saturation=0.1), a_run(augment_mixup=0.2), a_run(augment_cutmix=0.2), a_run(steps=9),
        a_run(images=9),
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
        ({"augment_flip": True, "augment_cutout": 16, "augment_contrast": 0.4}, "flip + contrast 0.4 + cutout 16"),
        ({"augment_pad": 4, "augment_mixup": 0.2}, "pad 4 + mixup 0.2"), ({"augment_cutmix": 1.0}, "cutmix 1"),
    ],
)  # fmt: skip
def test_augmentation_in_words(setting, words):
    assert a_run(**setting).setting.augment == words


def test_lanes_of_one_row_differ_in_rate_and_seed_alone():
    same = [a_run(), a_run(seed=2), a_run(base_lr=0.5)]
    others = [a_run(batch_size=8), a_run(b=2), a_run(epochs=3), a_run(momentum=0.5), a_run(data="other")]
    assert len({lane_key(run) for run in same}) == 1 and len({lane_key(run) for run in [a_run(), *others]}) == 6
    assert {pack.data for pack in cut_into_packs(load(), 4).values()} == {"digits"}


def test_a_pack_is_named_after_its_experiment_and_batch_sizes():
    names = [[name.rpartition("_")[0] for name in cut_into_packs(load(), count)] for count in (100, 4)]
    assert names == [["small_m4to8"], ["small_m4", "small_m8"]]
    assert len({name.rpartition("_")[2] for name in cut_into_packs(load(), 4)}) == 2
    assert all(len(name.rpartition("_")[2]) == 10 for name in cut_into_packs(load(), 4))


@pytest.mark.parametrize(
    ("seeds", "training", "size"),
    [
        (1, {"runs_per_pack": "auto"}, 8),  # an eighth of 4 runs, but not less
        (20, {"runs_per_pack": "auto"}, 10),  # of 80
        (21, {"runs_per_pack": "auto"}, 11),  # of 84: in eight jobs, not in nine
        (200, {"runs_per_pack": "auto"}, 64),  # of 800, but not more
        (200, {"runs_per_pack": 5}, 5),
        (1, {"runs_per_pack": 5, "side_by_side": 3}, 15),
        (20, {"runs_per_pack": "auto", "side_by_side": 2}, 20),
    ],
)
def test_how_many_runs_one_job_trains(seeds, training, size):
    study = load(lambda v: v.update(seeds=list(range(1, seeds + 1))))
    assert len(study.runs()) == 4 * seeds
    assert pack_size(study, {"side_by_side": 1} | training) == size


def test_settings_lead_back_to_the_run():
    import json

    run = a_run(b=2, base_lr=0.003, norm="batch", train_images=7)
    assert Run.from_settings(json.loads(json.dumps(run.settings))) == run


def test_packs_hold_every_run_once_and_rows_whole():
    study = load(lambda v: small(v).update(batch_sizes=[2, 4, 8, 16], bn_batch_sizes=[2, 4]))
    runs, packs = study.runs(), list(cut_into_packs(study, 8).values())
    assert sorted((run for pack in packs for run in pack.runs), key=runs.index) == runs
    assert len(packs) == 4 and len({pack.name for pack in packs}) == 4
    for key in {lane_key(run) for run in runs}:
        assert sum(any(lane_key(run) == key for run in pack.runs) for pack in packs) == 1
    assert list(cut_into_packs(study, 8).values()) == packs


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


def test_experiments_that_figures_compare_are_in_one_order_for_all_of_them():
    figures = {
        "fig01": {"kind": "accuracy", "experiments": ["d"]},
        "fig15": {"kind": "best", "experiments": ["b", "c"]},
        "fig16": {"kind": "range", "experiments": ["a", "b"]},
        "cost": {"kind": "cost", "experiments": ["c", "e"]},
    }
    study = Study("made.yaml", "made", "A study", "", {}, figures)
    assert [study.compared(figure) for figure in figures] == [[], *[["b", "c", "a", "e"]] * 3]


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
    packs = cut_into_packs(study, 100).values()
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


def test_experiments_and_the_configuration_have_seeds_of_their_own():
    assert {run.seed for run in load(dict(seeds=[7])).runs()} == {7}
    assert {run.seed for run in load(dict(seeds=[7]), seeds=3).runs()} == {1, 2, 3}


def test_a_study_goes_through_json_unchanged():
    import json

    study = load(base_and_dependent, scale={"name": "less", "epochs": 0.5})
    assert Study.from_json(json.loads(json.dumps(study.as_json()))) == study


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


def test_zero_has_no_sign_in_a_name():
    (with_sign,), (plain,) = (
        {run.setting for run in load(dict(weight_decay=zero, momentum=zero)).runs()} for zero in (-0.0, 0)
    )
    assert math.copysign(1, with_sign.weight_decay) == math.copysign(1, with_sign.momentum) == 1 and with_sign == plain


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
    ("written", "name", "arguments"),
    [
        ("alexnet", "alexnet", {}),
        ("timm:a ( )", "timm:a", {}),
        ("timm:a( c = [1, (2, 3)], b='x(y)',d=None )", "timm:a(b='x(y)', c=(1, (2, 3)), d=None)",
         {"b": "x(y)", "c": (1, (2, 3)), "d": None}),
        ("timm:a(b=-1, c=1e-3, e=True)", "timm:a(b=-1, c=0.001, e=True)", {"b": -1, "c": 0.001, "e": True}),
    ],
)  # fmt: skip
def test_a_model_with_arguments_has_one_name(written, name, arguments):
    assert models.canonical(written) == models.canonical(name) == name
    assert models.arguments(written) == arguments and models.base_name(written) == name.partition("(")[0]


def test_models_of_other_arguments_have_other_runs_in_folders_of_the_models_name():
    names = {a_run(model=f"timm:a(b={b})", norm="own").name("f" * 64) for b in (1, 2)}
    assert len(names) == 2 and all(name.startswith("made_timm-a-own_m4_") for name in names)
