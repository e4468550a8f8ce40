"""The script for a visit to a device does on the CPU what it shall do elsewhere."""

import json
import tarfile

import numpy as np
import pytest
import torch

import visit

CPU, DATA = torch.device("cpu"), visit.random_dataset


@pytest.fixture(scope="module")
def data():
    return visit.random_dataset(visit.CIFAR10, 256)


def test_lanes_are_right_and_a_resumed_training_identical(data):
    assert visit.lanes_against_alone(data, CPU, "alexnet", "none") < 1e-4
    assert visit.resumed_is_identical(data, CPU)


def a_step(do, seconds=5.0):
    return visit.Step(seconds, do, lambda found: f"found {found['x']}")


def test_each_step_is_written_and_one_that_fails_does_not_keep_the_others_from_theirs(tmp_path, monkeypatch):
    out, had = tmp_path / "visit.json", []

    def first(visitor, seconds):
        had.append(seconds)
        return {"x": 1}

    def fails(visitor, seconds):
        assert json.loads(out.read_text())["steps"] == {"first": {"x": 1}}
        raise ValueError("no such luck")

    def late(visitor, seconds):
        monkeypatch.setattr(visit, "monotonic", lambda: 1e12)
        return {"x": 3}

    steps = {"first": a_step(first), "fails": a_step(fails), "late": a_step(late), "never": a_step(first)}
    monkeypatch.setattr(visit, "STEPS", steps | {"not asked for": a_step(first)})
    visitor = visit.Visit.__new__(visit.Visit)
    visitor.device = {"words": {"device": "An abacus"}}
    words = visit.make(visitor, list(steps), out, 14.0)
    found = json.loads(out.read_text())
    assert had == [5.0] and found["where"]["device"] == "An abacus"
    assert found["steps"] == {"first": {"x": 1}, "fails": {"error": "ValueError: no such luck"}, "late": {"x": 3}}
    assert words[0] == "first: found 1" and words[1] == "fails: FAILED: ValueError: no such luck"
    assert words[3] == "never: left out, 14 minutes are over"


def test_what_needs_a_gpu_comes_first_and_what_is_known_from_elsewhere_last():
    assert list(visit.STEPS) == ["tests", "checks", "recipes", "kernels", "peers", "study", "usual"]
    assert [cell.batch_size for cell in visit.PEER_CELLS] == sorted(cell.batch_size for cell in visit.PEER_CELLS)


def test_checks_say_what_they_found():
    said = visit.told({"lane against alone": {"alexnet none": 2e-6}, "resumed identical": False})
    assert "resumed DIFFERENT" in said and "2.0e-06" in said


def test_recipes_are_compared_with_the_cpu(monkeypatch):
    numbers = {"mse": [[1.0, 4.0], [2.0, 4.0]], "adamw": [[3.0], [3.0]]}

    def numbers_of(name, device):
        if name == "floats":
            raise RuntimeError("out of memory")
        return numbers[name].pop(0)

    monkeypatch.setattr(visit, "numbers_of", numbers_of)
    found = visit.recipes(CPU, ["mse", "adamw", "floats"])
    assert found == {"mse": 0.5, "adamw": 0.0, "floats": "out of memory"}
    assert "mse: 5e-01" in visit.of_recipes(found) and "out of memory" in visit.of_recipes(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", visit.RECIPES)
def test_recipes_train(name):
    found = visit.numbers_of(name, CPU)
    variances = 2 * 2 if name == "variance" else 0  # of two lanes, at two batch sizes
    assert len(found) == 2 * 2 + 2 + variances and all(np.isfinite(found))  # losses of two updates, and of a test


def test_a_program_is_asked_to_end_when_its_time_is_over():
    found = visit.program(["timeit", "-n", "1", "-r", "1", "import time; time.sleep(60)"], 1.0)
    assert found["ended"] == -15 and 1 <= found["seconds"] < 30
    found = visit.program(["smallbatch", "check", "--config", "study=none-such"], 60.0)
    assert found["ended"] == 1 and "none-such" in visit.of_program(found)


def test_what_a_study_wrote_is_brought_back(tmp_path, monkeypatch):
    def program(command, seconds):
        assert command == ["smallbatch", "train", "--config", "study=mine", "seeds=1"] and seconds == 7
        for name in ("runs/one", "weights", "published"):
            (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / "runs" / "one" / "run.json").write_text("{}")
        return {"ended": 0, "seconds": 3.0, "said": ["done"]}

    monkeypatch.setattr(visit, "PROJECT", tmp_path)
    monkeypatch.setattr(visit, "program", program)
    assert visit.study("mine", ["seeds=1"], tmp_path / "visit.json", 7)["runs"] == 1
    with tarfile.open(tmp_path / "visit.results.tar.gz") as archive:
        assert archive.getnames() == ["runs", "runs/one", "runs/one/run.json", "weights"]


def test_a_difference_is_seen():
    assert visit.furthest({"a": torch.tensor([1.0, 4.0])}, {"a": torch.tensor([2.0, 4.0])}) == 0.25


def a_row(m, kernels, **changed):
    row = visit.Row("alexnet", "none", m, 13, 13)._replace(**changed)
    return {
        "row": row._asdict(),
        "kernels": kernels,
        "torch": 100.0,
        "launches": 33,
        "tests": 2e6,
        "tests by torch": 1.0,
    }


@pytest.mark.slow
def test_kernels_are_raced_and_written(tmp_path, capsys):
    row = visit.Row("resnet8", "batch", 2, 2, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visit, "random_dataset", lambda dataset, images: DATA(dataset, min(images, 32)))
        found = visit.race(CPU, tmp_path / "race.json", [row], 0.01, 5.0)
    assert json.loads((tmp_path / "race.json").read_text()) == found
    assert {name for errors in found["apart"].values() for name in errors} == {"kernels", "torch"}
    assert all(error < 0.02 for errors in found["apart"].values() for error in errors.values())
    [one] = found["rows"]
    assert min(one["kernels"], one["torch"], one["tests"]) > 0
    assert "resnet8" in visit.of_race(found) and "resnet8" in capsys.readouterr().out


def test_a_race_tells_figure_1_by_rows_that_were_raced_and_those_between():
    rows = [a_row(2, 1e5), a_row(8, 4e5), a_row(2, 9e9, lanes=64), a_row(4, 9e9, model="resnet20")]
    minutes = visit.figure1_minutes([*rows, {"row": a_row(16, 1.0)["row"], "error": "out of memory"}])
    assert minutes == pytest.approx(
        {m: 13 * 82 * (50_000 / speed + 10_000 / 2e6) / 60 for m, speed in {2: 1e5, 4: 2e5, 8: 4e5}.items()}
    )
    assert "3 of 11 rows" in visit.of_race({"apart": {}, "rows": rows})
