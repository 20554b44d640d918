"""Keys of config.json that whole models of several families have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from loongforge_core.weights.config_keys import ABSENT, ConfigKey, Constant, Given, Key

__all__ = ["EarlierAtTop", "TiedAtTop", "TypeName", "axes_key", "tied_key", "with_defaults"]


def tied_key(default: bool, also: tuple[str, ...] = (), *, key: type[Key] = Key) -> Key:
    """Whether the output layer is the embedding table, said at the top; `default` is the class's."""
    tied = {True: False, False: True}
    return key("tie_word_embeddings", "untie_embeddings_and_output_weights", default, also=also, values=tied, section="foundation")


@dataclass(frozen=True)
class TiedAtTop(Key):
    """For `tied_key`, of a class that looks at the top, and that keeps apart what a folder has apart; `also` is the text's own key.

    Version 4 of transformers wrote that one alone, and looked at no other. Where neither is there, the tensors say it: an output layer
    that is missing, or that is not the table, is an error of its own.
    """

    def spelled(self, given: Given) -> Mapping[str, Any]:
        return dict(list(super().spelled(given).items())[:1])

    def problem(self, given: Given, config: Any) -> str:
        return super().problem(given, config) if self.spelled(given) else ""

    def write(self, config: Any) -> Mapping[str, Any]:
        return dict.fromkeys(self.claims(), self.expected(config))


def axes_key(name: str, default: Any = ABSENT) -> Key:
    """Of positions of three axes, in the text's section: in the place of the language model's own, with what the whole class assumes."""
    spelled = [f"text_config.{rotary}.mrope_{name}" for rotary in ("rope_parameters", "rope_scaling")]
    return Key(spelled[0], f"mrope_{name}", default, also=tuple(spelled[1:]), section="foundation")


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
