"""Reading settings: YAML against a closed schema, every mistake told in one line."""

import difflib
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from smallbatch.errors import UserError, refuse


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, which YAML readers otherwise pass over in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {name!r} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read one YAML file.

    Raises:
        UserError: it is missing or is not YAML; says where.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}: {place}not valid YAML: {getattr(error, 'problem', error)}") from error


# YAML 1.1 reads 5e-4 as text; everybody else reads a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)

# JSON Schema takes 3.0 for an integer; as a batch size it is a slip like 3.5.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def typed(values: Any) -> Any:
    """Settings in which text that reads as a number or a truth value is one: Snakemake's `--config` nests only text."""
    if isinstance(values, dict):
        return {key: typed(value) for key, value in values.items()}
    if isinstance(values, list):
        return [typed(value) for value in values]
    plain = isinstance(values, str) and re.fullmatch(r"-?\d{1,9}|-?\d*\.\d+|true|false", values)
    return yaml.safe_load(values) if plain else values


def overridden(values: dict[str, Any], entries: Sequence[str], where: str) -> dict[str, Any]:
    """Settings in which each KEY=VALUE of `entries` has its way, as of Snakemake's `--config`.

    Args:
        values: what was read.
        entries: the value is YAML; of a mapping the keys that it does not name stay as they are.
        where: what the error names.

    Raises:
        UserError: an entry is not of this form.
    """
    for entry in entries:
        key, equals, text = entry.partition("=")
        try:
            value = typed(yaml.load(text, yaml.BaseLoader))
        except yaml.YAMLError:
            equals = ""
        if not equals:
            refuse(where, "--config", entry, "KEY=VALUE, the value in YAML")
        values = _merged(values, {key: value})
    return values


def _merged(values: Any, changes: Any) -> Any:
    if not (isinstance(values, dict) and isinstance(changes, dict)):
        return changes
    return values | {key: _merged(values.get(key), change) for key, change in changes.items()}


def check(values: Any, schema_file: Path, where: str) -> None:
    """Check settings against a schema.

    Args:
        values: what was read.
        schema_file: a JSON schema in YAML, whose descriptions say what is allowed.
        where: the file that the error names.

    Raises:
        UserError: names file, key, value and what is allowed.
    """
    validator = _Validator(read_yaml(schema_file))
    errors = sorted(validator.iter_errors(values), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        _tell(errors[0], where)


def _tell(error: jsonschema.ValidationError, where: str) -> None:
    path = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        key = f"{path}.{unknown}" if path else str(unknown)
        raise UserError(f"{where}: {key}: unknown key{likely(unknown, known)}; allowed: {', '.join(known)}")
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        raise UserError(f"{where}: {path or 'top level'}: key {missing!r} is missing")
    if error.validator == "uniqueItems":
        twice = next(item for i, item in enumerate(error.instance) if item in error.instance[:i])
        raise UserError(f"{where}: {path}: {twice!r} stands twice in {error.instance!r}; allowed: each value once")
    refuse(where, path or "top level", error.instance, error.schema.get("description", error.message))


def likely(word: str, known: list[str]) -> str:
    """A hint at the known word that `word` was probably meant to be, or nothing."""
    close = difflib.get_close_matches(str(word), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
