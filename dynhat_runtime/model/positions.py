"""The tables that tell a network where in a sentence a token stands."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dynhat_runtime.model.spec import SuperTransformerSpec


def sinusoidal_positions(num_positions: int, embed_dim: int, pad_id: int) -> NDArray[np.float32]:
    """Position table (P, E) at the SuperTransformer's width: sines in the first half, cosines in the second.

    Frequencies are exp(-i ln(10000) / (half - 1)); the row of `pad_id` is zero. Sampled widths take leading
    columns of this table instead of a table of their own (HAT).
    """
    half = embed_dim // 2
    frequency_H = np.exp(np.arange(half, dtype=np.float32) * np.float32(-(math.log(10000.0) / (half - 1))))
    angle_PH = np.arange(num_positions, dtype=np.float32)[:, None] * frequency_H[None, :]
    table_PE = np.zeros((num_positions, embed_dim), np.float32)
    table_PE[:, :half], table_PE[:, half : 2 * half] = np.sin(angle_PH), np.cos(angle_PH)
    table_PE[pad_id] = 0.0
    return table_PE


def position_tables(spec: SuperTransformerSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Those of encoder and decoder, at full width."""
    space = spec.design_space
    return (
        sinusoidal_positions(spec.num_positions, max(space.encoder_embed_dim), spec.pad_id),
        sinusoidal_positions(spec.num_positions, max(space.decoder_embed_dim), spec.pad_id),
    )
