"""One YAML file, read safely and strictly, with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loongforge_core.errors import ConfigError, Issue

__all__ = ["Document", "read_document"]

STRING = "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"
VALUES = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML as OmegaConf reads it: `1e-5` is a number, and dates are text. By libyaml where PyYAML has it, in a fifth of the time."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class Document:
    """The content of one file."""

    path: Path
    text: str
    tree: Mapping[str, Any]
    lines: Mapping[str, int]
    """Line of every dotted key; `defaults.0` is the first of the defaults."""

    def where(self, key: str = "") -> str:
        """`file:line` of a key, or the file."""
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)


def read_document(path: Path) -> Document:
    """Reads a mapping. Raises ConfigError for what is not YAML, not a mapping of text keys, or has a key twice."""
    text = _read_text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(path, text, {}, {})
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(Issue("expected a mapping of keys to values", where=f"{path}:{node.start_mark.line + 1}"))
        issues: list[Issue] = []
        lines = dict(_keys(node, "", path, issues))
        if issues:
            raise ConfigError(issues)
        return Document(path, text, loader.construct_document(node), lines)
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_issue(error, path, text)) from error
    except ValueError as error:  # a number that Python refuses
        raise ConfigError(Issue(f"not YAML: {error}", where=str(path))) from error
    except RecursionError as error:
        raise ConfigError(Issue("nested too deeply", where=str(path))) from error


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(Issue("not UTF-8 text", where=f"{path}:{line}")) from error
    except OSError as error:
        raise ConfigError(Issue(f"cannot be read: {error.strerror}", where=str(path))) from error


def _yaml_issue(error: yaml.YAMLError, path: Path, text: str) -> Issue:
    if isinstance(error, yaml.MarkedYAMLError):
        marks = [mark for mark in (error.problem_mark, error.context_mark) if mark]
        # What is missing is noticed at the file's end, behind its last line: then where it began helps more.
        mark = next((mark for mark in marks if mark.line < len(text.splitlines())), None) or next(iter(marks), None)
        what = ", ".join(part for part in (error.problem, error.context) if part)
        return Issue(f"not YAML: {what}", where=f"{path}:{mark.line + 1}" if mark else str(path))
    if isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1
        return Issue(f"not YAML: the character {chr(int(error.character))!r} is not allowed", where=f"{path}:{line}")
    return Issue(f"not YAML: {error}", where=str(path))


def _keys(node: yaml.Node, prefix: str, path: Path, issues: list[Issue]) -> Iterator[tuple[str, int]]:
    """Every dotted key under `node` with its line; what a merge (`<<`) brings in comes first, so that keys beside it win."""
    where = f"{path}:{node.start_mark.line + 1}"
    if node.tag not in VALUES:
        issues.append(Issue(f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not read", prefix.rstrip("."), where))
    if isinstance(node, yaml.SequenceNode):
        for index, element in enumerate(node.value):
            yield f"{prefix}{index}", element.start_mark.line + 1
            yield from _keys(element, f"{prefix}{index}.", path, issues)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == MERGE:
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    yield from _keys(merged, prefix, path, issues)
        yield from _own_keys(node, prefix, path, issues)


def _own_keys(node: yaml.MappingNode, prefix: str, path: Path, issues: list[Issue]) -> Iterator[tuple[str, int]]:
    first: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == MERGE:
            continue
        if key.tag != STRING:
            issues.append(Issue(f"the key {getattr(key, 'value', key.tag)} is not text: quote it", prefix.rstrip("."), f"{path}:{line}"))
            continue
        if "." in key.value and not prefix.startswith("defaults."):
            section, _, rest = key.value.partition(".")
            issues.append(Issue(f"a key has no dots: write {section}: {{{rest}: ...}}", f"{prefix}{key.value}", f"{path}:{line}"))
        if key.value in first:
            issues.append(Issue(f"this key is there twice, first in line {first[key.value]}", f"{prefix}{key.value}", f"{path}:{line}"))
        first.setdefault(key.value, line)
        yield f"{prefix}{key.value}", line
        yield from _keys(value, f"{prefix}{key.value}.", path, issues)
