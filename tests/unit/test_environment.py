"""The locked environment: hashes, no addresses, reasons, conda pins that agree with it; and the commit of the code."""

import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import tarfile
from importlib.metadata import version

import pytest
import yaml
from helpers import PROJECT

from smallbatch.core import environment
from smallbatch.core.environment import STAMP, git_commit

ENVS = PROJECT / "envs"
LOCK = (ENVS / "requirements.txt").read_text()
LOCKS = {name: (ENVS / f"{name}.txt").read_text() for name in ("requirements", "reader", "development")}
_spec = importlib.util.spec_from_file_location("conda_pins", ENVS / "conda_pins.py")
conda_pins = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(conda_pins)


def direct() -> list[tuple[str, str]]:
    """Each requirement of pyproject.toml with its reason."""
    lists = (PROJECT / "pyproject.toml").read_text().partition("\n[project.scripts]")[0]
    return re.findall(r'^    "(.+?)",(.*)$', lists, re.MULTILINE)


def test_every_direct_dependency_has_a_reason_and_is_locked():
    names = [*conda_pins.locked(LOCK), *conda_pins.locked(LOCKS["development"])]
    assert len(direct()) > 20
    for requirement, reason in direct():
        assert reason.strip().startswith("# "), requirement
        assert re.match(r"[\w-]+", requirement)[0] in names


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_hashes_and_no_address(name):
    assert "://" not in LOCKS[name] and "--index-url" not in LOCKS[name] and "--find-links" not in LOCKS[name]
    blocks = re.split(r"\n(?=\S)", LOCKS[name].strip())
    assert len(blocks) > 10 and all("--hash=sha256:" in block for block in blocks)


def test_readers_have_what_others_have_but_nothing_that_trains():
    full, reader = conda_pins.locked(LOCK), conda_pins.locked(LOCKS["reader"])
    assert reader.items() <= full.items()
    assert {"snakemake", "seaborn", "dvc"} <= reader.keys()
    assert not {name for name in reader if re.match("torch|nvidia|cuda|triton|scikit-learn", name)}


def test_what_developers_use_comes_on_top_and_is_not_installed_for_users():
    tools = {"pytest", "pytest-xdist", "ruff", "snakefmt", "mypy", "playwright", "uv", "snakedeploy"}
    full, more = conda_pins.locked(LOCK), conda_pins.locked(LOCKS["development"])
    assert tools <= more.keys() and not full.keys() & more.keys()


@pytest.mark.parametrize("path", conda_pins.conda_files(), ids=lambda path: path.name)
def test_conda_pins_agree_with_the_lock(path):
    pins = yaml.safe_load(path.read_text())["dependencies"][-1]["pip"]
    versions = conda_pins.locked(LOCK)
    assert pins and all(versions[name] == pinned for name, pinned in (pin.split("==") for pin in pins))


def test_every_rule_that_computes_names_a_conda_file():
    for path in (PROJECT / "workflow" / "rules").glob("*.smk"):
        for rule in re.split(r"\n(?=rule |checkpoint )", path.read_text()):
            if re.search(r"^\s+script:", rule, re.MULTILINE):
                assert re.search(r'conda:\s+"\.\./\.\./envs/(training|analysis|sharing)\.yaml"', rule), rule[:60]


def test_the_installed_torch_is_one_that_the_code_is_meant_for():
    assert version("torch").split("+")[0].rsplit(".", 1)[0] in ("2.11", "2.15")


def git(folder, *arguments):
    person = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *person, "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """One with the file that says the commit of an archive."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    root = tmp_path / "a project"
    library = (root / STAMP).parent
    library.mkdir(parents=True)
    for name in (STAMP.name, ".gitattributes"):
        shutil.copy(PROJECT / STAMP.parent / name, library)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "First")
    return root


def test_the_commit_is_that_of_the_projects_own_repository_whatever_the_caller_has(repository, tmp_path, monkeypatch):
    head = git(repository, "rev-parse", "HEAD")
    assert git_commit(repository) == (head, "")
    git(repository, "worktree", "add", "-q", str(tmp_path / "beside"))
    assert git_commit(tmp_path / "beside") == (head, "")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", "shallow")
    assert git_commit(tmp_path / "shallow") == (head, "")
    git(tmp_path, "init", "-q", "other")
    git(tmp_path / "other", "commit", "-qm", "Other", "--allow-empty")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    assert git_commit(repository) == (head, "")


@pytest.mark.parametrize("changed", [STAMP, STAMP.with_name("my_model.py")], ids=["edited", "new"])
def test_what_is_not_as_committed_is_named(changed, repository):
    head = git(repository, "rev-parse", "HEAD")
    (repository / "notes.txt").write_text("of no run")
    assert git_commit(repository) == (head, "")
    (repository / changed).write_text("x = 1")
    said = f"records will say {head[:12]}+changes: {changed} is not as committed; commit it first"
    assert git_commit(repository) == (f"{head}+changes", said)


@pytest.mark.parametrize(("count", "more"), [(2, ""), (3, ""), (5, ", 2 more")])
def test_several_files_that_are_not_as_committed_are_named(count, more, repository):
    new = [STAMP.with_name(f"new_{number}.py") for number in range(count)]
    for file in new:
        (repository / file).write_text("x = 1")
    said = f"+changes: {', '.join(map(str, new[:3]))}{more} are not as committed; commit them first"
    assert git_commit(repository)[1].endswith(said)


def test_a_compiled_module_that_git_ignores_is_named(repository):
    """Python takes it before a module of its name whose source is committed."""
    file = STAMP.with_name(f"my_model{importlib.machinery.EXTENSION_SUFFIXES[0]}")
    (repository / ".git/info/exclude").write_text("*.so\n*.log\n")
    for name in (file, file.with_name("notes.log")):
        (repository / name).write_bytes(b"x")
    assert git_commit(repository)[1].endswith(f"+changes: {file} is not as committed; commit it first")


@pytest.mark.parametrize("hide", ["exclude", "--assume-unchanged", "--skip-worktree", "core.fsmonitor"])
def test_what_git_passes_over_is_named_too(hide, repository):
    file, head = repository / STAMP, git(repository, "rev-parse", "HEAD").strip()
    if hide == "exclude":
        file = file.with_name("my_model.py")
        (repository / ".git/info/exclude").write_text("my_model.py\n")
    elif hide == "core.fsmonitor":  # one that has never seen a change
        git(repository, "config", hide, "printf 'token\\0' #")
        git(repository, "update-index", "--fsmonitor")
        git(repository, "status")
    else:
        git(repository, "update-index", hide, str(STAMP))
        assert git_commit(repository) == (head, "")
    file.write_text("x = 1\n")
    said = f"records will say {head[:12]}+changes: {file.relative_to(repository)} is not as committed; commit it first"
    assert git_commit(repository) == (f"{head}+changes", said)


def test_links_out_of_the_workflow_are_named(repository, tmp_path):
    """Git has where a link leads, and nothing of what is there."""
    outside, file = tmp_path / "mine.py", STAMP.with_name("mine.py")
    outside.write_text("x = 1")
    (repository / file).symlink_to(outside)
    (repository / STAMP.with_name("inside.py")).symlink_to(STAMP.name)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "Linked")
    assert git_commit(repository)[1].endswith(f"+changes: {file} is not as committed; commit it first")
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "workflow").symlink_to(repository / "workflow")
    git(lab, "init", "-q")
    git(lab, "add", "-A")
    git(lab, "commit", "-qm", "Lab")
    assert git_commit(lab)[1].endswith("+changes: workflow is not as committed; commit it first")


def test_edits_in_a_submodule_are_named_however_git_is_set(repository, tmp_path):
    zoo, place = tmp_path / "zoo", STAMP.with_name("zoo")
    zoo.mkdir()
    (zoo / "net.py").write_text("K = 1")
    git(zoo, "init", "-q")
    git(zoo, "add", "-A")
    git(zoo, "commit", "-qm", "Zoo")
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(zoo), str(place))
    git(repository, "config", "-f", ".gitmodules", f"submodule.{place}.ignore", "all")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "With it")
    assert git_commit(repository)[1] == ""
    (repository / place / "net.py").write_text("K = 2")
    assert git_commit(repository)[1].endswith(f"+changes: {place} is not as committed; commit it first")


def test_an_archive_knows_its_commit_and_that_nothing_compares_it(repository, tmp_path):
    head = git(repository, "rev-parse", "HEAD")
    git(repository, "archive", "--output", str(tmp_path / "kit.tar"), "HEAD")
    git(tmp_path, "init", "-q", "paper")
    git(tmp_path / "paper", "commit", "-qm", "Manuscript", "--allow-empty")
    for folder, why in (
        (tmp_path / "alone", "no git repository: "),
        (tmp_path / "paper" / "kit", "inside another git"),
    ):
        with tarfile.open(tmp_path / "kit.tar") as archive:
            archive.extractall(folder, filter="data")
        commit, said = git_commit(folder)
        assert commit == f"{head}+unknown-changes" and why in said and said.endswith("git commit -m 'As downloaded'")


def test_a_copy_has_no_commit_and_says_how_to_get_one(repository, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(repository / "workflow", plain / "workflow")
    commit, said = git_commit(plain)
    assert commit == "unknown" and said.startswith("records will lack the commit, and cannot be published: ")
    assert "it is no git repository: work in a clone, or git init && git add -A && git commit" in said
    git(plain, "init", "-q")
    assert (
        git_commit(plain)[0] == "unknown" and "it has no commit yet: git add -A && git commit" in git_commit(plain)[1]
    )


def test_a_repository_that_git_does_not_trust_is_reported_with_the_command_that_mends_it(repository, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as git's own tests do
    commit, said = git_commit(repository)
    assert commit == "unknown" and said.endswith(f": git config --global --add safe.directory '{repository}'")


def test_without_git_the_commit_is_unknown(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(repository)[0] == "unknown" and "git cannot be called" in git_commit(repository)[1]


def test_what_a_record_will_lack_is_said_before_the_training(data_folder, tmp_path, monkeypatch, caplog):
    from helpers import a_run

    from smallbatch.training.pack import train_pack

    monkeypatch.setattr(environment, "git_commit", lambda: ("unknown", "records will lack the commit"))
    caplog.set_level("INFO")
    train_pack([a_run(epochs=1)], data_folder, tmp_path, device="cpu")
    told = caplog.messages
    assert told.index("records will lack the commit") < next(i for i, line in enumerate(told) if "accuracy" in line)
    caplog.clear()
    train_pack([a_run(epochs=1)], data_folder, tmp_path, device="cpu")
    assert "records will lack the commit" not in caplog.messages, "where nothing is trained there is nothing to say"


def test_where_a_training_went_on_elsewhere_is_said_in_order():
    begun, ended = {"torch": "2.11.0", "device": "cpu"}, {"torch": "2.15.0", "device": "cpu", "cuda": "12"}
    assert environment.merge([begun]) == begun and environment.differences([begun, begun]) == ""
    united = {"torch": "2.11.0 then 2.15.0", "device": "cpu", "cuda": "unknown then 12"}
    assert environment.merge([begun, ended]) == united
    assert environment.differences([begun, ended]) == "torch 2.11.0 then 2.15.0, cuda unknown then 12"
    assert environment.merge([begun, ended, begun])["torch"] == "2.11.0 then 2.15.0"
