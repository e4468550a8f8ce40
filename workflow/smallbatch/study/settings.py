"""Reading settings: YAML against a closed schema, every mistake refused in one line."""

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
"""Bytes of a file; values in it, counted as often as aliases repeat them; and levels. Studies have a tenth of that."""

LARGEST_NUMBER = 2**31 - 1
"""Of whole numbers: what all that counts with them holds."""


COMMAND_LINE = "--config"
"""Where a value was said that does not stand in a file."""


class _EachKeyOnce(yaml.constructor.BaseConstructor):
    """Refuses what readers of YAML pass over in silence: keys that stand twice."""

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


class _TextLoader(_EachKeyOnce, yaml.BaseLoader):
    """Takes every scalar for text."""


class _Loader(_EachKeyOnce, yaml.SafeLoader):
    """Refuses, too, what readers of YAML read differently: 0123, dates."""

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number in its plain decimal form, which all readers take for the same."""
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
        """No setting is a date."""
        raise _wrong(node, f"{self.construct_scalar(node)}: a date to YAML; put it in quotes")


def _wrong(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})")
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_date)
# YAML 1.1 reads 5e-4 and 1.5e3 as text; everybody else reads a number.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^{_DECIMAL.pattern}$"), list("-+.0123456789"))


def read_yaml(path: Path) -> Any:
    """Read one YAML file.

    Raises:
        UserError: it is missing, is no file, is too large or is not YAML; says where.
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
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # of a tag that does not fit its value
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
    """Make sure that a document is small, with each alias replaced by what it stands for."""
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


# JSON Schema takes 3.0 for an integer; as a batch size it is a slip like 3.5.
# Its stubs leave `extend` without types.
_Validator: type[jsonschema.protocols.Validator] = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


@functools.cache
def _validator(schema_file: Path) -> jsonschema.protocols.Validator:
    return _Validator(read_yaml(schema_file))


def read_as(values: Any, schema_file: Path) -> Any:
    """Settings in which text is the number that it spells, where the schema wants no text.

    Snakemake's `--config` nests only text, and only the schema knows whether `0123` is a number or a name.

    Args:
        values: what was read; stays as it is.
        schema_file: a JSON schema in YAML.
    """
    values = copy.deepcopy(values)
    for error in list(_validator(schema_file).iter_errors(values)):
        parent, path = values, list(error.absolute_path)
        for key in path[:-1]:
            parent = parent[key]
        if path and isinstance(error.instance, str) and parent[path[-1]] == error.instance:  # no name of a key
            parent[path[-1]] = _spelt(error.instance)
    return values


def _spelt(text: str) -> int | float | str:
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) and not _is_lost(text) else text


def _is_lost(text: str) -> bool:
    """Whether a decimal number is read as zero and is none, or as infinite."""
    digits = text.lower().partition("e")[0]
    return math.isinf(float(text)) or (float(text) == 0 and any(digit in "123456789" for digit in digits))


def overridden(values: dict[str, Any], entries: Sequence[str], where: str) -> dict[str, Any]:
    """Settings in which each KEY=VALUE of `entries` has its way, as of Snakemake's `--config`.

    Args:
        values: what was read.
        entries: the value is YAML, its scalars text (see `read_as`); of a mapping the keys that it does not name stay
            as they are.
        where: what the error names.

    Raises:
        UserError: an entry is not of this form, or a value is given twice.
    """
    merged: dict[str, Any] = _merged(values, read_entries(entries, where))
    return merged


def read_entries(entries: Sequence[str], where: str = "command line") -> dict[str, Any]:
    """What the KEY=VALUE of a command line say, and what is refused of them, see `overridden`."""
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
        if twice := _said_twice(given, {key: value}):
            refuse(where, COMMAND_LINE, entry, f"each key once; {twice} was given before")
        given = _merged(given, {key: value})
    return given


def _said_twice(given: Any, more: Any) -> str | None:
    """The first key, `a.b.c`, that both have, unless it only leads to others."""
    for key in given.keys() & more.keys():
        if not (isinstance(given[key], dict) and isinstance(more[key], dict)):
            return str(key)
        if twice := _said_twice(given[key], more[key]):
            return f"{key}.{twice}"
    return None


_OPTIONS = {"-C": COMMAND_LINE, COMMAND_LINE: COMMAND_LINE} | dict.fromkeys(
    ("--configfile", "--configfiles"), "--configfile"
)
"""Options of Snakemake with settings behind them."""


def entries_of(arguments: Sequence[str]) -> list[str]:
    """The KEY=VALUE that follow `--config` or `-C` among Snakemake's arguments.

    Raises:
        UserError: they, or files of settings, stand at several places, of which Snakemake takes the last alone.
    """
    entries: list[str] = []
    said: set[str] = set()
    option = None
    for argument in arguments:
        if argument.startswith("-"):
            name, equals, entry = argument.partition("=")
            if name.startswith("-C"):
                name, equals, entry = "-C", argument[2:], argument[2:].removeprefix("=")
            option = _OPTIONS.get(name)
            if option in said:
                raise UserError(f"command line: {option}: stands twice; allowed: once, with all its values behind it")
            said |= {option} if option else set()
            entries += [entry] if option == COMMAND_LINE and equals else []
        elif option == COMMAND_LINE:
            entries.append(argument)
    return entries


def location(key: str, where: str, given: Any) -> str:
    """Where a key's value was said: on the command line if that has it, or what it is a part of; else in a file.

    Args:
        key: `a.b.c`.
        where: the file.
        given: what the command line said, nested as the settings are.
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
        values: what was read.
        schema_file: a JSON schema in YAML, whose descriptions say what is allowed.
        where: the file that the error names.
        given: what of it the command line said, which the error then names instead.

    Raises:
        UserError: names file, key, value and what is allowed.
    """
    location_of = functools.partial(location, where=where, given=given or {})
    _check_plain(values, location_of, ())
    errors = sorted(_validator(schema_file).iter_errors(values), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        _tell(errors[0], location_of)


def _check_plain(value: Any, location_of: Callable[[str], str], path: tuple[str, ...]) -> None:
    """Make sure that keys are text, numbers finite, and text free of what no line can show."""
    key = ".".join(path) or "top level"
    where = location_of(key)
    if isinstance(value, dict):
        for name, child in value.items():
            if not isinstance(name, str) or _unshown(name):
                refuse(where, key, name, "keys that are a word; a number as a key is put in quotes")
            _check_plain(child, location_of, (*path, name))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            _check_plain(child, location_of, (*path, str(number)))
    elif isinstance(value, float) and not math.isfinite(value):
        refuse(where, key, value, "finite numbers")
    elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        refuse(where, key, value, f"whole numbers up to {LARGEST_NUMBER}")
    elif isinstance(value, str) and _unshown(value if path[-1:] != ("description",) else value.replace("\n", "")):
        refuse(where, key, value, "one line of text without control characters")


def _unshown(text: str) -> bool:
    return any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


def _tell(error: jsonschema.ValidationError, location_of: Callable[[str], str]) -> None:
    schema: Any = error.schema  # these three are set in what a validator gives
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
    """A hint at the known word that `word` was probably meant to be, first of all one that begins so; or nothing."""
    longer = sorted(one for one in known if len(str(word)) > 2 and one.startswith(str(word)))
    close = longer or difflib.get_close_matches(str(word), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
