"""Parity (I2): a component of ours computes what its reference computes, and its gradients too, in float32 within 1e-4.

    def test_parity(tmp_path):
        check_language_model(Qwen2Config(**SIZES), Qwen2ForCausalLM(transformers.Qwen2Config(**THEIRS)), tmp_path)

The reference is redrawn, saved as its authors save it, and read by `import_hf`, so the table is tested with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loongforge_core.component import BackboneConfig, EncoderConfig, ProjectorConfig
from loongforge_core.layers.interfaces import Features, Items
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import Ours, ours, read_tensors, redraw, save_reference
from loongforge_core.weights.export_hf import export_component
from loongforge_core.weights.import_hf import import_hf
from loongforge_core.weights.table import Table

__all__ = ["TOLERANCE", "check_encoder", "check_language_model", "check_outputs", "check_parity", "check_projector"]

TOLERANCE = 1e-4
"""Absolute, on outputs of about 1 (the kit checks that they are): float32 through a few layers in another order of operations."""

LENGTHS = (11, 7, 4)
"""Of the sequences that a language model is tried with: more than one, unequal, none a multiple of the others."""


def check_language_model(
    config: BackboneConfig,
    reference: nn.Module,
    folder: Path,
    *,
    registry: Registry | None = None,
    table: Table | None = None,
    max_sequence_length: int | None = None,
) -> None:
    """Logits of a padded batch, wherever there is a token. The reference takes `input_ids`, `attention_mask`, and returns `.logits`.

    Ours is built with a vocabulary padded by five rows, whose logits must be out of the running, and for a run with sequences of up to
    `max_sequence_length` tokens.
    """
    ids_bs = torch.randint(config.vocab_size, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    is_token_bs = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]

    def run_ours(component: Any) -> Tensor:
        positions_bs = torch.arange(max(LENGTHS)).expand(len(LENGTHS), -1)
        logits_bsv: Tensor = component(component.embed(ids_bs), positions_bs, token_ids_bs=ids_bs)
        assert logits_bsv.shape[-1] == config.vocab_size + 5
        assert (logits_bsv[..., config.vocab_size :] < logits_bsv.amin() / 2).all(), "padded rows of the vocabulary take part"
        return logits_bsv[..., : config.vocab_size][is_token_bs]

    def run_reference(reference: Any) -> Tensor:
        logits: Tensor = reference(input_ids=ids_bs, attention_mask=is_token_bs.long()).logits
        return logits[is_token_bs]

    context = {"padded_vocab_size": config.vocab_size + 5, "max_sequence_length": max_sequence_length}
    with ours(config, registry=registry, table=table, **context) as built:
        check_parity(built, reference, folder, run_ours=run_ours, run_reference=run_reference)


def check_encoder(
    config: EncoderConfig,
    reference: nn.Module,
    folder: Path,
    items: Items,
    features: Callable[[Any], Tensor],
    *,
    registry: Registry | None = None,
    table: Table | None = None,
) -> None:
    """Features of more than one item. `features(reference)` are the reference's, of the same items, `[N, feature_size]`."""
    assert len(items) > 1, "parity needs more than one item"

    def run_ours(component: Any) -> Tensor:
        emitted: Features = component(items)
        assert emitted.grids == tuple(config.token_grid(size) for size in items.sizes)
        assert emitted.hidden_NW.shape == (sum(map(config.num_tokens, items.sizes)), config.feature_size)
        return emitted.hidden_NW

    with ours(config, registry=registry, table=table) as built:
        check_parity(built, reference, folder, run_ours=run_ours, run_reference=features)


def check_projector(
    config: ProjectorConfig, reference: nn.Module, folder: Path, features: Features, *, registry: Registry | None = None
) -> None:
    """Embeddings of the features and of every level. `reference(hidden)` projects `[N, input_size]`."""

    def run_ours(component: Any) -> Tensor:
        projected: Features = component(features)
        return torch.cat([projected.hidden_NW, *projected.levels])

    def run_reference(reference: Any) -> Tensor:
        return torch.cat([reference(hidden) for hidden in (features.hidden_NW, *features.levels)])

    with ours(config, registry=registry) as built:
        check_parity(built, reference, folder, run_ours=run_ours, run_reference=run_reference)


def check_parity(
    built: Ours, reference: nn.Module, folder: Path, *, run_ours: Callable[[Any], Tensor], run_reference: Callable[[Any], Tensor]
) -> None:
    """Outputs, then the gradient of every tensor on disk of a random weighting of the outputs."""
    redraw(reference)
    save_reference(reference, folder / "reference", built.table, built.config)
    import_hf(folder / "reference", built.target, built.table, built.config)
    our_output, their_output = run_ours(built.model), run_reference(reference)
    check_outputs(our_output, their_output)
    weighting = torch.randn(their_output.shape, generator=torch.Generator().manual_seed(2)) / their_output.shape[0]
    torch.autograd.backward([(our_output * weighting).sum(), (their_output * weighting).sum()])
    check_gradients(built, reference, folder)


def check_outputs(our_output: Tensor, their_output: Tensor) -> None:
    """Equal shapes and values, of a size at which the tolerance means something."""
    assert our_output.shape == their_output.shape, f"our output is {list(our_output.shape)}, the reference's {list(their_output.shape)}"
    spread = float(their_output.detach().std())
    assert spread > 0.05, f"the reference's outputs hardly differ (standard deviation {spread:.2g}): equality would mean nothing"
    worst = float((our_output - their_output).detach().abs().max())
    assert worst < TOLERANCE, f"outputs differ from the reference's by up to {worst:.3g}, allowed {TOLERANCE}"


def check_gradients(built: Ours, reference: nn.Module, folder: Path) -> None:
    """Both sides' gradients take the place of their weights and are written out, so that they can be compared by names on disk."""
    put_gradients(reference)
    save_reference(reference, folder / "their_gradients", built.table, built.config)
    trained = [name for name, parameter in built.model.named_parameters() if parameter.requires_grad]
    put_gradients(built.model)
    (folder / "our_gradients").mkdir()
    export_component(folder / "our_gradients", built.target, built.table, built.config)
    theirs = {built.table.canonical(name): tensor for name, tensor in read_tensors(folder / "their_gradients").items()}
    given = read_tensors(folder / "our_gradients")
    assert theirs.keys() == given.keys(), f"only one side has {sorted(map(str, theirs.keys() ^ given.keys()))}"
    worst = {name: float((given[name] - tensor).abs().max() / tensor.abs().max().clamp(min=1)) for name, tensor in theirs.items() if name}
    wrong = sorted((name for name in worst if worst[name] > TOLERANCE), key=lambda name: -worst[name])
    assert not wrong, "gradients differ from the reference's: " + ", ".join(f"{name} by {worst[name]:.3g}" for name in wrong[:8])
    assert any(tensor.any() for tensor in given.values()) or not trained, "no gradient reached any parameter"


def put_gradients(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
