"""Made-up latencies and losses for searches: additive, so that what is best is known, or can be enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import LatencyDataError
from dynhat_runtime.offline.candidates import Candidate, Rung, predicted_ms

SMALL_SPACE = DesignSpace(
    name="small",
    qkv_dim=8,
    encoder_embed_dim=(16, 8),
    encoder_num_layers=(1,),
    encoder_ffn_dim=(24, 16),
    encoder_attention_heads=(4,),
    decoder_embed_dim=(16, 8),
    decoder_num_layers=(3, 2, 1),
    decoder_ffn_dim=(24, 16),
    decoder_attention_heads=(4,),
    cross_attention_heads=(4,),
    cross_attention_span=(1,),
)
"""112 architectures."""


class AdditivePredictor:
    """A few milliseconds for everything; of one device and one space."""

    def __init__(self, space_name: str = "toy", device: str = "made up") -> None:
        self.space_name, self.device = space_name, device

    def predict_ms(self, configs: Sequence[SubTransformerConfig]) -> npt.NDArray[np.float64]:
        """Milliseconds of each architecture."""
        return np.array(
            [
                2.0
                + one.encoder_embed_dim / 16
                + sum(one.encoder_ffn_dims) / 50
                + sum(1 + one.decoder_embed_dim / 16 + ffn_dim / 24 for ffn_dim in one.decoder_ffn_dims)
                + sum(one.cross_attention_spans) / 10
                for one in configs
            ]
        )

    def check_for(self, design_space: DesignSpace, device: str) -> None:
        """Refuse others, in the words of the real one."""
        if design_space.name != self.space_name:
            raise LatencyDataError(
                f"the predictor is for space {self.space_name!r}, not {design_space.name!r}"
            )
        if device != self.device:
            raise LatencyDataError(f"the predictor is for device {self.device!r}, not {device!r}")


class MadeUpLosses:
    """Loss falls with everything, by unlike amounts; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[SubTransformerConfig, Rung]] = []

    def losses(self, configs: Sequence[SubTransformerConfig], rung: Rung) -> list[float]:
        """Nats of each architecture."""
        self.asked += [(config, rung) for config in configs]
        return [made_up_loss(config) for config in configs]


def made_up_loss(config: SubTransformerConfig) -> float:
    """Lower for wider and deeper; the second decoder layer brings most."""
    depth_gain = sum((0.5, 0.8, 0.1, 0.05, 0.03, 0.02)[: config.num_decoder_layers])
    widths = config.encoder_embed_dim / 40 + config.decoder_embed_dim / 100
    ffn = sum(config.encoder_ffn_dims) / 400 + sum(
        ffn_dim / (200 * (layer + 1)) for layer, ffn_dim in enumerate(config.decoder_ffn_dims)
    )
    return 4.0 - depth_gain - widths - ffn


def every_config(space: DesignSpace) -> list[SubTransformerConfig]:
    """All architectures of a small space."""
    genes = itertools.product(*(slot.choices for slot in space.gene_slots()))
    return list(dict.fromkeys(space.config_from_gene(gene) for gene in genes))


def every_candidate(space: DesignSpace) -> list[Candidate]:
    """All architectures with their made-up figures."""
    configs = every_config(space)
    times_ms = predicted_ms(AdditivePredictor(), configs)
    return [Candidate(one, ms, made_up_loss(one)) for one, ms in zip(configs, times_ms, strict=True)]
