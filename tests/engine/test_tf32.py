"""Runs in TensorFloat-32: a precision of their own, on the GPUs that have it alone."""

import pytest
import torch
from helpers import a_run, made_data

from smallbatch.core.errors import UserError
from smallbatch.data import prepared
from smallbatch.training.pack import train_pack
from smallbatch.training.resources import device as devices
from smallbatch.training.resources.throughput import parameter_count
from smallbatch.training.trainer import LaneTrainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def clean(no_kernels, one_thread):
    """One thread, as the engine has it on the CPU; no tf32 left behind."""
    yield
    devices.set_precision("float32", CPU)


@pytest.fixture
def data(tmp_path):
    return prepared.read(made_data(tmp_path / "data" / "made", train=28))


def tf32_is_on():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_tf32_is_on_for_runs_that_say_so_and_for_no_other(data, monkeypatch):
    monkeypatch.setattr(devices, "has_precision", lambda precision, device: True)
    for precision, on in (("float32", False), ("tf32", True), ("bf16", False), ("tf32", True), ("float32", False)):
        LaneTrainer([a_run(precision=precision)], data, CPU)
        assert tf32_is_on() == (on, on)


def test_tf32_is_another_run():
    names = {a_run(precision=precision).name("f") for precision in ("float32", "tf32", "bf16")}
    assert len(names) == 3 and a_run(precision="float32").name("f") == a_run().name("f")


def test_tf32_is_refused_where_there_is_none_before_anything_is_trained(tmp_path):
    folder = made_data(tmp_path / "data" / "made")
    runs = [a_run(), a_run(precision="tf32")]
    message = "experiment: precision: 'tf32' is not allowed; allowed: float32 or bf16 on cpu"
    with pytest.raises(UserError, match=message):
        train_pack(runs, folder, tmp_path, device="cpu")
    assert not list(tmp_path.glob("runs/*"))
    with pytest.raises(UserError, match=message):
        LaneTrainer(runs[1:], prepared.read(folder), CPU)


def test_a_run_in_tf32_can_be_weighed_anywhere(data):
    assert parameter_count(a_run(precision="tf32"), data) == parameter_count(a_run(), data)


@pytest.mark.parametrize(("capability", "there"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_is_there_from_ampere_on(capability, there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.has_precision("tf32", torch.device("cuda")) is there
    assert devices.has_precision("float32", torch.device("cuda")) and not devices.has_precision("tf32", CPU)


@pytest.mark.gpu
def test_tf32_rounds_products_and_float32_does_not():
    gpu = devices.pick("cuda")
    if not devices.has_precision("tf32", gpu):
        pytest.skip("this GPU has no TensorFloat-32")
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=draws) for _ in range(2))
    x, w = torch.randn(32, 128, 16, 16, generator=draws), torch.randn(128, 128, 3, 3, generator=draws)
    exact = a.double() @ b.double(), torch.conv2d(x.double(), w.double())
    errors = {}
    for precision in ("float32", "tf32"):
        devices.set_precision(precision, gpu)
        ours = a.to(gpu) @ b.to(gpu), torch.conv2d(x.to(gpu), w.to(gpu))
        errors[precision] = [
            ((one.cpu().double() - other).norm() / other.norm()).item() for one, other in zip(ours, exact, strict=True)
        ]
    assert max(errors["float32"]) < 1e-5 < min(errors["tf32"])
    assert max(errors["tf32"]) < 1e-2
