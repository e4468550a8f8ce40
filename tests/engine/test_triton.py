"""The kernels for GPUs: interpreted, compiled for GPUs that are not there, and counted; with a GPU, trained by."""

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import PROJECT, a_run, made_data

from smallbatch.data import prepared
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.models import build
from smallbatch.training import lane_layers, variance
from smallbatch.training.distributed import ALONE, World
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.engines.trace import Graph, Unsupported
from smallbatch.training.engines.triton_kernels import engine as triton_engine
from smallbatch.training.optimizers import LaneSGD
from smallbatch.training.resources import device as devices
from smallbatch.training.trainer import LaneTrainer

triton = pytest.importorskip("triton", reason="torch brings it on Linux alone")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from smallbatch.training.engines.triton_kernels import kernels, launches, layer_layout, program, tiles  # noqa: E402

CIFAR = (3, 32, 32)
TYPES = {torch.float32: "*fp32", torch.int8: "*i8", int: "i32", float: "fp32"}
REGISTERS, SHARED = 255, 99 * 1024
"""Of a thread, and bytes of a block, that each of these GPUs has: the least is that of 8.6 and 8.9."""


@pytest.mark.slow
def test_in_the_interpreter():
    """In a process of its own: what is interpreted is so from the import of Triton on."""
    file = Path(__file__).with_name("triton_interpreter.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(file)],
        capture_output=True, text=True, cwd=PROJECT,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)


def program_of(model, norm, m, count, *, momentum=0.0, precision="float32"):
    """Of lanes that have no content, only shapes."""
    alone = build(model, CIFAR, 10, norm=norm, bn_batch_size=m)
    with torch.device("meta"):
        network = lane_layers.stack([alone.to("meta")] * count)
    named = dict(network.named_parameters())
    sgd = LaneSGD(list(named.values()), [1.0] * count, 5e-4, momentum)
    velocities = dict(zip(named, sgd.state, strict=True)) if momentum else {}
    tensors = named | dict(network.named_buffers())
    return program.Program(
        Graph(alone, CIFAR), tensors, velocities, m=m, sub_batch=m, precision=precision, sgd=sgd
    )  # fmt: skip


def compiled(launch, capability):
    """A launch's kernel for a GPU of some compute capability, which need not be there."""
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(launch.kernel.params):
        name = parameter.name
        if name in launch.constants:
            signature[name], constants[(place,)] = "constexpr", launch.constants[name]
            continue
        value = launch.arguments[name]
        if isinstance(value, launches.StepTensor):
            signature[name] = "*i64" if value is launches.StepTensor.LABELS else "*fp32"
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = TYPES[type(value)]
    options = {name: value for name, value in launch.constants.items() if name.startswith("num_")}
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(binary, folder):
    """Registers of a thread, bytes of its stack and of its local memory, as the assembler has it."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    (folder / "kernel.cubin").write_bytes(binary)
    said = subprocess.run(
        [tools / "cuobjdump", "-res-usage", folder / "kernel.cubin"], capture_output=True, text=True, check=True
    ).stdout
    return [int(re.search(rf"{name}:(\d+)", said).group(1)) for name in ("REG", "STACK", "LOCAL")]


def tiled(launch):
    """A kernel and its tile, without the sizes of the layer."""
    sizes = {"BM", "BN", "BK", "num_warps", "PRECISION", "SPLIT"}
    return launch.kernel.__name__, *(value for name, value in launch.constants.items() if name in sizes)


def distinct(launches):
    """Of each kernel and tile the launch of the largest layer."""
    return list(
        {tiled(launch): launch for launch in sorted(launches, key=lambda one: one.constants.get("CI", 0))}.values()
    )


CELLS = [("alexnet", "none", 2, 13), ("alexnet", "none", 512, 13), ("resnet20", "batch", 2, 13)]
LAUNCHES = [34, 37, 157]
PARTS = {"product", "finish_gradient", "sgd_update", "moments", "sum_chunks", "norm_test"}
"""Of kernels, and that which only tests launch."""

COMPILED = [(*CELLS[0], 90), (*CELLS[1], 90), (*CELLS[2], 90), (*CELLS[1], 89), (*CELLS[0], 80)]


STACK = {90: 16, 89: 256, 80: 256}
"""Bytes of a thread, at most, where registers do not hold all: 8.x has no products that read shared memory."""


@pytest.fixture
def triton_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "norm", "m", "count", "capability"), COMPILED)
def test_each_kernel_compiles_within_a_gpus_registers_and_shared_memory(
    model, norm, m, count, capability, tmp_path, triton_cache
):
    launches = distinct(program_of(model, norm, m, count).launches)
    if model != "alexnet":  # what AlexNet has not
        launches = [launch for launch in launches if "PRECISION" not in launch.constants]
    if capability < 90:  # products are what is compiled otherwise: one of each kind
        launches = {launch.kernel: launch for launch in launches if "PRECISION" in launch.constants}.values()
    for launch in launches:
        kernel = compiled(launch, capability)
        registers, stack, local = resources(kernel.asm["cubin"], tmp_path)
        what = f"{launch.kernel.__name__} {launch.constants}"
        assert registers <= REGISTERS and stack + local <= STACK[capability], f"{what}: {registers}, {stack}, {local}"
        assert kernel.metadata.shared <= SHARED, f"{what}: {kernel.metadata.shared} bytes"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_products_of_other_precisions_compile_too(precision, triton_cache):
    launches = distinct(program_of("alexnet", "none", 8, 2, precision=precision).launches)
    kinds = {launch.kernel.__name__: launch for launch in launches if "PRECISION" in launch.constants}
    assert len(kinds) == 3
    for launch in kinds.values():
        assert precision in compiled(launch, 90).asm["ptx"]


@pytest.mark.parametrize("cell", [*CELLS, ("resnet8", "batch", 128, 3)])
def test_each_kernel_gets_what_it_takes_and_nothing_else(cell):
    """The interpreter does not mind."""
    for launch in program_of(*cell, momentum=0.9).launches:
        options = {name for name in launch.constants if name.startswith("num_")}
        given = [*launch.arguments, *(launch.constants.keys() - options)]
        assert sorted(given) == sorted(parameter.name for parameter in launch.kernel.params), launch.kernel.__name__


def test_a_step_takes_few_launches():
    """800 without these kernels for AlexNet at m = 2."""
    assert [len(program_of(*cell).launches) for cell in CELLS] == LAUNCHES


def test_offsets_do_not_overflow_with_64_lanes_of_2048():
    whole = program_of("alexnet", "none", 2048, 64)
    for launch in whole.launches:
        assert all(programs <= 65535 for programs in launch.grid[1:]), launch.grid
        for value in launch.arguments.values():
            if isinstance(value, torch.Tensor) and value.dim() == 5:
                assert value[0].numel() <= layer_layout.MAX_ELEMENTS < 64 * 2048 * 32 * 32 * 16


def test_a_mini_batch_too_large_for_offsets_goes_through_torch():
    with pytest.raises(Unsupported, match="more than 2147483647 numbers at once in one lane"):
        layer_layout.check(Graph(build("alexnet", CIFAR, 10), CIFAR), 1 << 17)
    layer_layout.check(Graph(build("alexnet", CIFAR, 10), CIFAR), 1 << 16)


def test_tests_do_not_overflow_either():
    """Of 128 x 128 pixels in 192 channels, of which 16,384 images at once would."""
    wide = torch.nn.Sequential(torch.nn.Conv2d(1, 192, 1), torch.nn.Flatten(), torch.nn.Linear(192 * 128 * 128, 2))
    assert triton_engine.test_batch_size(Graph(wide, (1, 128, 128))) == (2**31 - 1) // (192 * 128 * 128)
    assert triton_engine.test_batch_size(Graph(build("alexnet", CIFAR, 10), CIFAR)) == 1 << 14


def test_tiles_and_parts_are_what_was_fastest():
    """Of Figure 1's layers with 13 lanes on an H200, rows of the measurements."""
    assert tiles.forward(2 * 64 * 13, 64, 64, 576, image=True)[:2] == (16, 64)
    assert tiles.forward(8 * 64 * 13, 64, 64, 576, image=True)[:2] == (32, 32)
    assert tiles.forward(512 * 64 * 13, 64, 64, 576, image=True)[:2] == (256, 64)
    assert tiles.input_gradient(8 * 64 * 13, 64, 576, image=True)[:2] == (64, 32)
    assert tiles.input_gradient(512 * 64 * 13, 64, 576, image=True)[:2] == (64, 64)
    assert tiles.weight_gradient(256, 1024, 2, image=False) == (64, 32, 16, 2)
    assert (
        tiles.chunks(5 * 13 * 4, 8 * 256) == 8 and tiles.chunks(19 * 13 * 4, 512 * 64) == 8 and tiles.chunks(4, 2) == 1
    )


def test_memory_is_that_of_all_buffers():
    """What is reckoned before is no less than what a program takes, and no more than twice as much."""
    for cell in CELLS:
        m, count, momentum = *cell[2:], 0.9
        whole = program_of(*cell, momentum=momentum)
        held = {id(t): t for launch in whole.launches for t in launch.arguments.values() if isinstance(t, torch.Tensor)}
        own = {id(t) for t in (*whole.tensors.values(), *whole.velocities.values())}
        taken = sum(tensor.nbytes for key, tensor in held.items() if key not in own)
        reckoned = (
            4
            * count
            * (
                layer_layout.floats_per_lane(whole.graph, m, m, momentum)
                + m * layer_layout.floats_per_example(whole.graph)
            )
        )
        assert 0.5 * reckoned < taken < reckoned


def test_kernels_are_chosen_on_a_gpu_alone(monkeypatch):
    monkeypatch.setattr(devices, "triton_version", lambda device: "3" if device.type == "cuda" else None)
    alone, gpu = build("alexnet", CIFAR, 10), torch.device("cuda")

    def graph(run=None, model=alone, device=gpu, world=ALONE, shape=CIFAR):
        return triton_engine.graph_for(model, run or a_run(), shape, device, world)

    assert graph() and not graph(device=torch.device("cpu")) and not graph(world=World(0, 2))
    assert not graph(model=build("alexnet", (3, 224, 224), 10), shape=(3, 224, 224))
    assert graph(a_run(momentum=0.9, weight_decay=0.1, augment_pad=1, augment_cutout=2))


@pytest.mark.parametrize(("capability", "found"), [((7, 5), None), ((8, 0), triton.__version__)])
def test_the_kernels_need_a_gpu_from_ampere_on(capability, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.triton_version(torch.device("cuda")) == found


def test_of_a_model_that_they_do_not_know_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setattr(devices, "triton_version", lambda device: "3")
    group = build("alexnet", CIFAR, 10, norm="group")
    with caplog.at_level("INFO"):
        assert triton_engine.graph_for(group, a_run(norm="group"), CIFAR, torch.device("cuda"), ALONE) is None
    [line] = caplog.messages
    assert line == (
        "trained by torch's kernels, slower where batches are small; "
        "of this training ours do not know: it has GroupNorm"
    )


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"optimizer": "nesterov", "momentum": 0.9}, "optimizer nesterov"),
        ({"optimizer": "adamw", "betas": (0.9, 0.999), "clip_norm": 1.0}, "optimizer adamw, clipped gradients"),
        ({"weight_decay_excludes": ("biases",)}, "weights without decay"),
        ({"label_smoothing": 0.1, "augment_cutmix": 1.0}, "smoothed labels, mixed images"),
    ],
)
def test_a_recipe_that_they_do_not_know_is_torchs_from_the_log_to_the_record(recipe, words, monkeypatch, caplog):
    monkeypatch.setattr(devices, "triton_version", lambda device: "3")
    run, dataset = a_run(**recipe), DatasetInfo(CIFAR, 10, 64, 32)
    with caplog.at_level("INFO"):
        assert triton_engine.graph_for(build("alexnet", CIFAR, 10), run, CIFAR, torch.device("cuda"), ALONE) is None
    assert caplog.messages[-1].endswith(f"of this training ours do not know: {words}")
    assert triton_engine.graph_of(run, dataset, torch.device("cuda"), ALONE) is None


@pytest.mark.slow
def test_training_imports_triton_on_a_gpu_alone(tmp_path):
    folder = str(made_data(tmp_path / "data" / "made"))
    code = (
        "import sys, torch; from pathlib import Path; from helpers import a_run\n"
        "from smallbatch.data import prepared; from smallbatch.training.trainer import LaneTrainer\n"
        "LaneTrainer([a_run()], prepared.read(Path(sys.argv[1])), torch.device('cpu'))\n"
        "assert 'triton' not in sys.modules"
    )
    path = os.pathsep.join([str(PROJECT / "tests"), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", code, folder], check=True, env=os.environ | {"PYTHONPATH": path})


def test_a_record_says_which_kernels_trained(tmp_path, monkeypatch):
    """Others round otherwise: what is tested again by others may differ by a bound."""
    data = prepared.read(made_data(tmp_path / "data" / "made"))
    training = LaneTrainer([a_run()], data, torch.device("cpu"))
    training.backend = replace(training.backend, layout=None, graph="a graph")
    monkeypatch.setattr(devices, "triton_version", lambda device: "3.9")
    assert training.environment["kernels"] == "triton 3.9"
    training.backend = training.backend.without_kernels()
    assert training.environment["kernels"] == "none"


# From here on with a GPU.

KINDS = [
    {"model": "alexnet", "augment_pad": 2, "warmup": True, "weight_decay": 0.1, "base_lr": 2**-9},
    {"model": "resnet8", "norm": "batch", "batch_size": 4, "b": 2, "augment_flip": True, "momentum": 0.9},
    {"model": "alexnet", "batch_size": 8, "precision": "tf32", "base_lr": 2**-12},
    {"model": "resnet8", "batch_size": 8, "precision": "bf16", "base_lr": 2**-12},
]


@pytest.fixture
def gpu():
    return devices.pick("cuda")


@pytest.fixture
def data(tmp_path):
    return prepared.read(made_data(tmp_path / "data" / "made", train=56, shape=(3, 16, 16)))


def training_of(kind, data, gpu, count=3):
    return LaneTrainer([a_run(seed=seed, **kind) for seed in range(count)], data, gpu)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_updates_are_those_of_torch(kind, data, gpu):
    """One update: after more, a rectifier that rounding flips decides."""
    ours, theirs = (training_of(kind, data, gpu) for _ in range(2))
    assert isinstance(ours.engine, triton_engine.TritonEngine)
    theirs.backend = theirs.backend.without_kernels()
    theirs.engine = theirs.make_engine()
    before = {name: tensor.clone() for name, tensor in ours.state.model.state_dict().items()}
    losses = [training.engine.block(training.plan(), 0, 1, [1.0]) for training in (ours, theirs)]
    bound = 1e-3 if kind.get("precision", "float32") == "float32" else 0.1
    torch.testing.assert_close(*losses, rtol=bound, atol=bound)
    states = ours.state.model.state_dict(), theirs.state.model.state_dict()
    changes = [{name: state[name] - tensor for name, tensor in before.items()} for state in states]
    largest = max(change.norm() for change in changes[1].values())
    for name, change in changes[1].items():
        assert (changes[0][name] - change).norm() <= bound * max(change.norm(), 1e-2 * largest), name


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_the_variance_of_updates_is_that_of_torch(kind, data, gpu):
    ours = training_of(kind | {"variance_batch_sizes": (4, 8)}, data, gpu, count=2)
    torch_alone = EagerEngine(ours.state.network, ours.state.optimizer, ours.loader)
    bound = 1e-3 if kind.get("precision", "float32") == "float32" else 0.1
    for lane, other in zip(
        *(variance.measure(updates, ours.state.runs, 0) for updates in (ours.engine, torch_alone)), strict=True
    ):
        assert [row.trace for row in lane] == pytest.approx([row.trace for row in other], rel=bound)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_the_same_steps_give_the_same_bits(kind, data, gpu):
    ends = []
    for cut in (7, 3):
        training = training_of(kind, data, gpu)
        plan, last = training.plan(), min(7, training.loader.steps)
        for first in range(0, last, cut):
            training.engine.block(plan, first, min(first + cut, last), [1.0] * (min(first + cut, last) - first))
        ends.append(
            [
                tensor.clone()
                for tensor in (*training.state.model.state_dict().values(), *training.state.optimizer.state)
            ]
        )
    assert all(map(torch.equal, *ends))


def test_kinds_are_not_forgotten():
    """Each kernel is launched by one of the cells that are compiled."""
    launched = Counter(launch.kernel.__name__ for cell in CELLS for launch in program_of(*cell).launches)
    assert set(launched) == {name for name, kernel in vars(kernels).items() if hasattr(kernel, "params")} - PARTS
