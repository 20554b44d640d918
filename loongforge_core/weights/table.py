"""A component's Hugging Face table: which tensors on disk are which parameters here, and which keys of config.json are which of ours.

One table per component and format on disk, read in both directions. Names are those on disk. Tables nest: a whole model's table is made
of its components'. No layout and no dtype in it.

A component's `weights` is a function `config -> Table`; a recipe's is `(configs, tables) -> Table | None`, both by slot, None where the
mix has no published format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from loongforge_core.component import Shape
from loongforge_core.weights.config_keys import ConfigKey, Constant
from loongforge_core.weights.rules import Rule, with_other_prefix

__all__ = ["Entry", "ProcessorFiles", "Table", "combine"]


@dataclass(frozen=True)
class Entry:
    """A rule applied to one part (the weights, say) of the modules that it names."""

    rule: Rule
    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    def their_shapes(self, our_shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        """Shapes on disk of what has these shapes here."""
        return tuple(tuple(tensor.shape) for tensor in self.rule.split([torch.empty(shape, device="meta") for shape in our_shapes]))

    def join(self, theirs: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield from zip(self.ours, self.rule.join(theirs), strict=True)

    def split(self, ours: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield from zip(self.theirs, self.rule.split(ours), strict=True)


@dataclass(frozen=True)
class ProcessorFiles:
    """What transformers' processor of a whole model reads from the folder."""

    config: Mapping[str, Any]
    """processor_config.json, without the token that stands for an item."""
    slot: str
    """The encoder whose processor writes preprocessor_config.json."""
    token_key: str = ""
    """Its key for that token; empty: it has none, and the tokenizer says which."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Files for other modalities that go through that encoder: modality -> file."""
    tokenizer_names: Mapping[str, str] = field(default_factory=dict)
    """Tokens that it knows by names of the tokenizer's: name -> the field of the recipe's config that says which."""


@dataclass(frozen=True)
class Table:
    """What a folder in one published format says, in our words."""

    rules: tuple[Rule, ...]
    keys: tuple[ConfigKey, ...] = ()
    """Of config.json, `model_type` and `architectures` apart."""
    model_type: str = ""
    """Empty: this is a part of other formats and has no config.json of its own; alone, it is stored with our config."""
    architectures: tuple[str, ...] = ()
    config_at: Mapping[str, str] = field(default_factory=dict)
    """Other model types whose folders hold this component too: model type -> the section of config.json that describes it, or
    nothing for all of it."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other prefixes that transformers accepts: the prefix on disk -> the one that the rules use."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Tensors on disk that are not read, by glob pattern, with the reason. An export never has them."""
    unpublished: Mapping[str, str] = field(default_factory=dict)
    """Tensors of ours that no folder has, by glob pattern, with the reason."""
    carried: Mapping[str, str] = field(default_factory=dict)
    """Tensors of ours that are read and written but never trained, by glob pattern, with the reason."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Tensors that a folder may store although they are others: name on disk -> the name whose values it must have."""
    placeholder_ids: Mapping[str, str] = field(default_factory=dict)
    """Keys of config.json that hold the id of a modality's placeholder: key -> modality."""
    token_ids: Mapping[str, str] = field(default_factory=dict)
    """Keys of config.json that hold the id of another token: key -> the field of the recipe's config that says which."""
    processor: ProcessorFiles | None = None
    generates: bool = False
    """transformers writes a generation_config.json."""
    alternatives: Mapping[str, Table] = field(default_factory=dict)
    """Other formats in which the same was published, by the name of who did. Read where config.json's `model_type` is theirs; an export
    is in this one. The table of a whole model in such a format is made of its parts' tables of that name."""

    def __post_init__(self) -> None:
        for side in ("theirs", "ours"):
            names = [name for entry in self.entries for name in getattr(entry, side)]
            twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
            assert not twice, f"two rules claim {', '.join(twice)} ({side})"

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every rule, part by part."""
        return tuple(Entry(rule, theirs, ours) for rule in self.rules for theirs, ours in rule.tensors())

    @property
    def model_types(self) -> tuple[str, ...]:
        """What `model_type` may be in a folder of this format."""
        return (self.model_type, *self.config_at) if self.model_type else ()

    def for_folder(self, model_type: object) -> Table:
        """The format of a folder whose config.json says this `model_type`; this one where no format is known to."""
        formats = (self, *self.alternatives.values())
        return next((table for table in formats if model_type in table.model_types), self)

    @cached_property
    def names_on_disk(self) -> frozenset[str]:
        return frozenset(name for entry in self.entries for name in entry.theirs)

    def canonical(self, name: str) -> str | None:
        """The name in the rules (or in `tied`) of a name on disk, through at most two aliases; None where there is none."""
        candidates = [name]
        for _ in range(3):
            if found := [candidate for candidate in candidates if candidate in self.names_on_disk or candidate in self.tied]:
                return found[0]
            candidates = [
                rules_prefix + candidate.removeprefix(disk_prefix)
                for candidate in candidates
                for disk_prefix, rules_prefix in self.aliases.items()
                if candidate.startswith(disk_prefix) and not (rules_prefix.startswith(disk_prefix) and candidate.startswith(rules_prefix))
            ]
        return None

    def is_ignored(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.ignored)

    def is_unpublished(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.unpublished)

    def shapes_on_disk(self, our_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Every tensor of an export, for parameters of these (published) shapes."""
        return {
            name: shape
            for entry in self.entries
            for name, shape in zip(entry.theirs, entry.their_shapes([our_shapes[ours] for ours in entry.ours]), strict=True)
        }

    def under(self, *, theirs: str, ours: str, section: str) -> Table:
        """This table as a part: prefixes before the names on both sides, and the section of config.json that describes it.

        `ours` is a slot's name.
        """
        return replace(
            self,
            rules=tuple(rule.under(theirs, f"{ours}.") for rule in self.rules),
            keys=tuple(key.under(section, ours) for key in (*self.keys, *self.own_type())),
            aliases=prefixed(self.aliases, theirs, lambda prefix: theirs + prefix),
            ignored=prefixed(self.ignored, theirs),
            tied=prefixed(self.tied, theirs, lambda name: theirs + name),
            unpublished=prefixed(self.unpublished, f"{ours}."),
            carried=prefixed(self.carried, f"{ours}."),
            model_type="",
            architectures=(),
            config_at={},
            alternatives={},
        )

    def renamed(self, prefixes: Mapping[str, str]) -> Table:
        """This table where names on disk that begin so begin otherwise."""

        def other(name: str) -> str:
            return with_other_prefix(name, prefixes)

        return replace(
            self,
            rules=tuple(rule.renamed(prefixes) for rule in self.rules),
            ignored={other(name): why for name, why in self.ignored.items()},
            tied={other(name): other(source) for name, source in self.tied.items()},
        )

    def own_type(self) -> tuple[ConfigKey, ...]:
        return (Constant("model_type", self.model_type),) if self.model_type else ()


def prefixed(names: Mapping[str, str], prefix: str, value: Callable[[str], str] = str) -> dict[str, str]:
    return {prefix + name: value(text) for name, text in names.items()}


def combine(parts: Iterable[Table], *, keys: Sequence[ConfigKey] = (), aliases: Mapping[str, str] | None = None, **own: Any) -> Table:
    """A whole model's table from its parts', each already `under` its prefixes; `keys` replace those of the parts that claim the same."""
    parts = tuple(parts)
    claimed = {name for key in keys for name in key.claims()}
    inherited = [key for part in parts for key in part.keys if not claimed.intersection(key.claims())]

    def gathered(attribute: str) -> dict[str, str]:
        return {name: text for part in parts for name, text in getattr(part, attribute).items()}

    return Table(
        rules=tuple(rule for part in parts for rule in part.rules),
        keys=(*keys, *inherited),
        aliases={**gathered("aliases"), **(aliases or {})},
        ignored=gathered("ignored"),
        unpublished=gathered("unpublished"),
        carried=gathered("carried"),
        tied=gathered("tied"),
        **own,
    )
