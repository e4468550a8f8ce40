"""Read settings from YAML and check them against a closed schema; every mistake is reported in one line."""

import copy
import difflib
import functools
import math
import re
import stat
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from smallbatch.core.errors import UserError, refuse

LARGEST_FILE, MAX_VALUES, DEEPEST = 250_000, 100_000, 20
"""Limits of a file: bytes; values, counted as often as aliases repeat them; and levels. Studies have a tenth."""

LARGEST_NUMBER = 2**31 - 1
"""The largest whole number allowed: all integer types in use hold it."""


COMMAND_LINE = "--config"
"""The place that errors name for values from the command line."""


class _UniqueKeys(yaml.constructor.BaseConstructor):
    """Refuses duplicate keys, which YAML readers accept silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise _wrong(key, f"key {name!r} is no text; put it in quotes")
            if name in seen:
                raise _wrong(key, f"key {name!r} stands twice")
            seen.add(name)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


class _TextLoader(_UniqueKeys, yaml.BaseLoader):
    """Reads every scalar as text."""


class _Loader(_UniqueKeys, yaml.SafeLoader):
    """Also refuses what YAML readers read in different ways: 0123, dates."""

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number in plain decimal form, which all YAML readers read alike."""
        text = self.construct_scalar(node)
        if _WHOLE.fullmatch(text):
            return int(text)
        if _DECIMAL.fullmatch(text):
            if _is_lost(text):
                raise _wrong(
                    node,
                    f"{text}: would be read as {float(text)}; allowed: 0, and from 1e-307 to 1e308 with either sign",
                )
            return float(text)
        if text.lstrip("+-").lower() in (".inf", ".nan"):
            return float(text.replace(".", "", 1))
        raise _wrong(node, f"{text}: readers of YAML take it for different numbers; write it plainly, or in quotes")

    def construct_date(self, node: yaml.ScalarNode) -> None:
        """Refuse a date: no setting is one."""
        raise _wrong(node, f"{self.construct_scalar(node)}: a date to YAML; put it in quotes")


def _wrong(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})")
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_date)
# YAML 1.1 reads 5e-4 and 1.5e3 as text; other readers read numbers.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^{_DECIMAL.pattern}$"), list("-+.0123456789"))


def read_yaml(path: Path) -> Any:
    """Read one YAML file.

    Raises:
        UserError: the file is missing, not a regular file, too large or not YAML; says where.
    """
    text = _text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_extent(path, node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise UserError(f"{path}: {line}not valid YAML: {problem}") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # a tag does not fit its value
        raise UserError(f"{path}: not valid YAML: {error!r}") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply; allowed: {DEEPEST} levels") from error


def _text(path: Path) -> str:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: cannot be read: it is no file")
        if found.st_size > LARGEST_FILE:
            raise UserError(f"{path}: too large: {found.st_size} bytes; allowed: {LARGEST_FILE}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line}: not UTF-8, in which settings are written") from error


def _check_extent(path: Path, root: yaml.Node) -> None:
    """Check that a document is within the limits, with each alias replaced by its value."""
    counts: dict[int, int] = {}

    def count(node: yaml.Node, level: int) -> int:
        if level > DEEPEST:
            raise UserError(f"{path}: line {node.start_mark.line + 1}: nested too deeply; allowed: {DEEPEST} levels")
        if id(node) not in counts:
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            children = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
            counts[id(node)] = 1 + sum(count(one, level + 1) for one in children)
        return counts[id(node)]

    if count(root, 1) > MAX_VALUES:
        raise UserError(
            f"{path}: too many values, {count(root, 1)} with what its aliases repeat; allowed: {MAX_VALUES}"
        )


# JSON Schema accepts 3.0 as an integer; as a batch size 3.0 is a mistake, like 3.5.
# The stubs of jsonschema leave `extend` untyped.
_Validator: type[jsonschema.protocols.Validator] = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


@functools.cache
def _validator(schema_file: Path) -> jsonschema.protocols.Validator:
    # The library's own files, read many times faster than those of users, who have to be told where they are wrong.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return _Validator(yaml.load(schema_file.read_bytes(), loader))


def with_numbers(values: Any, schema_file: Path) -> Any:
    """The settings, with text converted to the number that it spells where the schema does not allow text.

    Snakemake's `--config` nests only text, and only the schema knows whether `0123` is a number or a name.

    Args:
        values: the settings as read; not modified.
        schema_file: a JSON schema in YAML.
    """
    values = copy.deepcopy(values)
    for error in list(_validator(schema_file).iter_errors(values)):
        parent, path = values, list(error.absolute_path)
        for key in path[:-1]:
            parent = parent[key]
        if path and isinstance(error.instance, str) and parent[path[-1]] == error.instance:  # not a key's name
            parent[path[-1]] = _number_or_text(error.instance)
    return values


def _number_or_text(text: str) -> int | float | str:
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) and not _is_lost(text) else text


def _is_lost(text: str) -> bool:
    """Whether a decimal number other than zero is read as zero, or any as infinite."""
    digits = text.lower().partition("e")[0]
    return math.isinf(float(text)) or (float(text) == 0 and any(digit in "123456789" for digit in digits))


def overridden(values: dict[str, Any], entries: Sequence[str], where: str) -> dict[str, Any]:
    """The settings, overridden by each KEY=VALUE of `entries` as by Snakemake's `--config`.

    Args:
        values: the settings as read.
        entries: the entries, whose values are YAML with scalars as text (see `with_numbers`); keys of a mapping that a
            value does not name stay unchanged.
        where: the place that errors name.

    Raises:
        UserError: an entry is not of this form, or a value is given twice.
    """
    merged: dict[str, Any] = _merged(values, read_entries(entries, where))
    return merged


def read_entries(entries: Sequence[str], where: str = "command line") -> dict[str, Any]:
    """The values of a command line's KEY=VALUE entries, nested; form and errors as documented in `overridden`."""
    given: dict[str, Any] = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        try:
            value = yaml.load(text, _TextLoader) if text else None
        except (yaml.YAMLError, RecursionError):
            equals = ""
        if not equals:
            refuse(
                where,
                COMMAND_LINE,
                entry,
                "KEY=VALUE, the value in YAML with each key once, in quotes where it has spaces",
            )
        if "." in key:
            first, *rest = key.split(".")
            nested = f"{first}={{{': {'.join(rest)}: {text}{'}' * len(rest)}"
            refuse(where, COMMAND_LINE, entry, f"a key within another as YAML has it: '{nested}'")
        if twice := _key_set_by_both(given, {key: value}):
            refuse(where, COMMAND_LINE, entry, f"each key once; {twice} was given before")
        given = _merged(given, {key: value})
    return given


def _key_set_by_both(given: Any, more: Any) -> str | None:
    """The first key, as `a.b.c`, that both set to a value, not counting keys with a mapping in both."""
    for key in given.keys() & more.keys():
        if not (isinstance(given[key], dict) and isinstance(more[key], dict)):
            return str(key)
        if twice := _key_set_by_both(given[key], more[key]):
            return f"{key}.{twice}"
    return None


_OPTIONS = {"-C": COMMAND_LINE, COMMAND_LINE: COMMAND_LINE} | dict.fromkeys(
    ("--configfile", "--configfiles"), "--configfile"
)
"""Options of Snakemake that take settings -> their long form."""


def entries_of(arguments: Sequence[str]) -> list[str]:
    """The KEY=VALUE entries that follow `--config` or `-C` in Snakemake's arguments.

    Raises:
        UserError: `--config` or `--configfile` is given more than once; Snakemake would use only the last.
    """
    entries: list[str] = []
    given_options: set[str] = set()
    option = None
    for argument in arguments:
        if argument.startswith("-"):
            name, equals, entry = argument.partition("=")
            if name.startswith("-C"):
                name, equals, entry = "-C", argument[2:], argument[2:].removeprefix("=")
            option = _OPTIONS.get(name)
            if option in given_options:
                raise UserError(f"command line: {option}: stands twice; allowed: once, with all its values behind it")
            given_options |= {option} if option else set()
            entries += [entry] if option == COMMAND_LINE and equals else []
        elif option == COMMAND_LINE:
            entries.append(argument)
    return entries


def location(key: str, where: str, given: Any) -> str:
    """The place of a key's value: the command line if it gave the key or one above the key, else the file.

    Args:
        key: the key, as `a.b.c`.
        where: the file.
        given: the values from the command line, nested like the settings.
    """
    for part in key.split("."):
        if not isinstance(given, dict):
            return COMMAND_LINE
        if part not in given:
            return where
        given = given[part]
    return COMMAND_LINE


def _merged(values: Any, changes: Any) -> Any:
    if not (isinstance(values, dict) and isinstance(changes, dict)):
        return changes
    return values | {key: _merged(values.get(key), change) for key, change in changes.items()}


def check(values: Any, schema_file: Path, where: str, given: Mapping[str, Any] | None = None) -> None:
    """Check settings against a schema.

    Args:
        values: the settings as read.
        schema_file: a JSON schema in YAML, whose descriptions say what is allowed.
        where: the file that errors name.
        given: the values from the command line; errors about them name the command line.

    Raises:
        UserError: a value is not allowed; names file, key, value and what is allowed.
    """
    location_of = functools.partial(location, where=where, given=given or {})
    _check_plain(values, location_of, ())
    errors = sorted(_validator(schema_file).iter_errors(values), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        _refuse_by_schema(errors[0], location_of)


def _check_plain(value: Any, location_of: Callable[[str], str], path: tuple[str, ...]) -> None:
    """Check that keys are text, numbers finite and not too large, and text free of control characters."""
    key = ".".join(path) or "top level"
    where = location_of(key)
    if isinstance(value, dict):
        for name, child in value.items():
            if not isinstance(name, str) or _has_control_characters(name):
                refuse(where, key, name, "keys that are a word; a number as a key is put in quotes")
            _check_plain(child, location_of, (*path, name))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            _check_plain(child, location_of, (*path, str(number)))
    elif isinstance(value, float) and not math.isfinite(value):
        refuse(where, key, value, "finite numbers")
    elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        refuse(where, key, value, f"whole numbers up to {LARGEST_NUMBER}")
    elif isinstance(value, str) and _has_control_characters(
        value if path[-1:] != ("description",) else value.replace("\n", "")
    ):
        refuse(where, key, value, "one line of text without control characters")


def _has_control_characters(text: str) -> bool:
    return any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


def _refuse_by_schema(error: jsonschema.ValidationError, location_of: Callable[[str], str]) -> None:
    schema: Any = error.schema  # these three are set in errors of a validator
    instance: Any = error.instance
    expected: Any = error.validator_value
    path = ".".join(str(part) for part in error.absolute_path)
    where = location_of(path)
    if error.validator == "additionalProperties":
        known = list(schema.get("properties", {}))
        unknown = next(key for key in instance if key not in known)
        key = f"{path}.{unknown}" if path else str(unknown)
        raise UserError(
            f"{location_of(key)}: {key}: unknown key{suggestion(unknown, known)}; allowed: {', '.join(known)}"
        )
    if error.validator == "required":
        missing = next(key for key in expected if key not in instance)
        raise UserError(f"{where}: {path or 'top level'}: key {missing!r} is missing")
    if error.validator == "uniqueItems":
        twice = next(item for i, item in enumerate(instance) if item in instance[:i])
        raise UserError(f"{where}: {path}: {twice!r} appears twice in {instance!r}; allowed: each value once")
    refuse(where, path or "top level", instance, schema.get("description", error.message))


def suggestion(word: str, known: list[str]) -> str:
    """A hint at the known word that `word` probably stands for, preferably one that begins with it; or empty."""
    longer = sorted(one for one in known if len(str(word)) > 2 and one.startswith(str(word)))
    close = longer or difflib.get_close_matches(str(word), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def refuse_unknown(where: str, key: str, value: str, known: list[str]) -> None:
    """Refuse a value that is none of the known ones, with a hint at that which it probably stands for."""
    if value not in known:
        refuse(where, key, value, f"{', '.join(known)}{suggestion(value, known)}")
