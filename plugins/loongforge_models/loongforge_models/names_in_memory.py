"""Names of a whole model's tensors in the memory of transformers, which it reads from folders too."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["names_in_memory"]


def names_in_memory(tower: str) -> Mapping[str, str]:
    """Of LLaVA's class and those made after it, whose encoder is called `tower`: prefixes in memory -> prefixes in published folders."""
    return {
        f"model.{tower}.": f"{tower}.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
