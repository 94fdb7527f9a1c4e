"""The SuperTransformer: every weight once, and SubTransformers cut out of it.

`extract(config)` hands out views of the leading rows and columns: it copies nothing, so all operating points
together need the memory of the largest. It has no mode and no sampled state: an architecture is a value.

Source: HAT (Wang et al., ACL 2020); confirmed against the reference's numbers in `tests/test_golden.py`.
Shapes: E embedding, F feed-forward, Q q/k/v width, V vocabulary, P positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.model.attention import CrossAttention, SelfAttention
from dynhat_runtime.model.elastic import Embedding, LayerNorm, Linear
from dynhat_runtime.model.layers import DecoderLayer, EncoderLayer, FeedForward, Residual
from dynhat_runtime.model.positions import position_tables
from dynhat_runtime.model.spec import SuperTransformerSpec, Weights, check_shapes, parameter_shapes
from dynhat_runtime.model.sub_transformer import SubTransformer


@dataclass(frozen=True, slots=True)
class DropoutRates:
    """Dropout of training. All but `attention` scale with the sampled width (HAT)."""

    residual: float = 0.0
    attention: float = 0.0
    activation: float = 0.0


NO_DROPOUT = DropoutRates()


def initial_weights(spec: SuperTransformerSpec, generator: torch.Generator) -> dict[str, Tensor]:
    """HAT's initialisation: Xavier uniform (q, k and v as one matrix), biases 0, embeddings N(0, dim ** -0.5)."""
    weights: dict[str, Tensor] = {}
    for name, shape in parameter_shapes(spec).items():
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(shape)
        elif len(shape) == 1:
            weights[name] = torch.zeros(shape)
        elif name.endswith(("embedding", "decoder.output")):
            weights[name] = torch.randn(shape, generator=generator) * shape[1] ** -0.5
            if name.endswith("embedding"):
                weights[name][spec.pad_id] = 0.0
        else:
            num_rows = shape[0]
            if name.endswith(("cross_attention.query.weight", "cross_attention.key_value.weight")):
                num_rows = 3 * spec.design_space.qkv_dim
            bound = math.sqrt(6.0 / (num_rows + shape[1]))
            weights[name] = (torch.rand(shape, generator=generator) * 2 - 1) * bound
    return weights


class SuperTransformer:
    """All weights of the design space's largest architecture, and the scissors.

    Args:
        spec: Shape.
        weights: Name -> tensor as `parameter_shapes` lists them; used as they are, never copied.

    Raises:
        BundleError: A weight is missing, superfluous or of another shape.
    """

    def __init__(self, spec: SuperTransformerSpec, weights: Mapping[str, Tensor]) -> None:
        check_shapes(spec, ((name, tuple(weight.shape)) for name, weight in weights.items()))
        self.spec = spec
        self.weights = dict(weights)
        embedding = self.weights["encoder.embedding"]
        self._src_positions, self._tgt_positions = (
            torch.from_numpy(table).to(embedding) for table in position_tables(spec)
        )

    @classmethod
    def of_weights(cls, weights: Weights, device: torch.device | str = "cpu") -> SuperTransformer:
        """A SuperTransformer of arrays, which are not copied for the CPU."""
        tensors = {name: torch.from_numpy(weight).to(device) for name, weight in weights.by_name.items()}
        return cls(weights.spec, tensors)

    @property
    def as_weights(self) -> Weights:
        """Its weights as arrays that view them: for tensors in single precision on the CPU."""
        return Weights(self.spec, {name: weight.detach().numpy() for name, weight in self.weights.items()})

    @classmethod
    def random(cls, spec: SuperTransformerSpec, seed: int) -> SuperTransformer:
        """A SuperTransformer with fresh weights."""
        return cls(spec, initial_weights(spec, torch.Generator().manual_seed(seed)))

    def parameters(self) -> Iterator[Tensor]:
        """The weights, in stored order."""
        return iter(self.weights.values())

    @property
    def num_parameters(self) -> int:
        """Number of weights, embeddings included."""
        return sum(weight.numel() for weight in self.weights.values())

    def laid_out_for_decoding(self) -> SuperTransformer:
        """The same network with its matrices laid out as decoding reads them.

        A decoding step multiplies a few rows by every matrix. Input-major storage makes each output column
        contiguous with its neighbours, which is faster for so few rows (`docs/decisions/0004-input-major.md`).
        The output projection gets a copy of its own, since embeddings are looked up by row. All points still share
        one storage.
        """
        weights = {
            name: weight if weight.dim() < 2 or name.endswith("embedding") else _input_major(weight)
            for name, weight in self.weights.items()
        }
        space, shared = self.spec.design_space, weights["encoder.embedding"]
        weights["encoder.embedding"] = shared[:, : max(space.encoder_embed_dim)]
        weights.setdefault("decoder.embedding", shared[:, : max(space.decoder_embed_dim)])
        weights.setdefault("decoder.output", _input_major(weights["decoder.embedding"]))
        return SuperTransformer(self.spec.model_copy(update={"tied_embeddings": "none"}), weights)

    def extract(self, config: SubTransformerConfig) -> SubTransformer:
        """Cut out one SubTransformer for inference: views only, nothing copied, no gradients.

        Raises:
            DesignSpaceError: `config` lies outside the design space.
        """
        self.spec.design_space.check(config)
        # Slicing under no_grad is not enough: a slice of everything is the weight itself, gradient and all.
        weights = {name: weight.detach() for name, weight in self.weights.items()}
        return _Cutter(self, weights, config, NO_DROPOUT).sub_transformer()

    def extract_for_training(self, config: SubTransformerConfig, dropout: DropoutRates) -> SubTransformer:
        """Cut out one SubTransformer through which gradients reach the SuperTransformer's weights.

        Raises:
            DesignSpaceError: `config` lies outside the design space.
        """
        self.spec.design_space.check(config)
        return _Cutter(self, self.weights, config, dropout).sub_transformer()

    def positions(self) -> tuple[Tensor, Tensor]:
        """Position tables (P, E) of encoder and decoder at full width."""
        return self._src_positions, self._tgt_positions


def _input_major(weight_OI: Tensor) -> Tensor:
    """The same matrix (O, I), stored column by column."""
    return weight_OI.t().contiguous().t()


def _leading(weight: Tensor, *sizes: int) -> Tensor:
    """The leading `sizes` of a weight; itself where that is all of it, so that training has no slice to undo."""
    for dim, size in enumerate(sizes):
        if weight.shape[dim] != size:
            weight = weight.narrow(dim, 0, size)
    return weight


class _Cutter:
    """Cuts one architecture out of a SuperTransformer."""

    def __init__(
        self,
        super_transformer: SuperTransformer,
        weights: Mapping[str, Tensor],
        config: SubTransformerConfig,
        dropout: DropoutRates,
    ) -> None:
        self.super = super_transformer
        self.weights = weights
        self.spec = super_transformer.spec
        self.config = config
        self.dropout = dropout
        space = self.spec.design_space
        self.qkv_dim = space.qkv_dim
        self.encoder_dropout = dropout.residual * config.encoder_embed_dim / max(space.encoder_embed_dim)
        self.decoder_dropout = dropout.residual * config.decoder_embed_dim / max(space.decoder_embed_dim)

    def sub_transformer(self) -> SubTransformer:
        config, spec = self.config, self.spec
        enc, dec = config.encoder_embed_dim, config.decoder_embed_dim
        # Where matrices are tied these names are one tensor.
        src_table = self.weights["encoder.embedding"]
        tgt_table = self.weights.get("decoder.embedding", src_table)
        output = self.weights.get("decoder.output", tgt_table)
        src_positions, tgt_positions = self.super.positions()
        return SubTransformer(
            config=config,
            num_super_encoder_layers=spec.design_space.max_encoder_layers,
            pad_id=spec.pad_id,
            src_embedding=Embedding(
                src_table[:, :enc], src_positions[:, :enc], spec.pad_id, self.encoder_dropout
            ),
            encoder_layers=tuple(self._encoder_layer(i) for i in range(config.num_encoder_layers)),
            encoder_norm=self._norm("encoder.norm", enc) if spec.norm_first else None,
            tgt_embedding=Embedding(
                tgt_table[:, :dec], tgt_positions[:, :dec], spec.pad_id, self.decoder_dropout
            ),
            decoder_layers=tuple(self._decoder_layer(i) for i in range(config.num_decoder_layers)),
            decoder_norm=self._norm("decoder.norm", dec) if spec.norm_first else None,
            output=Linear(output[:, :dec], None),
        )

    def _encoder_layer(self, i: int) -> EncoderLayer:
        dim = self.config.encoder_embed_dim
        return EncoderLayer(
            self_attention=self._self_attention(f"encoder.{i}", dim, self.config.encoder_attention_heads[i]),
            # The reference does not scale this one residual's dropout with the width.
            self_attention_residual=self._residual(
                f"encoder.{i}.self_attention_norm", dim, self.dropout.residual
            ),
            feed_forward=self._feed_forward(
                f"encoder.{i}",
                dim,
                self.config.encoder_ffn_dims[i],
                max(self.spec.design_space.encoder_ffn_dim),
            ),
            feed_forward_residual=self._residual(f"encoder.{i}.feed_forward_norm", dim, self.encoder_dropout),
        )

    def _decoder_layer(self, i: int) -> DecoderLayer:
        config, name = self.config, f"decoder.{i}"
        dim, rate = config.decoder_embed_dim, self.decoder_dropout
        return DecoderLayer(
            self_attention=self._self_attention(name, dim, config.decoder_attention_heads[i]),
            self_attention_residual=self._residual(f"{name}.self_attention_norm", dim, rate),
            cross_attention=CrossAttention(
                query=self._linear(f"{name}.cross_attention.query", self.qkv_dim, dim),
                key_value=self._linear(
                    f"{name}.cross_attention.key_value", 2 * self.qkv_dim, config.encoder_embed_dim
                ),
                out=self._linear(f"{name}.cross_attention.out", dim, self.qkv_dim),
                num_heads=config.cross_attention_heads[i],
                dropout=self.dropout.attention,
            ),
            cross_attention_residual=self._residual(f"{name}.cross_attention_norm", dim, rate),
            feed_forward=self._feed_forward(
                name, dim, config.decoder_ffn_dims[i], max(self.spec.design_space.decoder_ffn_dim)
            ),
            feed_forward_residual=self._residual(f"{name}.feed_forward_norm", dim, rate),
            cross_attention_span=config.cross_attention_spans[i],
        )

    def _self_attention(self, prefix: str, dim: int, num_heads: int) -> SelfAttention:
        return SelfAttention(
            qkv=self._linear(f"{prefix}.self_attention.qkv", 3 * self.qkv_dim, dim),
            out=self._linear(f"{prefix}.self_attention.out", dim, self.qkv_dim),
            num_heads=num_heads,
            dropout=self.dropout.attention,
        )

    def _feed_forward(self, prefix: str, dim: int, ffn_dim: int, max_ffn_dim: int) -> FeedForward:
        return FeedForward(
            expand=self._linear(f"{prefix}.feed_forward.expand", ffn_dim, dim),
            contract=self._linear(f"{prefix}.feed_forward.contract", dim, ffn_dim),
            activation_dropout=self.dropout.activation * ffn_dim / max_ffn_dim,
        )

    def _residual(self, norm_name: str, dim: int, dropout: float) -> Residual:
        return Residual(self._norm(norm_name, dim), self.spec.norm_first, dropout)

    def _linear(self, name: str, num_out: int, num_in: int) -> Linear:
        weights = self.weights
        weight_OI, bias_O = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return Linear(_leading(weight_OI, num_out, num_in), _leading(bias_O, num_out))

    def _norm(self, name: str, dim: int) -> LayerNorm:
        weights = self.weights
        return LayerNorm(_leading(weights[f"{name}.weight"], dim), _leading(weights[f"{name}.bias"], dim))
