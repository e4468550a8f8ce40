"""SLURM through its own commands: GPUs of a cluster, a check of the jobs it accepts, and requeueing this job."""

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from smallbatch.core.errors import Stopped, UserError

PROGRAMS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")

NEVER_STARTING_REASONS = re.compile(
    r"Partition(Config|NodeLimit|TimeLimit)|MaxMemPerLimit|BadConstraints|Invalid(Account|QOS)|(Account|QOS)NotAllowed|"
    r"Job's (account|QOS) .*|(Assoc|QOS)\w*Per(Job|Node)\w*|QOSMin\w*"
)
"""SLURM's reasons for a pending job that cannot start until somebody changes the job or the cluster."""

REASON_DELAY_S = 1.0
"""Seconds until SLURM reports a precise reason: at first it may report only PartitionConfig."""

STOP_BEFORE_LIMIT_S = 120
"""Seconds before its time limit at which a job stops; as `--signal` in slurm/config.yaml."""

COMMAND_TIMEOUT_S = 30.0
"""Seconds for which a command is retried: as long as a controller may take to restart."""

log = logging.getLogger(__name__)


def has_gpus(partition: str | None = None) -> bool:
    """Whether a partition has GPUs; False without SLURM.

    Args:
        partition: the name of the partition; None: the cluster's default.
    """
    if shutil.which("sinfo") is None:
        return False
    output = _run("sinfo", "--noheader", "--format=%P %G").stdout
    offers = [line.split(maxsplit=1) for line in output.splitlines()]
    # The default partition's name ends in an asterisk, also where it is asked for by its name.
    asked = [
        gres for name, gres in offers if (name.removesuffix("*") == partition if partition else name.endswith("*"))
    ]
    return any("gpu" in gres for gres in asked)


def check(requests: Mapping[str, Sequence[str]]) -> None:
    """Check that SLURM accepts jobs like these, and leaves none of them pending for ever.

    Each is submitted as an empty job, and cancelled as soon as SLURM has reported why it is pending:
    `sbatch --test-only` accepts jobs that never start, and refuses jobs that only wait for a node that is down.

    Args:
        requests: description of a job -> the options of `sbatch` that request its resources.

    Raises:
        UserError: a command of SLURM is missing, or SLURM refuses a job; with SLURM's message.
    """
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise UserError(
            f"this machine has no SLURM ({', '.join(missing)}: not found in PATH): "
            "call snakemake where jobs are submitted, or without --profile slurm"
        )
    submitted: dict[str, str] = {}
    try:
        for words, options in requests.items():
            submitted[_submit(words, options)] = words
        time.sleep(REASON_DELAY_S)
        for job, reason in _reasons(submitted):
            if NEVER_STARTING_REASONS.fullmatch(reason):
                raise UserError(f"SLURM would never start {submitted[job]}: {reason}")
    finally:
        if submitted:
            _run("scancel", *submitted)


def _submit(words: str, options: Sequence[str]) -> str:
    """Submit an empty job; returns its number."""
    done = _run("sbatch", "--parsable", "--job-name=check", "--output=/dev/null", *options, "--wrap=true")
    if done.returncode:
        lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in done.stderr.splitlines()]
        raise UserError(f"SLURM refuses {words}: {'; '.join(lines)}")
    return done.stdout.strip().partition(";")[0]


def _reasons(jobs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    output = _run("squeue", "--noheader", f"--jobs={','.join(jobs)}", "--states=PENDING", "--format=%i %r").stdout
    for line in output.splitlines():
        job, _, reason = line.partition(" ")
        yield job, reason


@contextlib.contextmanager
def requeued_when_stopped() -> Iterator[None]:
    """Context that requeues this SLURM job when a signal stops the block, unless SLURM is ending the job anyway.

    Such a signal warns of the time limit or of preemption: the same job runs again, and does not count as failed.
    Outside SLURM nothing is done.

    Raises:
        Stopped: the block was stopped; raised in either case, since this process has to end.
    """
    with _warned():
        try:
            yield
        except Stopped:
            _requeue()
            raise


def _requeue() -> None:
    if not (job := _job()):
        return
    state = _ask("squeue", "--noheader", f"--jobs={job}", "--format=%T").stdout.strip()
    if state != "RUNNING":
        log.info("SLURM ends job %s itself (%s)", job, state or "its state is not to be had")
        return
    # As soon as the job is requeued, all its processes get SIGTERM, including this one and scontrol.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    done = _ask("scontrol", "requeue", job)
    if done.returncode:
        log.error("SLURM does not let job %s go again: %s", job, " ".join(done.stderr.split()))
    else:
        log.info("SLURM has put job %s back into its queue", job)


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    """Context in which this process gets SIGTERM before the job's time limit, where SLURM does not send it.

    SLURM 22.05 did not apply `--signal` to tasks of an array, and no version does to processes outside of steps.
    """
    ends = _end() if "SLURM_ARRAY_TASK_ID" in os.environ else None
    if ends is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    signal.alarm(max(1, round((ends - datetime.now()).total_seconds()) - STOP_BEFORE_LIMIT_S))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _end() -> datetime | None:
    """The time at which this job reaches its time limit; None if it has no limit."""
    output = _ask("squeue", "--noheader", f"--jobs={_job()}", "--format=%e").stdout.strip()
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(output)
    return None


def _job() -> str:
    """The number of this job, or of this task of an array, for SLURM's commands; empty outside SLURM."""
    variables = os.environ
    if "SLURM_ARRAY_TASK_ID" in variables:
        return f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
    return variables.get("SLURM_JOB_ID", "")


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM, retrying while the controller does not answer."""
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    while True:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return subprocess.CompletedProcess(command, 1, "", str(error))
        if "contact" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)
