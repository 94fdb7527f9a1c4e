"""The design space of SubTransformers: which architectures exist, and one of them as a value.

A `SubTransformerConfig` says one architecture; a `DesignSpace` says which are allowed, and counts, samples,
mutates, crosses and encodes them. Knows no weights and never imports torch.

Source: HAT (Wang et al., ACL 2020) and the Dynamic-HAT paper, section IV-A-d. HAT's codes -1, 1, 2 for
"arbitrary encoder-decoder attention" are `cross_attention_span` 1, 2, 3 here.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dynhat_runtime.errors import DesignSpaceError

Choices = Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]
LayerValues = Annotated[tuple[int, ...], Field(min_length=1)]

DIMENSIONS = (
    "encoder_embed_dim", "encoder_num_layers", "encoder_ffn_dim", "encoder_attention_heads",
    "decoder_embed_dim", "decoder_num_layers", "decoder_ffn_dim", "decoder_attention_heads",
    "cross_attention_heads", "cross_attention_span",
)  # fmt: skip
"""Fields of a `DesignSpace` that hold choices."""


class SubTransformerConfig(BaseModel):
    """One architecture: widths, depths, heads and spans. A depth is the length of its per-layer tuples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder_embed_dim: int
    encoder_ffn_dims: LayerValues
    encoder_attention_heads: LayerValues
    decoder_embed_dim: int
    decoder_ffn_dims: LayerValues
    decoder_attention_heads: LayerValues
    cross_attention_heads: LayerValues
    cross_attention_spans: LayerValues

    @property
    def num_encoder_layers(self) -> int:
        """Number of active encoder layers."""
        return len(self.encoder_ffn_dims)

    @property
    def num_decoder_layers(self) -> int:
        """Number of active decoder layers."""
        return len(self.decoder_ffn_dims)

    @model_validator(mode="after")
    def _depths_agree(self) -> SubTransformerConfig:
        """Per-layer tuples of one stack must be equally long."""
        stacks = (
            ("encoder_ffn_dims", ("encoder_attention_heads",)),
            (
                "decoder_ffn_dims",
                ("decoder_attention_heads", "cross_attention_heads", "cross_attention_spans"),
            ),
        )
        for reference, others in stacks:
            depth = len(getattr(self, reference))
            for field in others:
                values = getattr(self, field)
                if len(values) != depth:
                    raise DesignSpaceError(
                        f"{field}={values} has {len(values)} entries; {reference} has {depth}: "
                        "give one entry per active layer"
                    )
        return self


def choices_of(config: SubTransformerConfig) -> dict[str, tuple[int, ...]]:
    """What `config` takes of each dimension, by `DesignSpace`'s field; per layer where layers may differ."""
    return {
        "encoder_embed_dim": (config.encoder_embed_dim,),
        "encoder_num_layers": (config.num_encoder_layers,),
        "encoder_ffn_dim": config.encoder_ffn_dims,
        "encoder_attention_heads": config.encoder_attention_heads,
        "decoder_embed_dim": (config.decoder_embed_dim,),
        "decoder_num_layers": (config.num_decoder_layers,),
        "decoder_ffn_dim": config.decoder_ffn_dims,
        "decoder_attention_heads": config.decoder_attention_heads,
        "cross_attention_heads": config.cross_attention_heads,
        "cross_attention_span": config.cross_attention_spans,
    }


class LatencyFeatures(NamedTuple):
    """HAT's ten latency features; means are over active layers, the span counts 1..3."""

    encoder_embed_dim: float
    num_encoder_layers: float
    mean_encoder_ffn_dim: float
    mean_encoder_attention_heads: float
    decoder_embed_dim: float
    num_decoder_layers: float
    mean_decoder_ffn_dim: float
    mean_decoder_attention_heads: float
    mean_cross_attention_heads: float
    mean_cross_attention_span: float


def latency_features(config: SubTransformerConfig) -> LatencyFeatures:
    """The ten features HAT's latency predictor reads.

    Args:
        config: Any architecture.

    Returns:
        Features in HAT's order, not normalised.
    """
    return LatencyFeatures(
        float(config.encoder_embed_dim),
        float(config.num_encoder_layers),
        fmean(config.encoder_ffn_dims),
        fmean(config.encoder_attention_heads),
        float(config.decoder_embed_dim),
        float(config.num_decoder_layers),
        fmean(config.decoder_ffn_dims),
        fmean(config.decoder_attention_heads),
        fmean(config.cross_attention_heads),
        fmean(config.cross_attention_spans),
    )


class GeneSlot(NamedTuple):
    """One position of a gene: what it sets, for which layer, and the choices it may take."""

    field: str
    layer: int | None
    choices: tuple[int, ...]


class DesignSpace(BaseModel):
    """The choices of every elastic dimension. The SuperTransformer has the largest of each.

    The order of choices is part of the space: seeded sampling draws by position.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    qkv_dim: Annotated[int, Field(gt=0)]
    encoder_embed_dim: Choices
    encoder_num_layers: Choices
    encoder_ffn_dim: Choices
    encoder_attention_heads: Choices
    decoder_embed_dim: Choices
    decoder_num_layers: Choices
    decoder_ffn_dim: Choices
    decoder_attention_heads: Choices
    cross_attention_heads: Choices
    cross_attention_span: Choices

    @model_validator(mode="after")
    def _is_possible(self) -> DesignSpace:
        """Heads must divide qkv_dim, choices must be distinct, spans cannot exceed the encoder's depth."""
        for field in DIMENSIONS:
            choices = getattr(self, field)
            if len(set(choices)) != len(choices):
                raise DesignSpaceError(f"{field}={choices} repeats a choice: list each once")
            if field.endswith("heads"):
                for heads in choices:
                    if self.qkv_dim % heads:
                        raise DesignSpaceError(
                            f"{field} choice {heads} does not divide qkv_dim={self.qkv_dim}"
                        )
        if max(self.cross_attention_span) > self.max_encoder_layers:
            raise DesignSpaceError(
                f"cross_attention_span={self.cross_attention_span} reaches past the encoder's "
                f"{self.max_encoder_layers} layers"
            )
        return self

    # --- the SuperTransformer's sizes -----------------------------------------------------------------------

    @property
    def max_encoder_layers(self) -> int:
        """Encoder depth of the SuperTransformer."""
        return max(self.encoder_num_layers)

    @property
    def max_decoder_layers(self) -> int:
        """Decoder depth of the SuperTransformer."""
        return max(self.decoder_num_layers)

    def largest(self) -> SubTransformerConfig:
        """The architecture with the largest choice everywhere."""
        return self._uniform_config(max)

    def smallest(self) -> SubTransformerConfig:
        """The architecture with the smallest choice everywhere."""
        return self._uniform_config(min)

    def _uniform_config(self, choose: Callable[[tuple[int, ...]], int]) -> SubTransformerConfig:
        """The architecture with the choice that `choose` takes, everywhere."""
        num_encoder, num_decoder = choose(self.encoder_num_layers), choose(self.decoder_num_layers)
        return SubTransformerConfig(
            encoder_embed_dim=choose(self.encoder_embed_dim),
            encoder_ffn_dims=(choose(self.encoder_ffn_dim),) * num_encoder,
            encoder_attention_heads=(choose(self.encoder_attention_heads),) * num_encoder,
            decoder_embed_dim=choose(self.decoder_embed_dim),
            decoder_ffn_dims=(choose(self.decoder_ffn_dim),) * num_decoder,
            decoder_attention_heads=(choose(self.decoder_attention_heads),) * num_decoder,
            cross_attention_heads=(choose(self.cross_attention_heads),) * num_decoder,
            cross_attention_spans=(choose(self.cross_attention_span),) * num_decoder,
        )

    # --- membership and counting ----------------------------------------------------------------------------

    def check(self, config: SubTransformerConfig) -> SubTransformerConfig:
        """Return `config` if it lies in this space.

        Raises:
            DesignSpaceError: Naming the field, the value and the allowed choices.
        """
        single = (
            ("encoder_embed_dim", config.encoder_embed_dim, self.encoder_embed_dim),
            ("num_encoder_layers", config.num_encoder_layers, self.encoder_num_layers),
            ("decoder_embed_dim", config.decoder_embed_dim, self.decoder_embed_dim),
            ("num_decoder_layers", config.num_decoder_layers, self.decoder_num_layers),
        )
        per_layer = (
            ("encoder_ffn_dims", config.encoder_ffn_dims, self.encoder_ffn_dim),
            ("encoder_attention_heads", config.encoder_attention_heads, self.encoder_attention_heads),
            ("decoder_ffn_dims", config.decoder_ffn_dims, self.decoder_ffn_dim),
            ("decoder_attention_heads", config.decoder_attention_heads, self.decoder_attention_heads),
            ("cross_attention_heads", config.cross_attention_heads, self.cross_attention_heads),
            ("cross_attention_spans", config.cross_attention_spans, self.cross_attention_span),
        )
        for field, value, choices in single:
            self._check_value(field, value, choices)
        for field, values, choices in per_layer:
            for layer, value in enumerate(values):
                self._check_value(f"{field}[{layer}]", value, choices)
        return config

    def narrowed_to(self, kept: Mapping[str, Collection[int]], name: str) -> DesignSpace:
        """This space with only the choices in `kept`, in this space's order; other dimensions stay whole.

        Raises:
            DesignSpaceError: A dimension would have no choice left.
        """
        fields: dict[str, object] = {"name": name, "qkv_dim": self.qkv_dim}
        for field in DIMENSIONS:
            choices = getattr(self, field)
            left = tuple(choice for choice in choices if choice in kept.get(field, choices))
            if not left:
                raise DesignSpaceError(
                    f"{field}={choices} of design space {self.name!r} has none of {sorted(kept[field])}: "
                    "keep at least one"
                )
            fields[field] = left
        return DesignSpace.model_validate(fields)

    def _check_value(self, field: str, value: int, choices: tuple[int, ...]) -> None:
        if value not in choices:
            raise DesignSpaceError(
                f"{field}={value} is not in design space {self.name!r}: choose one of {choices}"
            )

    def num_configurations(self) -> int:
        """Number of distinct architectures in this space."""
        encoder_layer = len(self.encoder_ffn_dim) * len(self.encoder_attention_heads)
        decoder_layer = (
            len(self.decoder_ffn_dim)
            * len(self.decoder_attention_heads)
            * len(self.cross_attention_heads)
            * len(self.cross_attention_span)
        )
        encoders = sum(encoder_layer**depth for depth in self.encoder_num_layers)
        decoders = sum(decoder_layer**depth for depth in self.decoder_num_layers)
        return int(len(self.encoder_embed_dim) * len(self.decoder_embed_dim) * encoders * decoders)

    def num_parameters(self, config: SubTransformerConfig) -> int:
        """Weights of one SubTransformer without embeddings and output projection (HAT's count)."""
        qkv, enc, dec = self.qkv_dim, config.encoder_embed_dim, config.decoder_embed_dim

        def attention(query_dim: int, key_dim: int) -> int:
            return query_dim * qkv + 2 * key_dim * qkv + 3 * qkv + qkv * query_dim + query_dim

        def feed_forward(dim: int, ffn_dim: int) -> int:
            return 2 * dim * ffn_dim + ffn_dim + dim

        total = 0
        for ffn_dim in config.encoder_ffn_dims:
            total += attention(enc, enc) + feed_forward(enc, ffn_dim) + 4 * enc
        for ffn_dim in config.decoder_ffn_dims:
            total += attention(dec, dec) + attention(dec, enc) + feed_forward(dec, ffn_dim) + 6 * dec
        return total

    # --- sampling -------------------------------------------------------------------------------------------

    def sample(self, rng: random.Random) -> SubTransformerConfig:
        """One architecture drawn uniformly per dimension, in HAT's order of draws.

        Source: `golden` data of the reference; the span is drawn for every decoder layer of the
        SuperTransformer, also those the drawn depth leaves out, as the reference does.
        """
        encoder_embed_dim = rng.choice(self.encoder_embed_dim)
        decoder_embed_dim = rng.choice(self.decoder_embed_dim)
        num_encoder = rng.choice(self.encoder_num_layers)
        num_decoder = rng.choice(self.decoder_num_layers)
        encoder = [
            (rng.choice(self.encoder_ffn_dim), rng.choice(self.encoder_attention_heads))
            for _ in range(num_encoder)
        ]
        decoder = [
            (
                rng.choice(self.decoder_ffn_dim),
                rng.choice(self.decoder_attention_heads),
                rng.choice(self.cross_attention_heads),
            )
            for _ in range(num_decoder)
        ]
        spans = [rng.choice(self.cross_attention_span) for _ in range(self.max_decoder_layers)]
        return SubTransformerConfig(
            encoder_embed_dim=encoder_embed_dim,
            encoder_ffn_dims=tuple(ffn for ffn, _ in encoder),
            encoder_attention_heads=tuple(heads for _, heads in encoder),
            decoder_embed_dim=decoder_embed_dim,
            decoder_ffn_dims=tuple(ffn for ffn, _, _ in decoder),
            decoder_attention_heads=tuple(heads for _, heads, _ in decoder),
            cross_attention_heads=tuple(heads for _, _, heads in decoder),
            cross_attention_spans=tuple(spans[:num_decoder]),
        )

    def mutate(
        self, config: SubTransformerConfig, probability: float, rng: random.Random
    ) -> SubTransformerConfig:
        """Redraw each gene entry with `probability`."""
        gene = [
            rng.choice(slot.choices) if rng.random() < probability else value
            for slot, value in zip(self.gene_slots(), self.gene(config), strict=True)
        ]
        return self.config_from_gene(gene)

    def crossover(
        self, first: SubTransformerConfig, second: SubTransformerConfig, rng: random.Random
    ) -> SubTransformerConfig:
        """Take each gene entry from either parent with equal chance."""
        return self.config_from_gene(
            [rng.choice(pair) for pair in zip(self.gene(first), self.gene(second), strict=True)]
        )

    # --- genes ----------------------------------------------------------------------------------------------

    def gene(self, config: SubTransformerConfig) -> tuple[int, ...]:
        """Encode `config` as integers of fixed length (40 in the paper's space).

        Per-layer positions beyond the depth repeat the stack's first entry, as in HAT; the span is 1..3.
        """
        encoder_depth, decoder_depth = self.max_encoder_layers, self.max_decoder_layers

        def padded(values: tuple[int, ...], length: int) -> tuple[int, ...]:
            return values + values[:1] * (length - len(values))

        return (
            config.encoder_embed_dim,
            config.num_encoder_layers,
            *padded(config.encoder_ffn_dims, encoder_depth),
            *padded(config.encoder_attention_heads, encoder_depth),
            config.decoder_embed_dim,
            config.num_decoder_layers,
            *padded(config.decoder_ffn_dims, decoder_depth),
            *padded(config.decoder_attention_heads, decoder_depth),
            *padded(config.cross_attention_heads, decoder_depth),
            *padded(config.cross_attention_spans, decoder_depth),
        )

    def config_from_gene(self, gene: Sequence[int]) -> SubTransformerConfig:
        """Decode what `gene` encoded; entries beyond the depth are ignored.

        Raises:
            DesignSpaceError: The length is wrong, or an entry is not one of its position's choices.
        """
        slots = self.gene_slots()
        if len(gene) != len(slots):
            raise DesignSpaceError(
                f"gene has {len(gene)} entries; design space {self.name!r} needs {len(slots)}"
            )
        values: dict[str, list[int]] = {}
        for position, (slot, value) in enumerate(zip(slots, gene, strict=True)):
            if value not in slot.choices:
                raise DesignSpaceError(
                    f"gene[{position}] ({slot.field}) = {value} is not in design space {self.name!r}: "
                    f"choose one of {slot.choices}"
                )
            values.setdefault(slot.field, []).append(value)
        num_encoder, num_decoder = values["encoder_num_layers"][0], values["decoder_num_layers"][0]
        return SubTransformerConfig(
            encoder_embed_dim=values["encoder_embed_dim"][0],
            encoder_ffn_dims=tuple(values["encoder_ffn_dim"][:num_encoder]),
            encoder_attention_heads=tuple(values["encoder_attention_heads"][:num_encoder]),
            decoder_embed_dim=values["decoder_embed_dim"][0],
            decoder_ffn_dims=tuple(values["decoder_ffn_dim"][:num_decoder]),
            decoder_attention_heads=tuple(values["decoder_attention_heads"][:num_decoder]),
            cross_attention_heads=tuple(values["cross_attention_heads"][:num_decoder]),
            cross_attention_spans=tuple(values["cross_attention_span"][:num_decoder]),
        )

    def gene_slots(self) -> tuple[GeneSlot, ...]:
        """The gene's positions in order."""
        return _gene_slots(self)


@functools.lru_cache(maxsize=16)
def _gene_slots(space: DesignSpace) -> tuple[GeneSlot, ...]:
    encoder_depth, decoder_depth = space.max_encoder_layers, space.max_decoder_layers
    blocks = (
        ("encoder_embed_dim", None),
        ("encoder_num_layers", None),
        ("encoder_ffn_dim", encoder_depth),
        ("encoder_attention_heads", encoder_depth),
        ("decoder_embed_dim", None),
        ("decoder_num_layers", None),
        ("decoder_ffn_dim", decoder_depth),
        ("decoder_attention_heads", decoder_depth),
        ("cross_attention_heads", decoder_depth),
        ("cross_attention_span", decoder_depth),
    )
    return tuple(
        GeneSlot(field, layer, getattr(space, field))
        for field, depth in blocks
        for layer in ((None,) if depth is None else range(depth))
    )
