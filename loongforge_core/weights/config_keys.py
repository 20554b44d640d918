"""The keys of `config.json`, and what they are in our configs: one list, read in both directions.

Paths are dotted on both sides: `rope_parameters.rope_theta`, `foundation.rotary_base`. A key that is null says nothing, like one that is
absent: then transformers' default stands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import reduce
from typing import Any, Self

from loongforge_core.errors import near_match

__all__ = [
    "GENERIC_KEYS",
    "Absent",
    "ConfigKey",
    "Constant",
    "Derived",
    "Ignored",
    "Key",
    "Unwritten",
    "Written",
    "config_fields",
    "config_problems",
    "write_config",
]


class Absent:
    """What stands where a key is absent and transformers assumes nothing."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()

Given = Mapping[str, Any]
"""A config.json by dotted path."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        reduce(lambda node, parent: node.setdefault(parent, {}), parents, tree)[name] = value
    return tree


def lookup(config: Any, path: str) -> Any:
    """Attribute or item at a dotted path; None below a None."""
    for name in filter(None, path.split(".")):
        if config is not None:
            config = config[name] if isinstance(config, Mapping) else getattr(config, name)
    return config


@dataclass(frozen=True)
class ConfigKey(ABC):
    """One or more keys of config.json, and what is to be done with them."""

    @abstractmethod
    def claims(self) -> tuple[str, ...]:
        """Glob patterns of the dotted paths that this key accounts for."""

    @abstractmethod
    def under(self, theirs: str, ours: str) -> Self:
        """The same key below a section of config.json, for the config at `ours`."""

    def problem(self, given: Given, config: Any) -> str:
        """How the file disagrees with our config; empty where it does not."""
        return ""

    def write(self, config: Any) -> Mapping[str, Any]:
        """What the file says of our config, by dotted path."""
        return {}

    def read(self, given: Given) -> Mapping[str, Any]:
        """What our config says of the file, by dotted path; nothing where our default means the same."""
        return {}


def join_path(*parts: str) -> str:
    return ".".join(filter(None, parts))


@dataclass(frozen=True)
class Key(ConfigKey):
    """A field of our config under their name."""

    theirs: str
    ours: str
    default: Any = ABSENT
    """What transformers assumes where the key is absent; a function of our config where that depends on other keys."""
    also: tuple[str, ...] = field(default=(), kw_only=True)
    """Older spellings, accepted on import."""
    values: Mapping[Any, Any] | None = field(default=None, kw_only=True)
    """Theirs -> ours, where they call the same thing by different values."""
    effective: str = field(default="", kw_only=True)
    """The property that holds the value where the field may be left out."""
    optional: bool = field(default=False, kw_only=True)
    """Left out of an export where it says nothing but the default."""
    section: str = field(default="", kw_only=True)
    """Where in our configs `ours` and `effective` are."""

    def claims(self) -> tuple[str, ...]:
        return (self.theirs, *self.also)

    def under(self, theirs: str, ours: str) -> Self:
        return replace(
            self,
            theirs=join_path(theirs, self.theirs),
            also=tuple(join_path(theirs, name) for name in self.also),
            section=join_path(ours, self.section),
        )

    def spelled(self, given: Given) -> Mapping[str, Any]:
        """Their value in every spelling that the file has."""
        return {name: given[name] for name in self.claims() if name in given}

    def expected(self, config: Any) -> Any:
        """Our value, as they would write it."""
        value = lookup(config, join_path(self.section, self.effective or self.ours))
        if self.values is None:
            return value
        return next((theirs for theirs, ours in self.values.items() if ours == value), ABSENT)

    def assumed(self, config: Any) -> Any:
        """Their default, for a model with our other values."""
        return self.default(lookup(config, self.section)) if callable(self.default) else self.default

    def problem(self, given: Given, config: Any) -> str:
        expected = self.expected(config)
        for name, value in (self.spelled(given) or {self.theirs: self.assumed(config)}).items():
            if value != expected and not (value is ABSENT and expected is None):
                return f"{name} is {value!r} in the file, but our {join_path(self.section, self.ours)} says {expected!r}"
        return ""

    def write(self, config: Any) -> Mapping[str, Any]:
        value = self.expected(config)
        assert value is not ABSENT, f"{self.theirs}: {self.ours} has a value that the file cannot express"
        return {} if value is None or (self.optional and value == self.assumed(config)) else {self.theirs: value}

    def read(self, given: Given) -> Mapping[str, Any]:
        value = next(iter(self.spelled(given).values()), ABSENT if callable(self.default) else self.default)
        if self.values is not None:
            value = self.values.get(value, ABSENT)
        return {} if value is ABSENT or value is None else {join_path(self.section, self.ours): value}


@dataclass(frozen=True)
class Constant(ConfigKey):
    """A key that must have one value, since we build nothing else. Absent means `default`."""

    theirs: str
    value: Any
    default: Any = ABSENT

    def claims(self) -> tuple[str, ...]:
        return (self.theirs,)

    def under(self, theirs: str, ours: str) -> Self:
        return replace(self, theirs=join_path(theirs, self.theirs))

    def problem(self, given: Given, config: Any) -> str:
        value = given.get(self.theirs, self.default)
        return "" if value == self.value else f"{self.theirs} is {value!r} in the file; only {self.value!r} is supported"

    def write(self, config: Any) -> Mapping[str, Any]:
        return {self.theirs: self.value}


@dataclass(frozen=True)
class Unwritten(Constant):
    """A key that some files have and that must have one value there; an export leaves it out."""

    def write(self, config: Any) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class Derived(ConfigKey):
    """A key that follows from our config; where the file has it, it must say the same."""

    theirs: str
    value: Callable[[Any], Any]
    section: str = ""

    def claims(self) -> tuple[str, ...]:
        return (self.theirs,)

    def under(self, theirs: str, ours: str) -> Self:
        return replace(self, theirs=join_path(theirs, self.theirs), section=join_path(ours, self.section))

    def problem(self, given: Given, config: Any) -> str:
        expected = self.value(lookup(config, self.section))
        value = given.get(self.theirs, expected)
        return "" if value == expected else f"{self.theirs} is {value!r} in the file, but our config makes it {expected!r}"

    def write(self, config: Any) -> Mapping[str, Any]:
        return {self.theirs: self.value(lookup(config, self.section))}


@dataclass(frozen=True)
class Written(Derived):
    """A key that is written for others and means nothing to us, whatever a file says."""

    def problem(self, given: Given, config: Any) -> str:
        return ""


@dataclass(frozen=True)
class Ignored(ConfigKey):
    """Keys that change nothing that we build, with the reason. Glob patterns are allowed."""

    names: tuple[str, ...]
    reason: str

    def claims(self) -> tuple[str, ...]:
        return self.names

    def under(self, theirs: str, ours: str) -> Self:
        return replace(self, names=tuple(join_path(theirs, name) for name in self.names))


GENERIC_KEYS = Ignored(
    tuple(
        """
        _name_or_path add_cross_attention architectures bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
        cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping
        encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
        forced_eos_token_id id2label.* initializer_factor initializer_range is_decoder is_encoder_decoder label2id.* length_penalty
        max_length min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
        output_hidden_states output_scores pad_token_id prefix problem_type remove_invalid_values repetition_penalty return_dict
        return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
        tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p use_bfloat16 use_cache
        """.split()  # noqa: SIM905
    ),
    "how to generate, how fresh weights are drawn, what wrote the file: transformers once wrote all of it for every model",
)


def config_problems(keys: Iterable[ConfigKey], tree: Mapping[str, Any], config: Any) -> list[str]:
    """Everything in a config.json that disagrees with our config or that no key knows."""
    keys, given = tuple(keys), dict(flatten(tree))
    claims = [pattern for key in keys for pattern in key.claims()]
    problems = [problem for key in keys if (problem := key.problem(given, config))]
    unknown = [name for name in given if not any(fnmatchcase(name, pattern) for pattern in claims)]
    return problems + [f"{name} is {given[name]!r} in the file, but no table knows this key{near_match(name, claims)}" for name in unknown]


def write_config(keys: Iterable[ConfigKey], config: Any) -> dict[str, Any]:
    """The config.json of our config."""
    flat: dict[str, Any] = {}
    for key in keys:
        flat.update(key.write(config))
    return nest(flat)


def config_fields(keys: Iterable[ConfigKey], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of our config that build what a config.json describes."""
    given = dict(flatten(tree))
    flat: dict[str, Any] = {}
    for key in keys:
        flat.update(key.read(given))
    return nest(flat)
