"""The vocabulary's loss, where rows pad the vocabulary."""

from __future__ import annotations

from dataclasses import replace

import torch

from loongforge_core.layers.decoder import Decoder
from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.layers.interfaces import BuildContext
from loongforge_core.layers.loss import mask_padded_vocabulary
from loongforge_core.parallel.initialise import initialise

TINY = DecoderConfig(num_layers=3, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, vocab_size=29)


def test_padded_vocabulary_does_not_change_the_loss(context: BuildContext) -> None:
    """29 rows padded to 32: the loss of the padded model is that of the plain one."""
    ids, positions = torch.randint(0, 29, (2, 7)), torch.arange(7).expand(2, 7)
    losses = []
    for rows in (None, 32):
        decoder = Decoder(TINY, replace(context, padded_vocab_size=rows))
        initialise({"foundation": decoder}, seed=3)
        losses.append(decoder(decoder.embed(ids), positions, token_ids_bs=ids, labels_bs=ids))
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=0)


def test_masking_leaves_real_rows_alone() -> None:
    logits = torch.randn(2, 1, 8)
    masked = mask_padded_vocabulary(logits, vocab_size=13, first_row=8)
    assert torch.equal(masked[..., :5], logits[..., :5])
    assert masked[..., 5:].max() == torch.finfo(torch.float32).min
    assert mask_padded_vocabulary(logits, vocab_size=16, first_row=8) is logits
