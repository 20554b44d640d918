"""The tables of decoders with experts: experts one by one on disk, under names that Qwen3-MoE and DeepSeek share, and the router's keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from loongforge_core.layers.expert_config import ExpertDecoderConfig
from loongforge_core.weights.config_keys import ConfigKey, Given, Key, join_path, lookup
from loongforge_core.weights.decoder import OUR_LAYER, THEIR_LAYER, mlp_rules
from loongforge_core.weights.rules import TENSOR, Copy, Rule, per_layer

__all__ = ["RouterLoss", "Together", "expert_layer_rules", "expert_rules", "replaced_keys"]


def expert_layer_rules(config: ExpertDecoderConfig, attention: Sequence[Rule]) -> tuple[Rule, ...]:
    """Of all layers, with these rules for attention and norms."""
    dense, sparse = mlp_rules("mlp."), expert_rules(config)
    return tuple(
        rule
        for layer, has_experts in enumerate(config.expert_layers)
        for rule in per_layer((*attention, *(sparse if has_experts else dense)), THEIR_LAYER, OUR_LAYER, [layer])
    )


def expert_rules(config: ExpertDecoderConfig) -> tuple[Rule, ...]:
    """Of one layer: its router, its experts by number, and the shared ones, which are one MLP."""
    numbered = [
        rule
        for expert in range(config.num_moe_experts)
        for rule in mlp_rules(f"mlp.experts.{expert}.", f"mlp.experts.local_experts.{expert}.")
    ]
    bias = Copy("mlp.gate.e_score_correction_bias", "mlp.router.expert_bias", parts=TENSOR)
    return (
        Copy("mlp.gate", "mlp.router"),
        *((bias,) if config.moe_router_enable_expert_bias else ()),
        *numbered,
        *(mlp_rules("mlp.shared_experts.", "mlp.shared_experts.") if config.moe_shared_expert_intermediate_size else ()),
    )


def replaced_keys(keys: Iterable[ConfigKey], *own: ConfigKey) -> tuple[ConfigKey, ...]:
    """`own`, and those of `keys` that claim nothing of theirs."""
    claimed = {name for key in own for name in key.claims()}
    return (*own, *(key for key in keys if not claimed.intersection(key.claims())))


class RouterLoss(Key):
    """The coefficient of the router's loss. Each training chooses its own: weights that were made with another fit all the same."""

    def problem(self, given: Given, config: Any) -> str:
        return ""


@dataclass(frozen=True)
class Together(ConfigKey):
    """Keys that say something only together."""

    names: tuple[str, ...]
    fields: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    """Fields of ours, from the values of `names` and `needs` that are there."""
    said: Callable[[Any], Mapping[str, Any]]
    """Values of `names` and `needs`, from our config."""
    needs: tuple[str, ...] = ()
    """Keys of others without which these mean nothing."""
    theirs: str = ""
    ours: str = ""

    def claims(self) -> tuple[str, ...]:
        return tuple(join_path(self.theirs, name) for name in self.names)

    def under(self, theirs: str, ours: str) -> Self:
        return replace(self, theirs=join_path(theirs, self.theirs), ours=join_path(ours, self.ours))

    def given(self, given: Given) -> dict[str, Any]:
        paths = {name: join_path(self.theirs, name) for name in (*self.names, *self.needs)}
        return {name: given[path] for name, path in paths.items() if path in given}

    def problem(self, given: Given, config: Any) -> str:
        ours, theirs = self.said(lookup(config, self.ours)), self.given(given)
        needed = {name: ours[name] for name in self.needs}
        expected, meant = self.fields(ours), self.fields({**needed, **theirs})
        wrong = [f"{name} is {expected[name]!r}, not {value!r}" for name, value in meant.items() if expected[name] != value]
        return f"{', '.join(self.claims())} disagree with our config: {'; '.join(wrong)}" if wrong else ""

    def write(self, config: Any) -> Mapping[str, Any]:
        said = self.said(lookup(config, self.ours))
        return {join_path(self.theirs, name): said[name] for name in self.names if name in said}

    def read(self, given: Given) -> Mapping[str, Any]:
        theirs = self.given(given)
        if any(name not in theirs for name in self.needs):
            return {}
        return {join_path(self.ours, name): value for name, value in self.fields(theirs).items()}
