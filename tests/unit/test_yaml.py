"""YAML is read as everybody reads it, and what readers differ over is refused."""

import math
import os
from pathlib import Path

import pytest
from helpers.studies import CONFIG

from smallbatch.core.errors import UserError
from smallbatch.study import yaml_validation
from smallbatch.study.yaml_validation import read_yaml
from smallbatch.study_file import SCHEMAS, load_study

pytestmark = pytest.mark.usefixtures("folder_of_studies")


def test_yaml_that_is_none_and_keys_that_stand_twice_are_reported_with_their_line(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: 1\nb: [\n")
    with pytest.raises(UserError, match=r"bad.yaml: line 3: not valid YAML"):
        read_yaml(bad)
    bad.write_text("a: 1\na: 2\n")
    with pytest.raises(UserError, match=r"bad.yaml: line 2: not valid YAML: key 'a' stands twice"):
        read_yaml(bad)


def repeated(times, form):
    """Each line names what the one before it has ten times over."""
    lines = [form.format(here=chr(98 + i), there=",".join([f"*{chr(97 + i)}"] * 10)) for i in range(times)]
    return "\n".join(["a: &a {x: 1}", *lines])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\ntitle: M\xf6we", "line 2: not UTF-8"),
        ("title: x".encode("utf-16"), "line 1: not UTF-8"),
        (b"a: \0", "not valid YAML: special characters are not allowed"),
        (b"[" * 5000, "nested too deeply; allowed: 20 levels"),
        (b"a: " + b"[" * 20 + b"]" * 20, "line 1: nested too deeply; allowed: 20 levels"),
        (b"a: &a [*a]", "line 1: nested too deeply; allowed: 20 levels"),
        (repeated(5, "{here}: &{here} [{there}]"), "too many values, 345685 with what its aliases repeat"),
        (repeated(9, "{here}: &{here} {{<<: [{there}]}}"), "too many values, "),
        (b"#" * 250_001, "too large: 250001 bytes; allowed: 250000"),
        (b"a: 1\n---\nb: 2", "line 2: not valid YAML: but found another document"),
        (b"b: {<<: {x: 1}, y: 1, y: 2}", "line 1: not valid YAML: key 'y' stands twice"),
        (b"1: a", "line 1: not valid YAML: key 1 is no text; put it in quotes"),
        (b"true: a", "line 1: not valid YAML: key True is no text; put it in quotes"),
        (b"null: a", "line 1: not valid YAML: key None is no text; put it in quotes"),
        (b"? [a]\n: b", "line 1: not valid YAML: key ['a'] is no text; put it in quotes"),
        (b"a: 0123", "line 1: not valid YAML: 0123: readers of YAML take it for different numbers"),
        (b"a: 0x1F", "line 1: not valid YAML: 0x1F: readers"),
        (b"a: 1_000", "line 1: not valid YAML: 1_000: readers"),
        (b"a: 1:30", "line 1: not valid YAML: 1:30: readers"),
        (b"a: 1\nb: -1.5e-400", "line 2: not valid YAML: -1.5e-400: would be read as -0.0; allowed: 0, and from"),
        (b"a: 0.02E-330", "line 1: not valid YAML: 0.02E-330: would be read as 0.0; allowed: 0, and from 1e-307 to"),
        (b"a: 1e400", "line 1: not valid YAML: 1e400: would be read as inf; allowed: 0, and from 1e-307 to 1e308"),
        (b"a: 2024-01-01", "line 1: not valid YAML: 2024-01-01: a date to YAML; put it in quotes"),
        (b"a: !!bool x", "not valid YAML: KeyError('x')"),
        (b"a: !!python/object/apply:os.getcwd []", "line 1: not valid YAML: could not determine a constructor"),
    ],
    ids=range(25),
)
def test_a_file_that_readers_choke_on_or_differ_over_is_refused(content, words, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        read_yaml(bad)
    assert str(caught.value).startswith(f"{bad}: {words}")


def test_a_file_may_have_as_much_as_is_allowed(monkeypatch, tmp_path):
    good = tmp_path / "good.yaml"
    good.write_bytes(b"#" * 250_000)
    assert read_yaml(good) is None
    good.write_bytes(b"a: " + b"[" * 19 + b"]" * 19)
    assert str(read_yaml(good)["a"]) == "[" * 19 + "]" * 19
    good.write_text("a: [1, 2]", encoding="utf-8")  # the mapping, its key, the list, two numbers
    monkeypatch.setattr(yaml_validation, "MAX_VALUES", 5)
    assert read_yaml(good) == {"a": [1, 2]}
    monkeypatch.setattr(yaml_validation, "MAX_VALUES", 4)
    with pytest.raises(UserError, match=r"good.yaml: too many values, 5 with what its aliases repeat; allowed: 4$"):
        read_yaml(good)


def test_what_is_plain_is_read_as_everybody_reads_it(tmp_path):
    good = tmp_path / "good.yaml"
    good.write_bytes(
        b"\xef\xbb\xbfa: &a [5e-4, 1.5e3, .5, 1., -3, 0, 0.0e-9, 2^-8, '0123', true]\nb: {<<: {x: 1}, y: *a}\n"
    )
    a = [0.0005, 1500.0, 0.5, 1.0, -3, 0, 0.0, "2^-8", "0123", True]
    assert read_yaml(good) == {"a": a, "b": {"x": 1, "y": a}}
    good.write_text("[.inf, -.inf, +.Inf]", encoding="utf-8")
    assert read_yaml(good) == [math.inf, -math.inf, math.inf], "what is not finite is refused by key"


@pytest.mark.parametrize("schema", sorted(SCHEMAS.glob("*.yaml")), ids=lambda schema: schema.stem)
def test_schemas_are_read_as_settings_are(schema):
    """They are read by a quicker reader, which takes 5e-4 for text and says nothing of a key that stands twice."""
    assert yaml_validation._validator(schema).schema == read_yaml(schema)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_what_stands_in_place_of_a_file_is_named(make):
    make(Path("config/studies/mine.yaml"))
    with pytest.raises(UserError, match=r"^config/studies/mine.yaml: cannot be read: it is no file$"):
        load_study(CONFIG | {"study": "mine"})
