"""The locked environment: hashes, no addresses, reasons, and conda pins that agree with it."""

import importlib.util
import re
from importlib.metadata import version

import pytest
import yaml
from conftest import PROJECT

ENVS = PROJECT / "envs"
LOCK = (ENVS / "requirements.txt").read_text()
_spec = importlib.util.spec_from_file_location("conda_pins", ENVS / "conda_pins.py")
conda_pins = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(conda_pins)


def direct() -> list[tuple[str, str]]:
    lines = (ENVS / "requirements.in").read_text().splitlines()
    return [tuple(line.partition("#")[::2]) for line in lines if not line.startswith("#")]


def test_every_direct_dependency_has_a_reason_and_is_locked():
    names = conda_pins.locked(LOCK)
    for requirement, reason in direct():
        assert reason.strip(), requirement
        assert re.match(r"[\w-]+", requirement)[0] in names


def test_the_lock_has_hashes_and_no_address():
    assert "://" not in LOCK and "--index-url" not in LOCK and "--find-links" not in LOCK
    blocks = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(blocks) > 100 and all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("path", conda_pins.conda_files(), ids=lambda path: path.name)
def test_conda_pins_agree_with_the_lock(path):
    pins = yaml.safe_load(path.read_text())["dependencies"][-1]["pip"]
    versions = conda_pins.locked(LOCK)
    assert pins and all(versions[name] == pinned for name, pinned in (pin.split("==") for pin in pins))


def test_every_rule_that_computes_names_a_conda_file():
    for path in (PROJECT / "workflow" / "rules").glob("*.smk"):
        for rule in re.split(r"\n(?=rule |checkpoint )", path.read_text()):
            if "script:" in rule:
                assert re.search(r'conda:\s+"\.\./\.\./envs/(training|analysis|sharing)\.yaml"', rule), rule[:60]


def test_the_installed_torch_is_one_that_the_code_is_meant_for():
    assert version("torch").split("+")[0].rsplit(".", 1)[0] in ("2.11", "2.15")
