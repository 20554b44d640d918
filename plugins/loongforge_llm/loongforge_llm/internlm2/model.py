"""InternLM2 and 2.5: the shared decoder as it is.

transformers has no such class. Reference: the definition that is published with the weights, `InternLM2ForCausalLM` in
`modeling_internlm2.py` of internlm/internlm2_5-7b-chat (arXiv:2403.17297), which the tests write out in plain torch.
"""

from __future__ import annotations

from loongforge_core.layers.decoder import Decoder

__all__ = ["InternLM2Model"]


class InternLM2Model(Decoder):
    """Nothing differs but the config: Megatron's fused projection has the rows of the published one, in the same order."""
