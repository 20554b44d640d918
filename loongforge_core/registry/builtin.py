"""What core itself brings, announced as any plugin announces it."""

from __future__ import annotations

from loongforge_core.component import ComponentSpec

__all__ = ["BUILTIN_COMPONENTS"]

BUILTIN_COMPONENTS = (
    ComponentSpec(
        kind="recipe",
        name="default",
        summary="any encoders, projectors and backbone that fit together; one placeholder per modality",
        config="loongforge_core.model.recipe_config:DefaultRecipeConfig",
    ),
)
