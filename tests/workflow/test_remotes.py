"""A remote on another machine, by SSH: what comes of it, and of a wrong password, a lost line and a damaged object.

The server is a process of its own, on the loopback interface (tests/helpers/sftp.py).
"""

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import PROJECT
from helpers.publishing import clone, make, names, sh, trained_repository

from smallbatch.runs.bundles import record_of_weights
from smallbatch.runs.store import RunStore

PASSWORD = "right"


@pytest.fixture
def mine(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A repository with a study that is trained and not published."""
    return trained_repository(tmp_path_factory, tmp_path / "mine")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The remote's folder, on its own machine; empty."""
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@contextlib.contextmanager
def serving(folder: Path, repository: Path, password: str = PASSWORD, life: int | None = None) -> Iterator[None]:
    """Serve a folder by SSH as remote `lab` of a repository, whose user gives this password."""
    command = [
        sys.executable,
        str(PROJECT / "tests" / "helpers" / "sftp.py"),
        str(folder),
        PASSWORD,
        *([str(life)] if life else []),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = int(server.stdout.readline())
            sh(
                repository,
                f"""dvc remote add --quiet --force lab ssh://me@127.0.0.1:{port}/store
                dvc remote modify lab verify true
                dvc remote modify --local lab password {password}""",
            )
            yield
        finally:
            server.kill()


def publish(folder: Path) -> str:
    """Publish to `lab`; what snakemake said."""
    return make(folder, "publish", more=["publish={remote: lab}"]).stdout


def pull(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dvc", "pull", "--remote", "lab"]
    return subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)


def workspace(folder: Path) -> dict[str, bytes]:
    """All that a user sees: every file but what snakemake, DVC, git and Python keep for themselves, and logs."""
    own = {".snakemake", ".dvc", ".git", "__pycache__", "logs", "benchmarks"}
    files = (path for path in folder.rglob("*") if not own & set(path.relative_to(folder).parts) and path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def commit(folder: Path) -> None:
    sh(folder, "git add docs/results.md paper_figures results && git commit --quiet --message 'Publish study one'")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the repository as `mine`, published at `disk`."""
    place = tmp_path_factory.mktemp("published")
    (place / "disk").mkdir()
    repository = trained_repository(tmp_path_factory, place / "mine")
    with serving(place / "disk", repository):
        said = publish(repository)
    assert "4 runs and 1 weights file of study laptop-one are in remote lab; 5 of these are new or changed" in said, (
        said
    )
    commit(repository)
    return place


@pytest.fixture
def theirs(published: Path, disk: Path, tmp_path: Path) -> Path:
    """A colleague's clone of what is published at `disk`, before anything was pulled."""
    shutil.copytree(published / "disk", disk, dirs_exist_ok=True)
    return clone(published / "mine", tmp_path / "theirs")


def test_what_is_published_by_ssh_is_pulled(published, theirs, disk):
    with serving(disk, theirs):
        done = pull(theirs)
    assert done.returncode == 0, done.stdout
    assert make(theirs, "all").returncode == 0
    assert names(theirs) == names(published / "mine")
    weights = list((theirs / "results" / "weights").glob("*.safetensors"))
    store = RunStore(theirs / "results")
    assert weights and all(store.read_weights(record_of_weights(store, path.name)) for path in weights)


def test_a_wrong_password(theirs, disk):
    before = workspace(theirs)
    with serving(disk, theirs, password="wrong"):
        done = pull(theirs)
    assert done.returncode and "me@127.0.0.1's password: " in done.stdout and workspace(theirs) == before, done.stdout


def test_a_wrong_password_of_who_publishes(mine, disk):
    before = workspace(mine)
    with serving(disk, mine, password="wrong"):
        said = publish(mine)
    assert workspace(mine) == before
    assert (
        "\nerror: dvc push: the remote does not take the password or key that DVC has for it, and asks for "
        "me@127.0.0.1's password\n" in said
    ), said


def test_a_remote_that_vanishes_while_one_publishes(mine, disk, tmp_path):
    before = workspace(mine)
    with serving(disk, mine, life=100_000):
        said = publish(mine)
    assert (
        "\nerror: dvc push: failed to push data to the cloud - " in said
        and "Traceback" not in said
        and workspace(mine) == before
    ), said
    with serving(disk, mine):
        assert "5 of these are new or changed" in publish(mine)
        commit(mine)
        theirs = clone(mine, tmp_path / "theirs")
        with serving(disk, theirs):
            done = pull(theirs)
            assert done.returncode == 0, done.stdout


def test_a_remote_that_vanishes_while_one_pulls(theirs, disk):
    before = workspace(theirs)
    with serving(disk, theirs, life=100_000):
        done = pull(theirs)
    assert done.returncode and "ERROR: " in done.stdout and workspace(theirs) == before, done.stdout
    with serving(disk, theirs):
        assert pull(theirs).returncode == 0


def test_an_object_that_is_damaged(theirs, disk):
    """What is whole comes, the damaged one does not, and is named."""
    before = workspace(theirs)
    (weights,) = theirs.glob("results/weights/*.dvc")
    (digest,) = re.findall("md5: (.*)", weights.read_text())
    victim = disk / "store" / "files" / "md5" / digest[:2] / digest[2:]
    content = victim.read_bytes()
    victim.chmod(0o644)
    victim.write_bytes(content[:1000] + b"x" + content[1001:])
    with serving(disk, theirs):
        done = pull(theirs)
        assert done.returncode and "ERROR: " in done.stdout and weights.stem in done.stdout, done.stdout
        come = workspace(theirs).keys() - before.keys()
        assert [Path(name).suffix for name in come] == [".zip"] and before.items() <= workspace(theirs).items()
        victim.write_bytes(content)
        assert pull(theirs).returncode == 0
    assert weights.with_suffix("").read_bytes() == content
