"""A SubTransformer: one architecture, complete and of fixed shape, on weights it shares.

It is a value: to change anything about it, extract another. `start` begins an `IncrementalDecoder`, a step
function with caches; searching over it is `decoding/`'s concern.

Shapes: B sentences, K beams, N = B * K rows, S source length, T target length, E embedding, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.model.attention import KVCache, causal_mask
from dynhat_runtime.model.elastic import Embedding, LayerNorm, Linear
from dynhat_runtime.model.layers import DecoderLayer, EncoderLayer

INITIAL_CACHE_CAPACITY = 64


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """What the decoder reads.

    Attributes:
        layers_BSE: Output of every encoder layer of the *SuperTransformer*, last one last; layers beyond the
            sampled depth repeat the last active output (HAT). In pre-norm only the last is normalised.
        mask_BS: True at real tokens; None when no sentence is padded.
    """

    layers_BSE: tuple[Tensor, ...]
    mask_BS: Tensor | None

    @property
    def last_BSE(self) -> Tensor:
        """Output of the last layer."""
        return self.layers_BSE[-1]

    def memory(self, span: int) -> Tensor:
        """The last `span` outputs, last first, joined along time: (B, span * S, E)."""
        return self.layers_BSE[-1] if span == 1 else torch.cat(self.layers_BSE[: -span - 1 : -1], dim=1)

    def memory_mask(self, span: int) -> Tensor | None:
        """The padding mask of `memory(span)`, (B, 1, 1, span * S)."""
        return None if self.mask_BS is None else self.mask_BS.repeat(1, span)[:, None, None, :]


@dataclass(frozen=True, slots=True)
class SubTransformer:
    """Encoder and decoder of one architecture.

    Attributes:
        config: The architecture.
        num_super_encoder_layers: Encoder depth of the SuperTransformer, over which spans are counted.
        output: Projection to the vocabulary, (V, E) without bias.
    """

    config: SubTransformerConfig
    num_super_encoder_layers: int
    pad_id: int
    src_embedding: Embedding
    encoder_layers: tuple[EncoderLayer, ...]
    encoder_norm: LayerNorm | None
    tgt_embedding: Embedding
    decoder_layers: tuple[DecoderLayer, ...]
    decoder_norm: LayerNorm | None
    output: Linear

    @property
    def src_vocab_size(self) -> int:
        """Source token ids are below it."""
        return self.src_embedding.table_VE.shape[0]

    @property
    def device(self) -> torch.device:
        """Where tokens and scores live."""
        return self.output.weight_OI.device

    def encode(self, src_tokens_BS: Tensor) -> EncoderOutput:
        """Encode token ids (B, S) that end in eos; padding may stand on either side."""
        is_token_BS = src_tokens_BS.ne(self.pad_id)
        mask_BS = None if bool(is_token_BS.all()) else is_token_BS
        mask = None if mask_BS is None else mask_BS[:, None, None, :]
        x_BSE = self.src_embedding(src_tokens_BS)
        outputs = []
        for layer in self.encoder_layers:
            x_BSE = layer(x_BSE, mask)
            outputs.append(x_BSE)
        outputs += [x_BSE] * (self.num_super_encoder_layers - len(outputs))
        if self.encoder_norm is not None:
            outputs[-1] = self.encoder_norm(x_BSE)
        return EncoderOutput(tuple(outputs), mask_BS)

    def decode(self, encoded: EncoderOutput, prev_output_tokens_BT: Tensor) -> Tensor:
        """Decoder features (B, T, E) of a given target, all positions at once (teacher forcing)."""
        x_BTE = self.tgt_embedding(prev_output_tokens_BT)
        self_mask = causal_mask(x_BTE.shape[1], x_BTE.device)
        for layer in self.decoder_layers:
            span = layer.cross_attention_span
            keys_values = layer.cross_attention.keys_values(encoded.memory(span))
            x_BTE = layer(x_BTE, self_mask, keys_values, encoded.memory_mask(span))
        return x_BTE if self.decoder_norm is None else self.decoder_norm(x_BTE)

    def logits(self, src_tokens_BS: Tensor, prev_output_tokens_BT: Tensor) -> Tensor:
        """Scores (B, T, V) before softmax of every target position."""
        return self.output(self.decode(self.encode(src_tokens_BS), prev_output_tokens_BT))

    def start(self, encoded: EncoderOutput, num_beams: int) -> IncrementalDecoder:
        """Begin decoding with `num_beams` rows per sentence."""
        return IncrementalDecoder(self, encoded, num_beams)


class IncrementalDecoder:
    """Decodes B sentences with K rows each, one position at a time. Keys and values of the source are made once.

    Args:
        sub: The network; the decoding keeps it to its end.
        encoded: Its encoder's output for B sentences.
        num_beams: K, rows per sentence; row `b * K + k` belongs to sentence b.
    """

    def __init__(self, sub: SubTransformer, encoded: EncoderOutput, num_beams: int) -> None:
        self.sub = sub
        layers = sub.decoder_layers
        qkv_dim = layers[0].self_attention.out.weight_OI.shape[1]
        num_rows = encoded.last_BSE.shape[0] * num_beams
        self.cache = KVCache(
            len(layers), num_rows, qkv_dim, capacity=INITIAL_CACHE_CAPACITY, like=encoded.last_BSE
        )
        spans = [layer.cross_attention_span for layer in layers]
        memory_of = {span: encoded.memory(span) for span in set(spans)}
        mask_of = {span: encoded.memory_mask(span) for span in set(spans)}
        self.keys_values = [
            layer.cross_attention.keys_values(memory_of[span])
            for layer, span in zip(layers, spans, strict=True)
        ]
        self.memory_masks = [mask_of[span] for span in spans]

    def step(self, tokens_N: Tensor) -> Tensor:
        """Scores (N, V) of what follows `tokens_N`, the last token of every row."""
        sub = self.sub
        x_NE = sub.tgt_embedding.step(tokens_N, self.cache.length)
        for index, layer in enumerate(sub.decoder_layers):
            x_NE = layer.step(x_NE, index, self.cache, self.keys_values[index], self.memory_masks[index])
        self.cache.advance()
        return sub.output(x_NE if sub.decoder_norm is None else sub.decoder_norm(x_NE))

    def reorder(self, rows_N: Tensor) -> None:
        """Continue with these rows; each stays within its sentence."""
        self.cache.reorder(rows_N)

    def keep_sentences(self, sentences_B: Tensor, rows_N: Tensor) -> None:
        """Continue with these sentences only; `rows_N` are the rows to keep, in order."""
        self.cache.reorder(rows_N)
        self.keys_values = [
            (k.index_select(0, sentences_B), v.index_select(0, sentences_B)) for k, v in self.keys_values
        ]
        self.memory_masks = [None if m is None else m.index_select(0, sentences_B) for m in self.memory_masks]

    @property
    def size_bytes(self) -> int:
        """Memory of the caches."""
        cross = sum(t.numel() * t.element_size() for pair in self.keys_values for t in pair)
        return self.cache.size_bytes + cross
