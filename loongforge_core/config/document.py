"""One YAML file, read safely and strictly, with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from loongforge_core.errors import ConfigError, Issue

__all__ = ["Document", "read_document"]

STRING = "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"
LARGEST = 2**20
"""Bytes of a file."""
DEEPEST = 50
"""Levels of values within values: Python's own end of recursion comes earlier in what merges files than in what reads them."""
MOST_VALUES = 10_000
MOST_REFERENCES = 50
"""In one value: OmegaConf's parser needs seconds for some hundreds inside each other."""
VALUES = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML as OmegaConf reads it: `1e-5` is a number, and dates are text. By libyaml where PyYAML has it, in a fifth of the time."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError) as error:  # a number that Python refuses, or `!!int`, `!!bool` before what is none
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"this cannot be read as {kind}: {error}", node.start_mark) from error


Loader.add_implicit_resolver(
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
    text = read_text(path)
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(path, text, {}, {})
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(Issue("expected a mapping of keys to values", where=f"{path}:{node.start_mark.line + 1}"))
        walk = Walk(path)
        lines = dict(keys(node, "", walk))
        if walk.issues:
            raise ConfigError(walk.issues)
        return Document(path, text, loader.construct_document(node), lines)
    except yaml.YAMLError as error:
        raise ConfigError(yaml_issue(error, path, text)) from error
    except RecursionError as error:
        raise ConfigError(Issue("nested too deeply", where=str(path))) from error


def read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigError(Issue(f"larger than {LARGEST} bytes: this is no configuration", where=str(path)))
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(Issue("not UTF-8 text", where=f"{path}:{line}")) from error
    except OSError as error:
        raise ConfigError(Issue(f"cannot be read: {error.strerror}", where=str(path))) from error


def yaml_issue(error: yaml.YAMLError, path: Path, text: str) -> Issue:
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


@dataclass
class Walk:
    """Through the nodes of one file, aliases as often as they are written."""

    path: Path
    issues: list[Issue] = field(default_factory=list)
    num_values: int = 0

    def enter(self, node: yaml.Node, key: str) -> None:
        """Raises ConfigError where there are too many, which a few lines of aliases of aliases can come to, or too deep a one."""
        self.num_values += 1
        if key.count(".") > DEEPEST:
            raise ConfigError(Issue(f"nested too deeply: more than {DEEPEST} levels", key.partition(".")[0], self.where(node)))
        if self.num_values > MOST_VALUES:
            said = f"more than {MOST_VALUES} values, counted as often as aliases repeat them"
            raise ConfigError(Issue(said, key.partition(".")[0], self.where(node)))

    def add(self, message: str, key: str, node: yaml.Node) -> None:
        self.issues.append(Issue(message, key, self.where(node)))

    def where(self, node: yaml.Node) -> str:
        return f"{self.path}:{node.start_mark.line + 1}"


def keys(node: yaml.Node, prefix: str, walk: Walk) -> Iterator[tuple[str, int]]:
    """Every dotted key under `node` with its line; what a merge (`<<`) brings in comes first, so that keys beside it win."""
    walk.enter(node, prefix)
    if node.tag not in VALUES:
        walk.add(f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not read", prefix.rstrip("."), node)
    if isinstance(node, yaml.ScalarNode) and node.value.count("${") > MOST_REFERENCES:
        walk.add(f"more than {MOST_REFERENCES} references (`${{...}}`) in one value", prefix.rstrip("."), node)
    if isinstance(node, yaml.SequenceNode):
        for index, element in enumerate(node.value):
            yield f"{prefix}{index}", element.start_mark.line + 1
            yield from keys(element, f"{prefix}{index}.", walk)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == MERGE:
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    yield from keys(merged, prefix, walk)
        yield from own_keys(node, prefix, walk)


def own_keys(node: yaml.MappingNode, prefix: str, walk: Walk) -> Iterator[tuple[str, int]]:
    first: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == MERGE:
            continue
        if key.tag != STRING:
            walk.add(f"the key {getattr(key, 'value', key.tag)} is not text: quote it", prefix.rstrip("."), key)
            continue
        if "." in key.value and not prefix.startswith("defaults."):
            section, _, rest = key.value.partition(".")
            walk.add(f"a key has no dots: write {section}: {{{rest}: ...}}", f"{prefix}{key.value}", key)
        if key.value in first:
            walk.add(f"this key is there twice, first in line {first[key.value]}", f"{prefix}{key.value}", key)
        first.setdefault(key.value, line)
        yield f"{prefix}{key.value}", line
        yield from keys(value, f"{prefix}{key.value}.", walk)
