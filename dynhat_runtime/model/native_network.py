"""The SuperTransformer packed for the native decoder, and SubTransformers cut out of it.

Matrices are packed once; a SubTransformer is sizes and pointers into them, so all points together need the memory of
the largest. For inference on a CPU only: it knows no gradients, and trains and scores nothing.

Shapes: B sentences, K beams, N = B * K rows, S source length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.model.positions import position_tables
from dynhat_runtime.model.shortlist import Shortlist
from dynhat_runtime.model.spec import SuperTransformerSpec, Weights
from dynhat_runtime.native import structures as c
from dynhat_runtime.native.library import Library
from dynhat_runtime.native.packing import Arena, pack, packed_bytes
from dynhat_runtime.native.running import Decoder, Encoding, Point, RawHypothesis
from dynhat_runtime.operating_point import Precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class NativeSuperTransformer:
    """All weights of the design space's largest architecture, packed.

    Args:
        weights: Read and, but for embeddings, biases and norms, not kept.
        precision: How matrices are kept.
        library: Runs them.
    """

    def __init__(self, weights: Weights, precision: Precision, library: Library) -> None:
        self.spec: SuperTransformerSpec = weights.spec
        self.precision, self._library = precision, library
        by_name, space = weights.by_name, self.spec.design_space
        src_table = by_name["encoder.embedding"]
        tgt_table = by_name.get("decoder.embedding", src_table)
        output = by_name.get("decoder.output", tgt_table)
        self._tables = src_table, tgt_table
        self._positions = position_tables(self.spec)
        matrices = {
            name.removesuffix(".weight"): weight
            for name, weight in by_name.items()
            if weight.ndim == 2 and name.endswith(".weight")
        }
        # In the order they are read; all but the decoder's width of a shared matrix is of no use to the output.
        matrices["decoder.output"] = output[:, : max(space.decoder_embed_dim)]
        arena = Arena(
            sum(packed_bytes(weight.shape[0], weight.shape[1], precision) for weight in matrices.values())
        )
        self._matrices = {
            name: pack(library, arena, weight, by_name.get(f"{name}.bias"), precision)
            for name, weight in matrices.items()
        }
        self._vectors = {name: weight for name, weight in by_name.items() if weight.ndim == 1}

    def extract(
        self, config: SubTransformerConfig, num_threads: int = 1, shortlist: Shortlist | None = None
    ) -> NativeSubTransformer:
        """Cut out one SubTransformer: sizes and pointers, no weight is copied.

        Args:
            config: The architecture.
            num_threads: Threads that share each of its matrix products, the calling one included.
            shortlist: Which tokens may translate a sentence; without it all.

        Raises:
            DesignSpaceError: `config` lies outside the design space.
        """
        self.spec.design_space.check(config)
        return NativeSubTransformer(
            config, self.spec, Point(self._library, self._network(config, num_threads), self), shortlist
        )

    @property
    def size_bytes(self) -> int:
        """Memory of all weights, whatever the number of points."""
        tables = {table.ctypes.data: table.nbytes for table in (*self._tables, *self._positions)}
        norms = sum(v.nbytes for name, v in self._vectors.items() if "norm" in name)
        return sum(m.size_bytes for m in self._matrices.values()) + sum(tables.values()) + norms

    def _network(self, config: SubTransformerConfig, num_threads: int) -> c.Network:
        space = self.spec.design_space
        enc_dim, dec_dim = config.encoder_embed_dim, config.decoder_embed_dim
        encoder = [self._encoder_layer(config, i) for i in range(config.num_encoder_layers)]
        decoder = [self._decoder_layer(config, i) for i in range(config.num_decoder_layers)]
        return c.Network(
            src=self._embedding(0, enc_dim),
            tgt=self._embedding(1, dec_dim),
            encoder_layers=(c.EncoderLayer * len(encoder))(*encoder),
            decoder_layers=(c.DecoderLayer * len(decoder))(*decoder),
            encoder_norm=self._norm("encoder.norm", enc_dim) if self.spec.norm_first else c.Norm(),
            decoder_norm=self._norm("decoder.norm", dec_dim) if self.spec.norm_first else c.Norm(),
            output=self._matrices["decoder.output"].slice(self.spec.tgt_vocab_size, dec_dim),
            num_encoder_layers=len(encoder),
            num_decoder_layers=len(decoder),
            num_super_encoder_layers=space.max_encoder_layers,
            norm_first=self.spec.norm_first,
            qkv_dim=space.qkv_dim,
            num_threads=num_threads,
        )

    def _embedding(self, side: int, dim: int) -> c.Embedding:
        table, positions = self._tables[side], self._positions[side]
        return c.Embedding(
            table=table.ctypes.data,
            positions=positions.ctypes.data,
            table_stride=table.strides[0] // table.itemsize,
            position_stride=positions.strides[0] // positions.itemsize,
            dim=dim,
            pad_id=self.spec.pad_id,
            vocab_size=table.shape[0],
            num_positions=positions.shape[0],
        )

    def _encoder_layer(self, config: SubTransformerConfig, i: int) -> c.EncoderLayer:
        dim, name = config.encoder_embed_dim, f"encoder.{i}"
        return c.EncoderLayer(
            attention=self._self_attention(name, dim, config.encoder_attention_heads[i]),
            feed_forward=self._feed_forward(name, dim, config.encoder_ffn_dims[i]),
        )

    def _decoder_layer(self, config: SubTransformerConfig, i: int) -> c.DecoderLayer:
        dim, name, qkv_dim = config.decoder_embed_dim, f"decoder.{i}", self.spec.design_space.qkv_dim
        cross = f"{name}.cross_attention"
        return c.DecoderLayer(
            attention=self._self_attention(name, dim, config.decoder_attention_heads[i]),
            cross=c.CrossAttention(
                query=self._matrices[f"{cross}.query"].slice(qkv_dim, dim),
                key_value=self._matrices[f"{cross}.key_value"].slice(2 * qkv_dim, config.encoder_embed_dim),
                out=self._matrices[f"{cross}.out"].slice(dim, qkv_dim),
                norm=self._norm(f"{cross}_norm", dim),
                num_heads=config.cross_attention_heads[i],
                span=config.cross_attention_spans[i],
            ),
            feed_forward=self._feed_forward(name, dim, config.decoder_ffn_dims[i]),
        )

    def _self_attention(self, prefix: str, dim: int, num_heads: int) -> c.SelfAttention:
        qkv_dim, name = self.spec.design_space.qkv_dim, f"{prefix}.self_attention"
        return c.SelfAttention(
            qkv=self._matrices[f"{name}.qkv"].slice(3 * qkv_dim, dim),
            out=self._matrices[f"{name}.out"].slice(dim, qkv_dim),
            norm=self._norm(f"{name}_norm", dim),
            num_heads=num_heads,
        )

    def _feed_forward(self, prefix: str, dim: int, ffn_dim: int) -> c.FeedForward:
        name = f"{prefix}.feed_forward"
        return c.FeedForward(
            expand=self._matrices[f"{name}.expand"].slice(ffn_dim, dim),
            contract=self._matrices[f"{name}.contract"].slice(dim, ffn_dim),
            norm=self._norm(f"{name}_norm", dim),
        )

    def _norm(self, name: str, dim: int) -> c.Norm:
        weight, bias = self._vectors[f"{name}.weight"], self._vectors[f"{name}.bias"]
        return c.Norm(weight=weight.ctypes.data, bias=bias.ctypes.data, dim=dim)


class NativeSubTransformer:
    """Encoder and decoder of one architecture: a value, like `SubTransformer`.

    Attributes:
        config: The architecture.
        src_vocab_size: Source token ids are below it.
    """

    def __init__(
        self,
        config: SubTransformerConfig,
        spec: SuperTransformerSpec,
        point: Point,
        shortlist: Shortlist | None,
    ) -> None:
        self.config, self.src_vocab_size = config, spec.src_vocab_size
        self._pad_id, self._point, self._shortlist = spec.pad_id, point, shortlist

    @property
    def device(self) -> torch.device:
        """Where tokens and scores live that `start` gets and gives."""
        import torch  # here, as for `NativeDecoder.step`: whoever searches sentences needs none

        return torch.device("cpu")

    def start_search(self, sources: Sequence[Sequence[int]], num_beams: int) -> NativeDecoder:
        """Encode sentences of token ids that end in eos, and begin with `num_beams` rows for each."""
        return self.start(self._encoded([np.array(ids, np.int64) for ids in sources]), num_beams)

    def encode(self, src_tokens_BS: Tensor) -> Encoding:
        """Encode token ids (B, S) that end in eos; padding may stand on either side and costs nothing."""
        return self._encoded([row[row != self._pad_id] for row in src_tokens_BS.numpy()])

    def _encoded(self, sentences: Sequence[NDArray[np.int64]]) -> Encoding:
        if self._shortlist is None:
            return self._point.encode(sentences)
        return self._point.encode(sentences, [self._shortlist.listed(sentence) for sentence in sentences])

    def start(self, encoded: Encoding, num_beams: int) -> NativeDecoder:
        """Begin decoding with `num_beams` rows per sentence."""
        return NativeDecoder(Decoder(self._point, encoded, num_beams))


class NativeDecoder:
    """Decodes B sentences with K rows each, one position at a time or, faster, searching on its own."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def step(self, tokens_N: Tensor) -> Tensor:
        """Scores (N, V) of what follows `tokens_N`, the last token of every row."""
        import torch

        return torch.from_numpy(self._decoder.step(tokens_N.numpy()))

    def reorder(self, rows_N: Tensor) -> None:
        """Continue with these rows; each stays within its sentence."""
        self._decoder.keep(rows_N.numpy())

    def keep_sentences(self, sentences_B: Tensor, rows_N: Tensor) -> None:
        """Continue with these sentences only; `rows_N` are the rows to keep, in order."""
        self._decoder.keep(rows_N.numpy())

    def search(
        self,
        max_lengths: Sequence[int],
        *,
        beam_size: int,
        min_length: int,
        no_repeat_size: int,
        eos_id: int,
        pad_id: int,
        is_cancelled: Callable[[], bool],
    ) -> list[list[RawHypothesis]] | None:
        """Beam search in one go, by the rules of `decoding.beam_search`; see `native.running.Decoder.search`."""
        assert beam_size == self._decoder.num_beams, "as many rows per sentence as the search has beams"
        return self._decoder.search(
            max_lengths,
            min_length=min_length,
            no_repeat_size=no_repeat_size,
            eos_id=eos_id,
            pad_id=pad_id,
            is_cancelled=is_cancelled,
        )

    @property
    def size_bytes(self) -> int:
        """Memory of the caches."""
        return self._decoder.size_bytes
