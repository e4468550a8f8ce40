"""DVC: a fresh clone pulls the data from the repository itself."""

import shutil
import subprocess
import sys

import pytest
from helpers import PROJECT

from smallbatch.data import prepared


def run(folder, *command):
    return subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture
def clone(tmp_path):
    if not (PROJECT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout, so there is nothing to clone")
    assert run(tmp_path, "git", "clone", "--quiet", str(PROJECT), "clone").returncode == 0
    return tmp_path / "clone"


def test_dvc_pull_on_a_fresh_clone_and_beside_data_of_ones_own(clone):
    pull = (sys.executable, "-m", "dvc", "pull")
    done = run(clone, *pull)
    assert done.returncode == 0, done.stdout
    data = prepared.read(clone / "data" / "digits")
    assert (data.meta.train, data.meta.test) == (1437, 360)
    assert prepared.fingerprint(data.meta.classes, data.train, data.test) == data.meta.fingerprint
    own = clone / "data" / "mine" / "file"
    own.parent.mkdir()
    own.write_text("x")
    assert run(clone, *pull).returncode == 0 and own.exists()


REMOTE, DATA, PUSH = range(3)
"""The lines that docs/sharing.md shows for a remote of one's own."""


@pytest.mark.parametrize(
    "order", [(REMOTE, DATA, PUSH), (DATA, REMOTE, PUSH), (REMOTE, PUSH, DATA), (PUSH, DATA, REMOTE)]
)
def test_the_lines_for_a_remote_of_ones_own_work_in_any_order(order, clone, tmp_path):
    """In a clone that pulled nothing. A push that came early says why, or pushes what there is, and goes again."""
    page = (PROJECT / "docs" / "sharing.md").read_text(encoding="utf-8")
    block = page.partition("## Your own remote")[2].partition("```sh\n")[2].partition("```")[0]
    lines = block.replace("ssh://host/smallbatch", str(tmp_path / "disk")).splitlines()
    assert len(lines) == 3
    (clone / "data" / "cifar10").mkdir(parents=True)
    (clone / "data" / "cifar10" / "meta.json").write_text("{}")
    for line in [*order, PUSH] if order[-1] != PUSH else order:
        done = run(clone, "bash", "-c", f'set -e; dvc() {{ "{sys.executable}" -m dvc "$@"; }}\n{lines[line]}')
        if line == PUSH and "[core]\n    remote = lab" not in (clone / ".dvc" / "config").read_text():
            assert done.returncode and "remote 'lab' doesn't exist" in done.stdout
        else:
            assert done.returncode == 0, done.stdout
    stored, pushed = (
        {path.name for path in folder.rglob("*") if path.is_file()}
        for folder in (PROJECT / ".dvc" / "store", tmp_path / "disk")
    )
    # The data set's folder, its file, and data.dvc's other data and the runs, which were fetched.
    assert pushed > stored and len(pushed - stored) == 2


def test_git_changes_no_byte_of_a_clone(clone, tmp_path):
    """Such objects as text by their look, which `core.autocrlf` gives other line ends, are damaged for DVC."""
    (clone / ".gitattributes").write_bytes((PROJECT / ".gitattributes").read_bytes())
    files = {
        ".dvc/store/files/md5/00/text": b"a\nb\n",
        ".dvc/store/files/md5/00/dos": b"a\r\nb\r\n",
        "x.svg": b"<svg>\n",
    }
    for name, content in files.items():
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_bytes(content)
    commit = "git -c user.name=A -c user.email=a@example.org -c core.autocrlf=input commit --quiet --message files"
    assert run(clone, "bash", "-ec", f"git -c core.autocrlf=input add --force --all && {commit}").returncode == 0
    done = run(tmp_path, "git", "-c", "core.autocrlf=true", "clone", "--quiet", str(clone), "windows")
    assert done.returncode == 0, done.stdout
    tracked = run(clone, "git", "ls-files", "-z").stdout.strip("\0").split("\0")
    assert set(files) < set(tracked)
    assert [name for name in tracked if (tmp_path / "windows" / name).read_bytes() != (clone / name).read_bytes()] == []
    assert {name: (tmp_path / "windows" / name).read_bytes() for name in files} == files


def test_the_embedded_remote_stays_small():
    # As a disk counts: whole blocks for each file and folder.
    assert sum(-(-path.stat().st_size // 4096) * 4096 for path in (PROJECT / ".dvc" / "store").rglob("*")) < 25e6
