"""A SLURM cluster on this machine, of Debian's packages slurm-wlm and munge, for tests: root may

    python tests/slurm/cluster.py up [--gpus N] [--accounting] [--networks]
    python tests/slurm/cluster.py down

Each node has a host name and a process table of its own (Linux namespaces), so that it can crash as a whole; and where
asked for, interfaces, addresses and ports of its own (package iproute2), as another host has. All that
the cluster writes lies in FOLDER, but for its settings: they are sought in /etc/slurm by jobs, which lose the variables
that would name another place. With accounting there is a slurmdbd with a MariaDB (packages slurmdbd, mariadb-server).
"""

import argparse
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER = Path(tempfile.gettempdir(), "smallbatch-slurm")
ETC = Path("/etc/slurm")
NODES = ("n1", "n2")
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", *NODES)
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare")
ACCOUNTING = ("mariadbd", "mariadb-install-db", "slurmdbd")
SWITCH, NETWORK = "smallbatch", "10.213.7"
"""The bridge that connects nodes with networks of their own, and their addresses' first three numbers; it has the 1."""
MARK = "# made by tests/slurm/cluster.py\n"

SETTINGS = """\
ClusterName=smallbatch
SlurmctldHost={host}({address})
SlurmUser=root
SlurmctldPort=17001
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld-pid
SlurmdPidFile={folder}/%n-pid
AuthType=auth/munge
# A job that goes again waits until its credential has expired: two minutes, or five seconds at least.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# The nodes are what is said here, not what the machine has.
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,bf_interval=2,sched_interval=2
# Seconds from SIGTERM to SIGKILL, and of silence: a node that is dead counts as down after some 15.
KillWait=10
SlurmdTimeout=5
MessageTimeout=5
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Jobs go to the emptier node.
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 LLN=YES
PartitionName=urgent Nodes=ALL PriorityTier=2
"""
NODE = "NodeName={name} NodeHostname={name} NodeAddr={address} Port={port} CPUs=2 RealMemory=32000{more}\n"
BOOKS = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=17010
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations
"""
DATABASE = """\
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort=17010
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
PidFile={folder}/slurmdbd-pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=smallbatch
"""


class Cluster:
    """Starts, kills and ends the daemons. One at a time on a machine."""

    def __init__(self, networks: bool = False) -> None:
        """
        Args:
            networks: whether each node has a network of its own.
        """
        self.networks = networks

    def up(self, gpus: int = 0, accounting: bool = False) -> None:
        """Bring the cluster up, and wait until its nodes are.

        Args:
            gpus: that each node claims to have.
            accounting: whether jobs are booked, on account `lab`; others are refused then.

        Raises:
            RuntimeError: there is one already.
        """
        if (ETC / "slurm.conf").exists():
            whose = "of its own" if _foreign(ETC / "slurm.conf") else "for tests; end it by: cluster.py down"
            raise RuntimeError(f"this machine has a SLURM {whose}")
        try:
            self._up(gpus, accounting)
        except BaseException:
            self.down()
            raise

    def _up(self, gpus: int, accounting: bool) -> None:
        for name in ("state", *NODES):
            (FOLDER / name).mkdir(parents=True)
        self._configure(gpus, accounting)
        if self.networks:
            self._connect()
        self._start_munge()
        if accounting:
            self._start_accounting()
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        wait_for(lambda: states() == dict.fromkeys(NODES, "idle"), "the nodes")

    def down(self) -> None:
        """End all that runs, and remove all that was written."""
        for name in reversed(DAEMONS):
            self.kill(name)
        if shutil.which("ip"):
            for command in (("link", "delete", SWITCH), *(("netns", "delete", _network(name)) for name in NODES)):
                ask("ip", *command)
        shutil.rmtree(FOLDER, ignore_errors=True)
        for file in ETC.glob("*.conf"):
            if not _foreign(file):
                file.unlink()

    def _configure(self, gpus: int, accounting: bool) -> None:
        place = {"folder": FOLDER, "host": socket.gethostname().partition(".")[0], "address": self._address()}
        more = f" Gres=gpu:fake:{gpus}" if gpus else ""
        nodes = [
            NODE.format(name=name, address=self._address(name), port=17002 + number, more=more)
            for number, name in enumerate(NODES)
        ]
        _write(
            "slurm.conf",
            SETTINGS.format(**place),
            "GresTypes=gpu\n" * bool(gpus),
            BOOKS.format(**place) * accounting,
            *nodes,
        )
        if gpus:
            devices = [FOLDER / f"gpu{number}" for number in range(gpus)]
            for device in devices:
                device.touch()
            _write("gres.conf", f"Name=gpu Type=fake File={','.join(map(str, devices))}\n")
        if accounting:
            _write("slurmdbd.conf", DATABASE.format(**place))

    def _address(self, node: str | None = None) -> str:
        """The address of a node; None: of the controller."""
        return f"{NETWORK}.{NODES.index(node) + 2 if node else 1}" if self.networks else "127.0.0.1"

    def _connect(self) -> None:
        """A network for each node, with a cable from there to the switch."""
        commands = [("link", "add", SWITCH, "type", "bridge")]
        commands += [("address", "add", f"{self._address()}/24", "dev", SWITCH), ("link", "set", SWITCH, "up")]
        for name in NODES:
            own = ("-netns", _network(name))
            commands += [
                ("netns", "add", _network(name)),
                ("link", "add", _network(name), "type", "veth", "peer", "name", "eth0", "netns", _network(name)),
                ("link", "set", _network(name), "master", SWITCH, "up"),
                (*own, "address", "add", f"{self._address(name)}/24", "dev", "eth0"),
                (*own, "link", "set", "eth0", "up"),
                (*own, "link", "set", "lo", "up"),
            ]
        for command in commands:
            subprocess.run(["ip", *command], check=True)

    def plug(self, name: str, state: str) -> None:
        """Put the cable of a node in (`up`) or pull it (`down`)."""
        subprocess.run(["ip", "link", "set", _network(name), state], check=True)

    def _start_munge(self) -> None:
        key, there = FOLDER / "munge.key", FOLDER / "munge.socket"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {"key": key, "pid": FOLDER / "munge.pid", "seed": FOLDER / "munge.seed"}
        named = [f"--{name}-file={file}" for name, file in files.items()]
        self._start("munged", "munged", "--foreground", f"--socket={there}", *named)
        wait_for(there.exists, "munged")

    def _start_accounting(self) -> None:
        data, there = FOLDER / "mariadb", FOLDER / "mariadb.socket"
        database = ("--no-defaults", "--user=root", f"--datadir={data}")
        subprocess.run(["mariadb-install-db", *database], check=True, stdout=subprocess.DEVNULL)
        self._start("mariadbd", "mariadbd", *database, f"--socket={there}", "--skip-networking")
        wait_for(there.exists, "MariaDB")
        self._start("slurmdbd", "env", f"MYSQL_UNIX_PORT={there}", "slurmdbd", "-D")
        wait_for(lambda: ask("sacctmgr", "-n", "show", "configuration"), "slurmdbd")
        for what in (("cluster", "smallbatch"), ("account", "lab"), ("user", "root", "account=lab")):
            wait_for(lambda what=what: ask("sacctmgr", "-i", "add", *what), f"{what[0]} {what[1]}")

    def start_controller(self) -> None:
        """Start slurmctld; jobs that another has left are known to it."""
        self._start("slurmctld", "slurmctld", "-D")

    def start_node(self, name: str) -> None:
        """Boot a node."""
        # Not `ip netns exec`, which mounts a /sys without the control groups that slurmd looks for.
        network = ("nsenter", f"--net=/run/netns/{_network(name)}") if self.networks else ()
        apart = (*network, "unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        # The shell outlives slurmd, so that a node can lose that alone.
        self._start(name, *apart, "sh", "-c", f"hostname {name}; slurmd -D -N {name} & wait; sleep infinity")

    def kill(self, name: str) -> None:
        """SIGKILL to a daemon, or to a node: all its processes end at once."""
        file = FOLDER / f"{name}.process"
        if file.exists():
            process = int(file.read_text())
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            wait_for(lambda: _ended(process), f"the end of {name}")
            file.unlink()

    def lose(self, name: str) -> None:
        """SIGKILL to slurmd of a node: its jobs go on, but SLURM sees them no more."""
        self.tell(name, signal.SIGKILL, "slurmd")

    def tell(self, name: str, what: signal.Signals, program: str) -> None:
        """Send a signal to the processes of a node that run a program."""
        node = int((FOLDER / f"{name}.process").read_text())
        table = os.readlink(f"/proc/{node}/ns/pid_for_children")
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # has ended
                if os.readlink(place / "ns/pid") == table and (place / "comm").read_text().strip() == program:
                    os.kill(int(place.name), what)

    def _start(self, name: str, *command: str) -> None:
        with open(FOLDER / f"{name}.log", "ab") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            started = subprocess.Popen(command, **streams, start_new_session=True)
        (FOLDER / f"{name}.process").write_text(str(started.pid))


def _network(node: str) -> str:
    """The name of a node's network, and of its end of the cable at the switch."""
    return f"{SWITCH}-{node}"


def why_not(gpus: int = 0, accounting: bool = False, networks: bool = False) -> str:
    """Why a variant of the cluster cannot be had here, if it cannot."""
    if os.geteuid():
        return "SLURM's daemons are started by root alone"
    missing = [name for name in PROGRAMS + ACCOUNTING * accounting + ("ip",) * networks if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


@contextlib.contextmanager
def running(gpus: int = 0, accounting: bool = False, networks: bool = False) -> Iterator[Cluster]:
    """A cluster for the length of a block; waits while another process has one so."""
    with open(FOLDER.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster = Cluster(networks)
        cluster.up(gpus, accounting)
        try:
            yield cluster
        finally:
            cluster.down()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not in so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def ask(*command: str) -> str:
    """What a SLURM command prints; nothing where the controller does not answer."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def states() -> dict[str, str]:
    """Node -> its state, as sinfo says it."""
    return dict(line.split() for line in ask("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines())


def _write(name: str, *settings: str) -> None:
    file = ETC / name
    file.touch(0o600)
    file.write_text(MARK + "".join(settings))


def _foreign(file: Path) -> bool:
    return file.exists() and not file.read_text(encoding="utf-8").startswith(MARK)


def _ended(process: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, os.WNOHANG)
    return not Path(f"/proc/{process}").exists()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A SLURM cluster on this machine, for tests.")
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("--gpus", type=int, default=0, help="that each node claims to have")
    parser.add_argument("--accounting", action="store_true", help="whether jobs are booked, on account lab")
    parser.add_argument("--networks", action="store_true", help="whether each node has a network of its own")
    arguments = parser.parse_args()
    if arguments.what == "down":
        Cluster().down()
    else:
        try:
            Cluster(arguments.networks).up(arguments.gpus, arguments.accounting)
        except RuntimeError as error:
            raise SystemExit(f"error: {error}") from None
