"""What befalls jobs of a lab, on a real SLURM: the runs come out, bit-identical, and nothing is trained again.

With a file's name in SMALLBATCH_FAULTS, each test adds a line of JSON to it: what was lost, and what came out.
"""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from cluster import Cluster, ask, states, wait_for
from helpers import a_run, copy_project, made_data, snakemake

from smallbatch.core.files import read_json
from smallbatch.runs.records import METRICS_FILE, RECORD_FILE
from smallbatch.runs.store import RunStore
from smallbatch.training.checkpoints import Checkpoint
from smallbatch.training.pack import train_pack

PACKS = {2: "resnet8-bn_m2_", 8: "resnet8-bn_m8_"}
LANES, SEEDS, MANY_SEEDS = 8, 16, 40
SAVES_EVERY = 1.0
OFTEN = "--slurm-init-seconds-before-status-checks=2"


GROUP_SECONDS = 8
"""That a group of lanes is about to train, on whatever machine: long enough for a fault to befall it."""


@functools.cache
def epochs() -> int:
    """Of the study's ten as many as last so long here: measured on about as many images as one epoch has."""
    runs = [a_run(model="resnet8", norm="batch", batch_size=2, seed=seed, epochs=22) for seed in range(LANES)]
    with tempfile.TemporaryDirectory() as folder:
        train_pack(runs, made_data(Path(folder, "data", "made")), Path(folder), device="cpu")
        store = RunStore(Path(folder))
        names = [record.parent.name for record in store.root.glob(f"*/{RECORD_FILE}")]
        epoch = sum(store.read(name).outcome.seconds for name in names)
    return min(10, max(3, round(GROUP_SECONDS / epoch)))


def study(seeds: int, target: str = "trained") -> tuple[str, ...]:
    """`laptop`, cut down to two packs; lanes are said, so that every machine cuts them alike."""
    scale = f"scale={{name: faults, epochs: {epochs() / 10}, batch_sizes: [2, 8], figures: [fig04]}}"
    return (
        "--config", f"seeds={seeds}", scale,
        f"training={{lanes: {LANES}, runs_per_pack: {seeds}, keep_weights: all, device: cpu}}", "--", target,
    )  # fmt: skip


def observed(folder: Path) -> Path:
    """A copy of the project with short times, for short trainings, that keeps the logs of all attempts."""
    copy = copy_project(folder)
    for name, (old, new) in CHANGES.items():
        file = copy / "workflow" / "smallbatch" / name
        assert file.read_text().count(old) == 1
        file.write_text(file.read_text().replace(old, new))
    return copy


CHANGES = {
    "training/checkpoints.py": ("INTERVAL = 45.0", f"INTERVAL = {SAVES_EVERY}"),
    "cluster/slurm_jobs.py": ("STOP_BEFORE_LIMIT_S = 120", "STOP_BEFORE_LIMIT_S = 20"),
    "core/console.py": ('_LogFile(log_file, "w",', '_LogFile(f"{log_file}.all", "a",'),
}


def runs(folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """Run -> what came of it: metrics and weights."""
    store = RunStore(folder / "results")
    names = [record.parent.name for record in store.root.glob(f"*/{RECORD_FILE}")]
    return {
        name: ((store.root / name / METRICS_FILE).read_bytes(), store.weights(store.read(name)).read_bytes())
        for name in names
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after the study was trained here, without SLURM and without a fault."""
    folder = observed(tmp_path_factory.mktemp("undisturbed") / "project")
    done = snakemake(folder, "--cores", "2", *study(MANY_SEEDS))
    assert done.returncode == 0 and len(runs(folder)) == 2 * MANY_SEEDS, done.stdout
    return folder


class Place(NamedTuple):
    """How far a group of lanes is by its checkpoint, and when that was saved."""

    epoch: int
    step: int
    saved: float


class Study:
    """The study, handed to SLURM by a snakemake in the background."""

    def __init__(
        self, folder: Path, undisturbed: Path, seeds: int = SEEDS, more: tuple[str, ...] = (), target: str = "trained"
    ) -> None:
        self.folder, self.undisturbed, self.seeds = observed(folder / "project"), undisturbed, seeds
        (self.folder / "data").symlink_to(undisturbed / "data")
        self.arguments = ("--profile", "slurm", OFTEN, *more, *study(seeds, target))
        self.row: dict[str, object] = {}

    def __enter__(self) -> "Study":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        subprocess.run(["scancel", "--user=root", "--full"], check=True)
        wait_for(lambda: not ask("squeue", "-h"), "the end of the jobs")

    def start(self) -> None:
        with open(self.folder / "told", "a", encoding="utf-8") as told:
            command = [sys.executable, "-m", "snakemake", *self.arguments]
            self.snakemake = subprocess.Popen(command, cwd=self.folder, stdout=told, stderr=told)

    def kill(self) -> None:
        self.snakemake.kill()
        self.snakemake.wait()

    def asks(self) -> bool:
        """Whether snakemake asks for the state of its jobs right now."""
        threads = Path(f"/proc/{self.snakemake.pid}/task").glob("*/children")
        children = [number for file in threads for number in file.read_text().split()]
        return any("squeue" in Path(f"/proc/{number}/cmdline").read_text(encoding="utf-8") for number in children)

    @property
    def told(self) -> str:
        return (self.folder / "told").read_text()

    def log(self, m: int) -> str:
        return "".join(file.read_text(errors="replace") for file in self.folder.glob(f"logs/train/{PACKS[m]}*.log.all"))

    def job(self, m: int) -> list[str]:
        """Number, state and node of the job that trains the pack of batch size m; nothing if there is none.

        It is the task of an array: its number is that of the array and its own, and not what the job itself is told.
        """
        told = [read_json(file)["job"] for file in self.folder.glob(f"results/packs/{PACKS[m]}*.json")]
        lines = ask("squeue", "-h", "-o", "%A %i %T %N").splitlines()
        found = [line.split()[1:] for line in lines if line.split()[0] in told]
        return (found[-1] + [""])[:3] if found else ["", "", ""]

    def place(self, m: int) -> Place | None:
        """Where the group that trains at batch size m is, if it has begun."""
        for file in self.folder.glob("results/checkpoints/*/*.pt"):
            try:
                saved, state = file.stat().st_mtime, Checkpoint(file).load()
            except FileNotFoundError:
                continue
            if state and state["runs"][0]["batch_size"] == m and "model" in state:
                return Place(state["epoch"], state["step"], saved)
        return None

    def ripe(self, m: int) -> bool:
        """Whether much is lost if the training is struck now: its last checkpoint is about as old as one gets."""
        place = self.place(m)
        return place is not None and place.epoch > 0 and time.time() - place.saved > 0.6 * SAVES_EVERY

    def finished(self, m: int) -> int:
        return sum(f"_m{m}_" in name for name in runs(self.folder))

    def strike(self, fault: Callable[[str, str], object], over: Callable[[], object], m: int = 2) -> None:
        """Wait until a pack is in the midst of training, let `fault` befall its job, and wait until it goes on.

        Args:
            fault: takes the job's number and node.
            over: whether the job has stopped training.
            m: batch size of the pack.
        """
        wait_for(lambda: self.finished(m) >= LANES and self.ripe(m), "training", 200)
        number, state, node = self.job(m)
        assert state == "RUNNING"
        at, before = time.time(), self.resumed(m)
        fault(number, node)
        wait_for(over, "the fault")
        left = self.place(m)
        assert left, "the training was over before the fault; nothing is shown"
        wait_for(lambda: len(self.resumed(m)) > len(before), "the training to go on", 300)
        place = self.resumed(m)[-1]
        warned = f"stopped by SIGTERM at {place};" in self.log(m)  # and so it saved what it had
        self.row |= {
            "seconds_lost": 0.0 if warned else round(max(0.0, at - left.saved), 1),
            "goes_on_after_seconds": round(time.time() - at),
            "resumed_at": place,
            "saves_every": SAVES_EVERY,
        }

    def resumed(self, m: int) -> list[str]:
        """Where trainings of a pack have gone on from a checkpoint so far."""
        return re.findall(r"resumed at (epoch \d+, step \d+)", self.log(m))

    def check(self, fault: str, failures: int = 0) -> None:
        """The study goes through, with so many jobs failed in Snakemake's eyes, as if nothing had happened."""
        wait_for(lambda: self.snakemake.poll() is not None, "snakemake", 500)
        assert self.snakemake.returncode == 0, self.told
        wanted, found = runs(self.undisturbed), runs(self.folder)
        assert len(found) == 2 * self.seeds
        assert found == {name: wanted[name] for name in found}
        for m in PACKS:
            begun = self.log(m).count("needs up to") - self.log(m).count("resumed at")
            assert begun == self.seeds / LANES, "a group was begun more than once:\n" + self.log(m)
        assert self.told.count("Trying to restart job") == failures
        self.tell({"fault": fault, **self.row, "retries_used": failures, "runs": len(found), "identical": True})

    @staticmethod
    def tell(row: dict[str, object]) -> None:
        if file := os.environ.get("SMALLBATCH_FAULTS"):
            with open(file, "a", encoding="utf-8") as rows:
                rows.write(json.dumps(row) + "\n")


def test_the_study_goes_through(cluster, undisturbed, tmp_path):
    study = Study(tmp_path, undisturbed, target="figures")
    (study.folder / "data").unlink()  # is prepared by SLURM, too
    with study:
        study.check("none")
    for form in ("pdf", "svg", "png"):
        assert (study.folder / f"paper_figures/laptop-faults-seeds{SEEDS}/fig04.{form}").stat().st_size > 1000
    arrays = re.findall(r"Submitted array job with Snakemake IDs \d+,\d+ and SLURM job ID", study.told)
    assert len(arrays) == 1, study.told


def test_scancel(cluster, undisturbed, tmp_path):
    with Study(tmp_path, undisturbed) as study:
        study.strike(
            lambda number, node: ask("scancel", number),
            lambda: study.job(2)[1] not in ("RUNNING", "COMPLETING"),
        )
        study.check("scancel of a training job", failures=1)


def test_a_time_limit_is_shorter_than_the_training(cluster, undisturbed, tmp_path):
    limit = ("--set-resources", "train:runtime=1")
    with Study(tmp_path, undisturbed, MANY_SEEDS, limit) as study:
        wait_for(lambda: "back into its queue" in study.log(2), "the warning", 200)
        study.row = {"seconds_lost": 0.0, "warned": True}
        study.check("a time limit shorter than the training")


def preempt(number: str, node: str) -> None:
    whole_node = ("--partition=urgent", f"--nodelist={node}", "--exclusive", "--output=/dev/null")
    assert ask("sbatch", *whole_node, "--wrap=sleep 5")


@pytest.mark.parametrize(("arrays", "grace", "by_itself"), [("none", 120, True), ("train", 5, False)])
def test_preemption_with_grace_time(arrays, grace, by_itself, cluster, undisturbed, tmp_path):
    """SLURM warns jobs, which save and leave at once; tasks of an array train on until it is over, and save then."""
    ask("scontrol", "update", "partition=main", f"GraceTime={grace}")
    try:
        with Study(tmp_path, undisturbed, MANY_SEEDS, (f"--slurm-array-jobs={arrays}",)) as study:
            study.strike(preempt, lambda: study.job(2)[1] == "PENDING")
            # Of an array SLURM ends tasks right after it warned them, which may be before they put themselves back.
            assert not by_itself or "SLURM has put job" in study.log(2)
            assert study.row["seconds_lost"] == 0 and (study.row["goes_on_after_seconds"] < grace) == by_itself
            study.check(f"preemption with {grace} s of grace, arrays: {arrays}")
    finally:
        ask("scontrol", "update", "partition=main", "GraceTime=0")


def test_a_node_is_set_down(cluster, undisturbed, tmp_path):
    with Study(tmp_path, undisturbed) as study:
        study.strike(
            lambda number, node: ask("scontrol", "update", f"node={node}", "state=down", "reason=test"),
            lambda: study.job(2)[1] == "PENDING",
        )
        down = [node for node, state in states().items() if state.startswith("down")]
        ask("scontrol", "update", f"node={','.join(down)}", "state=resume")
        study.check("a node is set down")


def test_a_node_dies(cluster, undisturbed, tmp_path):
    with Study(tmp_path, undisturbed) as study:
        died = []

        def crash(number: str, node: str) -> None:
            cluster.kill(node)
            died.append(node)

        study.strike(crash, lambda: study.job(2)[1] == "PENDING")
        cluster.start_node(died[0])
        study.check("a node dies with all its processes")


def test_a_node_is_silent_while_its_job_goes_on(cluster, undisturbed, tmp_path):
    """SLURM starts the job a second time, elsewhere; it waits for the first, and finds its runs."""
    with Study(tmp_path, undisturbed) as study:
        node = train_unseen(study, cluster, cluster.lose)
        study.check("slurmd of a node dies, its job lives on")
        cluster.kill(node)
        cluster.start_node(node)


def train_unseen(study: Study, cluster: Cluster, lose: Callable[[str], object]) -> str:
    """SLURM loses a node, whose job trains on and meets the second one in the shared folder; returns the node."""
    wait_for(lambda: study.place(2), "training", 200)
    _, _, node = study.job(2)
    at = time.time()
    lose(node)
    cluster.tell(node, signal.SIGSTOP, "python")  # or the first would be through before the second starts
    wait_for(lambda: "another job trains" in study.log(2), "the second job")
    cluster.tell(node, signal.SIGCONT, "python")
    study.row = {"seconds_lost": 0.0, "goes_on_after_seconds": round(time.time() - at)}
    return node


@pytest.mark.parametrize("cluster", [{"networks": True}], indirect=True)
def test_a_host_is_cut_off_while_its_job_goes_on(cluster, undisturbed, tmp_path):
    """Two hosts with networks of their own share nothing but the folder; the cable of one is pulled."""
    with Study(tmp_path, undisturbed) as study:
        node = train_unseen(study, cluster, lambda node: cluster.plug(node, "down"))
        study.check("a host is cut off, its job lives on")
        cluster.plug(node, "up")
        wait_for(lambda: states()[node] == "idle", f"{node} to be back")


def test_slurmctld_is_restarted(cluster, undisturbed, tmp_path):
    with Study(tmp_path, undisturbed) as study:
        wait_for(lambda: study.place(2) and study.place(8), "training", 200)
        cluster.kill("slurmctld")
        at = time.time()
        wait_for(study.asks, "a question of snakemake that stays without an answer")
        wait_for(lambda: study.finished(2) + study.finished(8) == 2 * SEEDS, "training without slurmctld")
        cluster.start_controller()
        study.row = {"seconds_lost": 0.0, "goes_on_after_seconds": 0, "slurmctld_away": round(time.time() - at)}
        study.check("slurmctld is killed and restarted")


def test_snakemake_is_killed(cluster, undisturbed, tmp_path):
    """Its jobs go on; those of the next call wait for them, and find their runs."""
    with Study(tmp_path, undisturbed) as study:
        wait_for(lambda: study.place(2) and study.place(8), "training", 200)
        before = runs(study.folder)
        study.kill()
        assert "--unlock" in snakemake(study.folder, *study.arguments).stdout
        assert snakemake(study.folder, "--unlock", *study.arguments).returncode == 0
        study.start()
        study.row = {"seconds_lost": 0.0, "runs_before": len(before)}
        study.check("snakemake is killed and called again")


@pytest.mark.parametrize("cluster", [{"accounting": True}], indirect=True)
def test_preemption_by_the_books(cluster, undisturbed, tmp_path):
    """Where there is accounting, snakemake can ask that for the state of its jobs."""
    with Study(tmp_path, undisturbed, more=("--slurm-status-command=sacct",)) as study:
        study.strike(preempt, lambda: study.job(2)[1] == "PENDING")
        study.check("preemption, on a cluster with accounting")
