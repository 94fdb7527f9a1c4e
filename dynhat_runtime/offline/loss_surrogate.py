"""A guess at a SubTransformer's loss from its architecture alone: ridge regression on choices and their interactions.

The cheapest rung of the search's ladder: it costs microseconds and is fitted anew to what was measured so far.
Measures nothing.

Shapes: N architectures, P features.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
import numpy.typing as npt

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig

Floats = npt.NDArray[np.float64]
RIDGES = (1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Penalties to choose from, for centred features of unit scale."""


def surrogate_features(space: DesignSpace, config: SubTransformerConfig) -> list[float]:
    """Which choice each active position takes, and how widths and spans weigh at this decoder depth."""
    row: list[float] = []

    def one_hot(value: int | None, choices: Sequence[int]) -> None:
        row.extend(float(value == choice) for choice in choices)

    def layers(values: Sequence[int], choices: Sequence[int], max_depth: int) -> None:
        for layer in range(max_depth):
            one_hot(values[layer] if layer < len(values) else None, choices)

    one_hot(config.encoder_embed_dim, space.encoder_embed_dim)
    one_hot(config.num_encoder_layers, space.encoder_num_layers)
    layers(config.encoder_ffn_dims, space.encoder_ffn_dim, space.max_encoder_layers)
    layers(config.encoder_attention_heads, space.encoder_attention_heads, space.max_encoder_layers)
    one_hot(config.decoder_embed_dim, space.decoder_embed_dim)
    one_hot(config.num_decoder_layers, space.decoder_num_layers)
    depth = space.max_decoder_layers
    layers(config.decoder_ffn_dims, space.decoder_ffn_dim, depth)
    layers(config.decoder_attention_heads, space.decoder_attention_heads, depth)
    layers(config.cross_attention_heads, space.cross_attention_heads, depth)
    layers(config.cross_attention_spans, space.cross_attention_span, depth)
    widths = (
        config.encoder_embed_dim / max(space.encoder_embed_dim),
        fmean(config.encoder_ffn_dims) / max(space.encoder_ffn_dim),
        config.decoder_embed_dim / max(space.decoder_embed_dim),
        fmean(config.decoder_ffn_dims) / max(space.decoder_ffn_dim),
        fmean(config.cross_attention_spans) / max(space.cross_attention_span),
    )
    for num_layers in space.decoder_num_layers:
        row.extend(width * (num_layers == config.num_decoder_layers) for width in widths)
    row.extend(
        first * second for i, first in enumerate(widths) for second in widths[i:]
    )  # widths help each other less than they help alone
    return row


class LossSurrogate:
    """Fitted to measured losses; the penalty is the one with the least generalised cross-validation error."""

    def __init__(self, space: DesignSpace, configs: Sequence[SubTransformerConfig], losses_N: Floats) -> None:
        self.space = space
        features_NP = self._features(configs)
        self.mean_P = features_NP.mean(axis=0)
        spread_P = features_NP.std(axis=0)
        self.scale_P = np.where(spread_P > 0, spread_P, 1.0)
        self.mean_loss = float(losses_N.mean())
        centred_NP = (features_NP - self.mean_P) / self.scale_P
        u_NK, s_K, v_KP = np.linalg.svd(centred_NP, full_matrices=False)
        target_K = u_NK.T @ (losses_N - self.mean_loss)
        rest = float(((losses_N - self.mean_loss) ** 2).sum() - (target_K**2).sum())

        def cross_validation_error(ridge: float) -> float:
            shrink_K = s_K**2 / (s_K**2 + ridge)
            error = rest + float((((1 - shrink_K) * target_K) ** 2).sum())
            return error / max(len(losses_N) - float(shrink_K.sum()) - 1, 1e-3) ** 2

        ridge = min(RIDGES, key=cross_validation_error)
        self.weight_P = v_KP.T @ (s_K / (s_K**2 + ridge) * target_K)

    def losses(self, configs: Sequence[SubTransformerConfig]) -> Floats:
        """Guessed losses (N), nats per target token."""
        centred_NP = (self._features(configs) - self.mean_P) / self.scale_P
        guesses_N: Floats = centred_NP @ self.weight_P + self.mean_loss
        return guesses_N

    def _features(self, configs: Sequence[SubTransformerConfig]) -> Floats:
        return np.array([surrogate_features(self.space, config) for config in configs], np.float64)
