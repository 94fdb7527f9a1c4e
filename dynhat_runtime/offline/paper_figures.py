"""Figures printed in the Dynamic-HAT paper, to stand beside ours. None was measured here; each use says whose it is.

Source: Parry et al., "Dynamic Transformer for Efficient Machine Translation on Embedded Devices", Tables I to III.
WMT'14 English-German, Jetson Nano; another model, task and device than ours, so only the form compares.
"""

from __future__ import annotations

from typing import NamedTuple


class TableIRow(NamedTuple):
    """Inherited against trained from scratch, Jetson Nano GPU."""

    latency_constraint_ms: float
    inherited_bleu: float
    from_scratch_bleu: float


class TableIIRow(NamedTuple):
    """A searched operating point."""

    latency_ms: float
    bleu: float
    dev_loss: float
    num_decoder_layers: int


TABLE_I = (TableIRow(500, 26.17, 26.33), TableIRow(1000, 26.67, 26.84), TableIRow(1500, 26.26, 27.21))

TABLE_II_GPU = (
    TableIIRow(356.11, 23.66, 4.8229, 1),
    TableIIRow(608.95, 26.23, 4.3821, 2),
    TableIIRow(854.85, 26.17, 4.231, 3),
    TableIIRow(994.96, 26.67, 4.155, 4),
    TableIIRow(1255.38, 26.52, 4.1177, 5),
    TableIIRow(1526.54, 26.53, 4.1048, 6),
)
TABLE_II_CPU = (
    TableIIRow(2900, 23.21, 4.9437, 1),
    TableIIRow(3960, 25.73, 4.4163, 2),
    TableIIRow(4970, 25.63, 4.2336, 3),
    TableIIRow(5900, 26.45, 4.1478, 5),
    TableIIRow(6750, 26.31, 4.1114, 6),
    TableIIRow(7310, 26.33, 4.1044, 6),
)

TABLE_III = (
    ("Static HAT", "minutes to hours", "load weights / search / retrain"),
    ("Dynamic-HAT", "< 1 s", "sample"),
)

REDUCED_SPACE_GAIN = "about 1 % BLEU for sub-optimal points"
"""Section IV-C, Figure 5; the figure prints no numbers."""
