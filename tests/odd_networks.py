"""Networks and sentences of an awkward space, and whether two decoders say the same."""

from __future__ import annotations

import pytest
import torch

from dynhat_runtime.decoding.search import Hypothesis
from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.model.native_network import NativeSuperTransformer
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.operating_point import Precision
from tests.golden_hypotheses import EOS, PAD
from tests.native_library import native_library

LARGEST_DIFFERENCE = 5e-5
SPACE = DesignSpace(
    name="odd",  # widths, heads and vocabulary that no vector or panel divides
    qkv_dim=20,
    encoder_embed_dim=(27, 18),
    encoder_num_layers=(4, 2),
    encoder_ffn_dim=(45, 33),
    encoder_attention_heads=(4, 2),
    decoder_embed_dim=(30, 21),
    decoder_num_layers=(3, 1),
    decoder_ffn_dim=(51, 17),
    decoder_attention_heads=(5, 2),
    cross_attention_heads=(4, 1),
    cross_attention_span=(1, 2, 3),
)


def random_super(*, norm_first: bool = False, vocab_size: int = 83, seed: int = 1) -> SuperTransformer:
    """Random weights whose biases and norms matter."""
    spec = SuperTransformerSpec(
        design_space=SPACE, src_vocab_size=61, tgt_vocab_size=vocab_size, tied_embeddings="none",
        norm_first=norm_first, max_positions=48,
    )  # fmt: skip
    model = SuperTransformer.random(spec, seed)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.weights.values():
        weight += 0.3 * torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5
    return model


def native_super(model: SuperTransformer, precision: Precision = "fp32") -> NativeSuperTransformer:
    """The model packed for the native decoder."""
    return NativeSuperTransformer(model.as_weights, precision, native_library())


def made_up_sentences(lengths: list[int], seed: int = 0) -> torch.Tensor:
    """Random sentences that end in eos, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in zip(rows, lengths, strict=True):
        row[len(row) - length :] = torch.randint(3, 61, (length,), generator=generator)
        row[-1] = EOS
    return rows


def assert_same_hypotheses(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    """Same tokens in the same order; scores but for rounding."""
    assert [[h.tokens for h in hypotheses] for hypotheses in found] == [
        [h.tokens for h in hypotheses] for hypotheses in expected
    ]
    for mine, theirs in zip(found, expected, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert one.token_scores == pytest.approx(other.token_scores, abs=1e-4)
