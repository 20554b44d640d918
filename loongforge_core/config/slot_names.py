"""How the places in `model:` are called: `foundation`, `<modality>_encoder`, `<modality>_projector`."""

from __future__ import annotations

from loongforge_core.component import Kind

__all__ = ["FOUNDATION", "encoder_slot", "projector_slot", "slot_kind", "slot_modality", "slot_order"]

FOUNDATION = "foundation"


def encoder_slot(modality: str) -> str:
    return f"{modality}_encoder"


def projector_slot(modality: str) -> str:
    return f"{modality}_projector"


def slot_modality(name: str) -> str:
    """Of an encoder's or projector's slot; empty for the foundation."""
    return name.rpartition("_")[0] if name != FOUNDATION else ""


def slot_kind(name: str) -> Kind | None:
    """What fills a slot of this name; None where no slot is called so."""
    if name == FOUNDATION:
        return "backbone"
    for kind in ("encoder", "projector"):
        if name.endswith(f"_{kind}") and slot_modality(name):
            return kind
    return None


def slot_order(name: str) -> tuple[int, str]:
    """Encoders, projectors, then the foundation."""
    return (("encoder", "projector", "backbone").index(slot_kind(name) or "backbone"), name)
