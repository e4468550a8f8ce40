"""What `pip install .` brings: the whole library and its command, which need nothing of the folder they came from."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers import PROJECT, copy_project

from smallbatch import __version__
from smallbatch.core.console import MODULES_BY_EXTRA, log_and_exit_on_error


def run(*command: str, **options) -> str:
    """What a command prints; fails with all of that."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that pip builds of the project's own files."""
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_project(folder / "source")
    (source / "pyproject.toml").write_bytes((PROJECT / "pyproject.toml").read_bytes())
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    [built] = folder.glob("*.whl")
    return built


def test_a_wheel_has_every_file_of_the_library(wheel):
    library = PROJECT / "workflow" / "smallbatch"
    files = {path.relative_to(library.parent) for path in library.rglob("*") if path.is_file()}
    expected = {str(path) for path in files if "__pycache__" not in path.parts and path.name != ".gitattributes"}
    assert {Path(name).suffix for name in expected} == {".py", ".cpp", ".yaml", ".j2", ".txt", ".typed"}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("smallbatch/")}
    assert packed == expected


def test_an_installed_library_checks_a_study_by_its_command(wheel, tmp_path):
    target = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--target", str(target), str(wheel))
    folder = copy_project(tmp_path / "mine")
    for part in ("workflow", "Snakefile"):
        (folder / part).rename(tmp_path / part)
    environment = os.environ | {"PYTHONPATH": str(target)}
    printed = run(str(target / "bin" / "smallbatch"), "check", cwd=folder, env=environment)
    assert "study laptop: " in printed and printed.rstrip().endswith("nothing wrong was found")
    where = "import smallbatch; print(smallbatch.__file__, smallbatch.__version__)"
    assert run(sys.executable, "-c", where, cwd=folder, env=environment).split() == [
        str(target / "smallbatch" / "__init__.py"), __version__,
    ]  # fmt: skip
    kernels = "from importlib.resources import files; print(*(f.name for f in files('smallbatch').rglob('*.cpp')))"
    assert run(sys.executable, "-c", kernels, cwd=folder, env=environment).split() == ["kernels.cpp"]


def test_what_an_extra_brings_is_named_where_it_lacks(caplog):
    with pytest.raises(SystemExit), log_and_exit_on_error():
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    [line] = caplog.messages
    assert line.startswith("error: sklearn is not installed in ") and "smallbatch[training]" in line
    with pytest.raises(ModuleNotFoundError), log_and_exit_on_error():
        raise ModuleNotFoundError("No module named 'mine'", name="mine")


def test_every_extra_whose_lack_is_named_is_one_of_the_project():
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = {"sklearn": "scikit-learn", "PIL": "pillow", "mlflow": "mlflow-skinny"}
    for extra, modules in MODULES_BY_EXTRA.items():
        names = {re.match(r"[\w-]+", requirement)[0] for requirement in extras[extra]}
        assert names == {packages.get(module, module) for module in modules}
