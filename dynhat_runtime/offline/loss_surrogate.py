"""A guess at a SubTransformer's loss from its architecture alone: ridge regression on choices and their interactions.

The cheapest rung of the search's ladder: it costs microseconds and is fitted anew to what was measured so far.
Measures nothing.

Shapes: N architectures, G gene positions, C choices of one, W widths, P features, K components.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig

Floats = npt.NDArray[np.float64]
RIDGES = (1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Penalties to choose from, for centred features of unit scale."""
_WIDTHS = (
    "encoder_embed_dim",
    "encoder_ffn_dim",
    "decoder_embed_dim",
    "decoder_ffn_dim",
    "cross_attention_span",
)
"""Their means over active layers are taken into account beside the single positions."""
_FIELDS = (*_WIDTHS, "encoder_num_layers", "decoder_num_layers")


def surrogate_features(space: DesignSpace, configs: Sequence[SubTransformerConfig]) -> Floats:
    """Features (N, P): which choice each active position takes, and how widths and spans weigh at each depth."""
    genes_NG = np.array([space.gene(config) for config in configs], np.float64)
    slots = space.gene_slots()
    columns = {field: [i for i, slot in enumerate(slots) if slot.field == field] for field in _FIELDS}
    depths_N = {stack: genes_NG[:, columns[f"{stack}_num_layers"][0]] for stack in ("encoder", "decoder")}
    blocks: list[Floats] = []
    active_NG = np.ones_like(genes_NG)
    for position, slot in enumerate(slots):
        if slot.layer is not None:
            stack = "encoder" if slot.field.startswith("encoder") else "decoder"
            active_NG[:, position] = slot.layer < depths_N[stack]
        takes_NC = genes_NG[:, position, None] == np.array(slot.choices)
        blocks.append(takes_NC * active_NG[:, position, None])
    widths_NW = np.stack(
        [
            (genes_NG * active_NG)[:, columns[field]].sum(axis=1)
            / active_NG[:, columns[field]].sum(axis=1)
            / max(slots[columns[field][0]].choices)
            for field in _WIDTHS
        ],
        axis=1,
    )
    blocks += [widths_NW * (depths_N["decoder"] == depth)[:, None] for depth in space.decoder_num_layers]
    # Widths help each other less than they help alone.
    blocks += [widths_NW[:, i:] * widths_NW[:, i, None] for i in range(len(_WIDTHS))]
    return np.concatenate(blocks, axis=1)


class LossSurrogate:
    """Fitted to measured losses; the penalty is the one with the least generalised cross-validation error."""

    def __init__(self, space: DesignSpace, configs: Sequence[SubTransformerConfig], losses_N: Floats) -> None:
        self.space = space
        features_NP = surrogate_features(space, configs)
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
        centred_NP = (surrogate_features(self.space, configs) - self.mean_P) / self.scale_P
        guesses_N: Floats = centred_NP @ self.weight_P + self.mean_loss
        return guesses_N
