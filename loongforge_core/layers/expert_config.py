"""What a decoder with mixtures of experts is: the config that families such as Qwen3-MoE and DeepSeek specialise. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from loongforge_core.component import indivisible
from loongforge_core.layers.decoder_config import DecoderConfig

__all__ = ["ExpertDecoderConfig"]


class ExpertDecoderConfig(DecoderConfig):
    """Some layers have many MLPs in the place of one, and a router that sends each token to a few of them. No token is dropped."""

    tiny = {**DecoderConfig.tiny, "num_moe_experts": 4, "moe_ffn_hidden_size": 8, "moe_router_topk": 2}

    num_moe_experts: PositiveInt
    """Experts of a layer, those that every token goes to not counted."""
    moe_ffn_hidden_size: PositiveInt
    """Width of one expert; `ffn_hidden_size` is that of layers without experts."""
    moe_layer_freq: PositiveInt | list[Literal[0, 1]] = 1
    """Which layers have experts: every so many, from the first on, or a 1 for each that has and a 0 for each that has not."""
    moe_shared_expert_intermediate_size: PositiveInt | None = None
    """Width of the MLP that every token goes through beside its experts: of all shared experts together."""
    moe_router_topk: PositiveInt
    """Experts that each token goes to."""
    moe_router_score_function: Literal["softmax", "sigmoid"] = "softmax"
    moe_router_pre_softmax: bool = False
    """The weights of a token's experts are their scores among all experts, and do not add up to one."""
    moe_router_topk_scaling_factor: PositiveFloat = 1.0
    """Of the weights of a token's experts."""
    moe_router_num_groups: PositiveInt | None = None
    """Groups of experts, of which each token is limited to `moe_router_group_topk`. A group is as good as its best expert by softmax, as
    its best two together by sigmoid."""
    moe_router_group_topk: PositiveInt | None = None
    moe_router_enable_expert_bias: bool = False
    """Experts are chosen by their scores and a bias, which weighs no output and has no gradient."""
    moe_router_bias_update_rate: float = Field(0.0, ge=0)
    """By so much the bias of an expert rises after a step that sent it fewer tokens than the mean, or falls after one that sent more."""
    moe_router_load_balancing_type: Literal["seq_aux_loss", "aux_loss", "none"] = "seq_aux_loss"
    """What the router's loss balances the experts over: each sequence, each micro-batch (then numbers depend on its size), or nothing. A
    router that is frozen balances nothing, neither by its loss nor by its bias."""
    moe_aux_loss_coeff: float = Field(0.001, ge=0)
    """Of the router's loss; that of an even load is 1, in every layer. All tokens have it, and it is divided by the target tokens, as
    Megatron divides: where one token in ten is a target, it weighs ten times as much beside the loss."""

    @model_validator(mode="after")
    def _check_layers(self) -> ExpertDecoderConfig:
        if isinstance(self.moe_layer_freq, list) and len(self.moe_layer_freq) != self.num_layers:
            raise ValueError(f"moe_layer_freq says something of {len(self.moe_layer_freq)} layers, num_layers is {self.num_layers}")
        if not any(self.expert_layers):
            raise ValueError("moe_layer_freq leaves no layer with experts")
        return self

    @model_validator(mode="after")
    def _check_router(self) -> ExpertDecoderConfig:
        groups, chosen = self.moe_router_num_groups, self.moe_router_group_topk
        if (groups is None) != (chosen is None):
            raise ValueError("moe_router_num_groups and moe_router_group_topk belong together: expected both or neither")
        if groups is not None and chosen is not None:
            if self.num_moe_experts % groups or chosen > groups:
                raise ValueError(f"{self.num_moe_experts} experts cannot be {groups} equal groups of which {chosen} are chosen")
            if self.moe_router_score_function == "sigmoid" and self.num_moe_experts < 2 * groups:
                raise ValueError(f"{groups} groups of {self.num_moe_experts} experts have no two each, by which they are chosen")
        if self.moe_router_topk > self.eligible_experts:
            raise ValueError(f"moe_router_topk {self.moe_router_topk} is more than the {self.eligible_experts} experts a token may go to")
        if self.moe_router_enable_expert_bias and self.moe_router_score_function != "sigmoid":
            raise ValueError("moe_router_enable_expert_bias needs moe_router_score_function: sigmoid")
        if self.moe_router_topk == 1 and self.weights_add_up:
            raise ValueError("with moe_router_topk 1 and weights that add up to one, the router would have no gradient")
        return self

    @property
    def expert_layers(self) -> tuple[bool, ...]:
        """For every layer whether it has experts."""
        if isinstance(self.moe_layer_freq, list):
            return tuple(map(bool, self.moe_layer_freq))
        return tuple(layer % self.moe_layer_freq == 0 for layer in range(self.num_layers))

    @property
    def eligible_experts(self) -> int:
        """How many a token may go to, once its groups are chosen."""
        if self.moe_router_num_groups is None or self.moe_router_group_topk is None:
            return self.num_moe_experts
        return self.num_moe_experts // self.moe_router_num_groups * self.moe_router_group_topk

    @property
    def weights_add_up(self) -> bool:
        """The weights of a token's experts add up to one, before they are scaled."""
        return self.moe_router_score_function == "sigmoid" or not self.moe_router_pre_softmax

    @property
    def router_loss(self) -> float:
        """The router's loss's coefficient; 0 where there is none."""
        return 0.0 if self.moe_router_load_balancing_type == "none" else self.moe_aux_loss_coeff

    @property
    def depends_on_layout(self) -> str:
        if self.moe_router_load_balancing_type != "aux_loss" or not self.router_loss:
            return ""
        return "moe_router_load_balancing_type: aux_loss balances experts over each micro-batch, whatever is in it; seq_aux_loss does not"

    @property
    def needs_sequence_parallel(self) -> bool:
        return True

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        shared = self.moe_shared_expert_intermediate_size
        conflicts = indivisible(size, moe_shared_expert_intermediate_size=shared) if shared is not None else ()
        return [*super().tensor_parallel_conflicts(size), *conflicts]

    def expert_parallel_conflicts(self, size: int, tensor_size: int) -> Sequence[str]:
        shared = indivisible(size, num_moe_experts=self.num_moe_experts)
        return [*shared, *indivisible(tensor_size, moe_ffn_hidden_size=self.moe_ffn_hidden_size)]

    def transformer_fields(self) -> Mapping[str, Any]:
        return {
            **super().transformer_fields(),
            "num_moe_experts": self.num_moe_experts,
            "moe_ffn_hidden_size": self.moe_ffn_hidden_size,
            "moe_layer_freq": [int(has) for has in self.expert_layers],
            "moe_shared_expert_intermediate_size": self.moe_shared_expert_intermediate_size,
            "moe_router_topk": self.moe_router_topk,
            "moe_router_score_function": self.moe_router_score_function,
            "moe_router_pre_softmax": self.moe_router_pre_softmax,
            "moe_router_topk_scaling_factor": self.moe_router_topk_scaling_factor,
            "moe_router_num_groups": self.moe_router_num_groups,
            "moe_router_group_topk": self.moe_router_group_topk,
            "moe_router_enable_expert_bias": self.moe_router_enable_expert_bias,
            "moe_router_bias_update_rate": self.moe_router_bias_update_rate,
            "moe_router_load_balancing_type": self.moe_router_load_balancing_type,
            "moe_aux_loss_coeff": self.router_loss,
            "moe_router_dtype": "fp32",
        }
