"""Named design spaces: the paper's and its halves, the paper's reduced one, and those of HAT's other tasks.

Says nothing about what a design space is or does: that is `design_space`.
"""

from __future__ import annotations

from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.errors import DesignSpaceError


def _hat_space(
    name: str,
    *,
    widths: tuple[int, ...],
    ffn_dims: tuple[int, ...],
    heads: tuple[int, ...],
    spans: tuple[int, ...] = (1, 2, 3),
    qkv_dim: int = 512,
) -> DesignSpace:
    """A space of HAT's shape: six encoder layers, one to six decoder layers, the same choices on both sides."""
    return DesignSpace(
        name=name,
        qkv_dim=qkv_dim,
        encoder_embed_dim=widths,
        encoder_num_layers=(6,),
        encoder_ffn_dim=ffn_dims,
        encoder_attention_heads=heads,
        decoder_embed_dim=widths,
        decoder_num_layers=(6, 5, 4, 3, 2, 1),
        decoder_ffn_dim=ffn_dims,
        decoder_attention_heads=heads,
        cross_attention_heads=heads,
        cross_attention_span=spans,
    )


def _scaled_paper_space(name: str, divisor: int, heads: tuple[int, ...]) -> DesignSpace:
    """The paper's space with every width divided by `divisor`."""
    return _hat_space(
        name,
        widths=(640 // divisor, 512 // divisor),
        ffn_dims=(3072 // divisor, 2048 // divisor, 1024 // divisor),
        heads=heads,
        qkv_dim=512 // divisor,
    )


PRESETS: dict[str, DesignSpace] = {
    space.name: space
    for space in (
        _scaled_paper_space("paper-wmt14-ende", 1, (8, 4)),
        _scaled_paper_space("half-wmt14-ende", 2, (8, 4)),
        _scaled_paper_space("quarter-wmt14-ende", 4, (4, 2)),
        _hat_space(
            "quarter-wide", widths=(160, 128), ffn_dims=(1536, 768, 512, 256), heads=(4, 2), qkv_dim=128
        ),
        _hat_space(
            "compact",
            widths=(256, 192, 128),
            ffn_dims=(1024, 512, 256),
            heads=(8, 4),
            spans=(1,),
            qkv_dim=256,
        ),
        _hat_space("reduced-wmt14-ende", widths=(512,), ffn_dims=(3072, 2048), heads=(8, 4), spans=(1, 2)),
        _scaled_paper_space("hat-wmt14-enfr", 1, (8, 4)),
        _scaled_paper_space("hat-wmt19-ende", 1, (8, 4)),
        _hat_space("hat-iwslt14-deen", widths=(640, 512), ffn_dims=(2048, 1024, 512), heads=(4, 2)),
    )
}
"""Named spaces: the paper's (HAT WMT'14 En-De "space0"), its halves that a small machine can train, its quarter
with a wider feed-forward layer on top, one between half and quarter in wider steps ("compact"), the paper's reduced
space, and those of HAT's other tasks (IWSLT: "space1")."""


def preset(name: str) -> DesignSpace:
    """The design space called `name`.

    Raises:
        DesignSpaceError: No such preset; the message lists those there are.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise DesignSpaceError(f"design space {name!r} is unknown: choose one of {sorted(PRESETS)}") from None
