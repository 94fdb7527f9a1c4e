"""Shortlists for tests: of chosen tokens, or drawn by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dynhat_runtime.model.shortlist import EOS_ID, Shortlist


def shortlist_of(
    rows: Mapping[int, Sequence[int]],
    *,
    src_vocab_size: int,
    tgt_vocab_size: int,
    common: Sequence[int] = (EOS_ID,),
) -> Shortlist:
    """The one in which source token i has `rows[i]`, and every other none of its own."""
    lists = [list(rows.get(i, ())) for i in range(src_vocab_size)]
    return Shortlist(
        common=np.array(common, np.int32),
        starts=np.cumsum([0, *map(len, lists)]).astype(np.int32),
        tokens=np.array([token for row in lists for token in row], np.int32),
        tgt_vocab_size=tgt_vocab_size,
    )


def random_shortlist(src_vocab_size: int, tgt_vocab_size: int, per_token: int, seed: int = 0) -> Shortlist:
    """Every source token has this many target tokens, special ones not among them."""
    rng = np.random.default_rng(seed)
    rows = {
        i: sorted(rng.choice(np.arange(3, tgt_vocab_size), per_token, replace=False).tolist())
        for i in range(src_vocab_size)
    }
    return shortlist_of(rows, src_vocab_size=src_vocab_size, tgt_vocab_size=tgt_vocab_size)
