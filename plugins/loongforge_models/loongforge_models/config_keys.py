"""Keys of config.json that whole models of several families have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from loongforge_core.weights.config_keys import ConfigKey, Constant, Given, Key

__all__ = ["EarlierAtTop", "TypeName", "tied_key", "with_defaults"]


def tied_key(default: bool, also: tuple[str, ...] = (), *, key: type[Key] = Key) -> Key:
    """Whether the output layer is the embedding table, said at the top; `default` is the class's."""
    tied = {True: False, False: True}
    return key("tie_word_embeddings", "untie_embeddings_and_output_weights", default, also=also, values=tied, section="foundation")


def with_defaults(keys: Iterable[ConfigKey], defaults: Mapping[str, Any]) -> tuple[ConfigKey, ...]:
    """The same keys for a class that assumes other values where they are absent."""
    return tuple(replace(key, default=defaults[key.theirs]) if isinstance(key, Key) and key.theirs in defaults else key for key in keys)


@dataclass(frozen=True)
class TypeName(Constant):
    """`model_type` of a section: an export says `value`; earlier versions of transformers said another, or nothing."""

    earlier: str = ""

    def problem(self, given: Given, config: Any) -> str:
        return "" if given.get(self.theirs, self.value) == self.earlier else super().problem({self.theirs: self.value, **given}, config)


@dataclass(frozen=True)
class EarlierAtTop(ConfigKey):
    """The keys of a section, which folders of earlier versions of transformers have at the top, where there is no such section."""

    section: str
    keys: tuple[ConfigKey, ...]
    """Under the section."""

    def claims(self) -> tuple[str, ...]:
        inside = [name for key in self.keys for name in key.claims()]
        return (*inside, *(name.removeprefix(f"{self.section}.") for name in inside))

    def under(self, theirs: str, ours: str) -> EarlierAtTop:
        raise NotImplementedError("of a whole model only")

    def inside(self, given: Given) -> Given:
        """What a file says, with these keys in their section."""
        if any(name.startswith(f"{self.section}.") for name in given):
            return given
        claims = self.claims()
        return {f"{self.section}.{name}" if any(fnmatchcase(name, claim) for claim in claims) else name: given[name] for name in given}

    def problem(self, given: Given, config: Any) -> str:
        inside = self.inside(given)
        return "; ".join(problem for key in self.keys if (problem := key.problem(inside, config)))

    def write(self, config: Any) -> Mapping[str, Any]:
        return {name: value for key in self.keys for name, value in key.write(config).items()}

    def read(self, given: Given) -> Mapping[str, Any]:
        inside = self.inside(given)
        return {name: value for key in self.keys for name, value in key.read(inside).items()}
