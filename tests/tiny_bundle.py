"""A bundle small enough to make in a test: random weights, a tokenizer of a few hundred pieces, three points."""

from __future__ import annotations

from pathlib import Path

from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer, train_tokenizer
from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, Bundle, write_bundle
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.operating_point import (
    DeviceDescription,
    LatencyMeasurement,
    OperatingPoint,
    OperatingPointTable,
)

SPACE = DesignSpace(
    name="tiny",
    qkv_dim=16,
    encoder_embed_dim=(24, 16),
    encoder_num_layers=(2,),
    encoder_ffn_dim=(32, 16),
    encoder_attention_heads=(4, 2),
    decoder_embed_dim=(24, 16),
    decoder_num_layers=(3, 2, 1),
    decoder_ffn_dim=(32, 16),
    decoder_attention_heads=(4, 2),
    cross_attention_heads=(4, 2),
    cross_attention_span=(1, 2),
)

SENTENCES = tuple(
    f"{who} {does} {what}."
    for who in ("The man", "A woman", "My friend", "Der Mann", "Eine Frau", "Mein Freund")
    for does in ("sees", "buys", "wants", "sieht", "kauft", "möchte")
    for what in (
        "a red house",
        "two green apples",
        "the old book",
        "ein rotes Haus",
        "zwei Äpfel",
        "das alte Buch",
    )
)

POINT_IDS = ("small", "middle", "large")
# (CPUs, busy neighbours) -> milliseconds of small, middle and large at 30 tokens
LATENCIES_MS = {(1, 0): (10, 20, 40), (1, 1): (20, 40, 80), (2, 0): (10, 20, 40), (2, 1): (11, 22, 44)}


def tiny_spec(tokenizer: SentencePieceTokenizer, space: DesignSpace = SPACE) -> SuperTransformerSpec:
    """A pre-norm SuperTransformer over `tokenizer`'s vocabulary."""
    return SuperTransformerSpec(
        design_space=space,
        src_vocab_size=tokenizer.src_vocab_size,
        tgt_vocab_size=tokenizer.src_vocab_size,
        norm_first=True,
        max_positions=64,
    )


def point_configs(space: DesignSpace = SPACE) -> tuple[SubTransformerConfig, ...]:
    """Architectures of the three points."""
    largest = space.largest()
    middle = largest.model_copy(
        update={
            name: getattr(largest, name)[:2]
            for name in (
                "decoder_ffn_dims", "decoder_attention_heads", "cross_attention_heads", "cross_attention_spans",
            )
        }
    )  # fmt: skip
    return space.smallest(), middle, largest


def tiny_table(weights_sha256: str, budget_ms: float = 60.0) -> OperatingPointTable:
    """Three points with made-up latencies, on which a CPU makes a difference. It states no quality: the weights are
    random, and a point that claimed to translate would be refused."""
    points = tuple(
        OperatingPoint(
            id=point_id,
            config=config,
            num_parameters=SPACE.num_parameters(config),
            latencies=tuple(
                LatencyMeasurement(
                    num_cpus=num_cpus,
                    num_busy_neighbours=num_neighbours,
                    num_src_tokens=30,
                    num_tgt_tokens=30,
                    encoder_ms=1.0,
                    decoder_ms=times_ms[rank] - 1.0,
                    total_ms=times_ms[rank],
                    std_ms=0.0,
                    num_runs=10,
                )
                for (num_cpus, num_neighbours), times_ms in LATENCIES_MS.items()
            ),
        )
        for rank, (point_id, config) in enumerate(zip(POINT_IDS, point_configs(), strict=True))
    )
    return OperatingPointTable(
        device=DeviceDescription(
            name="made up",
            machine="none",
            num_cpus=2,
            torch_version="0",
            beam_size=2,
            measured_at="2026-01-01T00:00:00+00:00",
        ),
        design_space=SPACE.name,
        weights_sha256=weights_sha256,
        default_latency_budget_ms=budget_ms,
        points=points,
    )


def make_tiny_bundle(folder: Path) -> Bundle:
    """Write the bundle into `folder`."""
    model = train_tokenizer(SENTENCES, vocab_size=310)
    spec = tiny_spec(SentencePieceTokenizer(model))
    bundle = write_bundle(
        folder,
        name="tiny",
        languages=("en", "de"),
        spec=spec,
        weights=SuperTransformer.random(spec, seed=5).weights,
        text_files={SENTENCEPIECE_MODEL: model},
        training_record={"updates": 0},
        max_src_tokens=24,
    )
    return bundle.with_table(tiny_table(bundle.weights_sha256))
