"""Small tables of operating points with figures that can be checked in the head."""

from __future__ import annotations

from collections.abc import Sequence

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.operating_point import (
    DeviceDescription,
    LatencyMeasurement,
    OperatingPoint,
    OperatingPointTable,
)


def row(
    num_cpus: int, num_src_tokens: int, num_tgt_tokens: int, encoder_ms: float, decoder_ms: float
) -> LatencyMeasurement:
    """A measurement whose total is encoder plus decoder."""
    return LatencyMeasurement(
        num_cpus=num_cpus,
        num_src_tokens=num_src_tokens,
        num_tgt_tokens=num_tgt_tokens,
        encoder_ms=encoder_ms,
        decoder_ms=decoder_ms,
        total_ms=encoder_ms + decoder_ms,
        std_ms=0.0,
        num_runs=1,
    )


def point(
    point_id: str,
    rows: Sequence[LatencyMeasurement],
    *,
    num_decoder_layers: int = 1,
    dev_loss: float | None = None,
    bleu: float | None = None,
) -> OperatingPoint:
    """An operating point with these measurements."""
    config = SubTransformerConfig(
        encoder_embed_dim=8,
        encoder_ffn_dims=(8,),
        encoder_attention_heads=(1,),
        decoder_embed_dim=8,
        decoder_ffn_dims=(8,) * num_decoder_layers,
        decoder_attention_heads=(1,) * num_decoder_layers,
        cross_attention_heads=(1,) * num_decoder_layers,
        cross_attention_spans=(1,) * num_decoder_layers,
    )
    return OperatingPoint(
        id=point_id, config=config, num_parameters=1, latencies=tuple(rows), dev_loss=dev_loss, bleu=bleu
    )


def table(points: Sequence[OperatingPoint], cpu_max_frequency_hz: float | None = None) -> OperatingPointTable:
    """A table of these points, fastest first, with 30 tokens as reference length."""
    device = DeviceDescription(
        name="hand-made",
        machine="x86_64",
        num_cpus=4,
        cpu_max_frequency_hz=cpu_max_frequency_hz,
        torch_version="0",
        beam_size=1,
        measured_at="2025-01-01T00:00:00Z",
    )
    return OperatingPointTable(
        device=device,
        design_space="hand-made",
        weights_sha256="0",
        reference_num_tokens=30,
        default_latency_budget_ms=35.0,
        points=tuple(points),
    )


def three_points(cpu_max_frequency_hz: float | None = None) -> OperatingPointTable:
    """p1, p3 and p6, better in that order: 10, 20 and 30 ms on 4 CPUs, 20, 40 and 60 ms on 1."""
    return table(
        [
            point(
                f"p{layers}",
                [row(1, 30, 30, 2.0, 2 * total_ms - 2.0), row(4, 30, 30, 1.0, total_ms - 1.0)],
                num_decoder_layers=layers,
                dev_loss=dev_loss,
            )
            for layers, total_ms, dev_loss in ((1, 10.0, 4.0), (3, 20.0, 3.5), (6, 30.0, 3.2))
        ],
        cpu_max_frequency_hz,
    )
