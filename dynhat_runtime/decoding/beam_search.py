"""Beam search over a step function. Knows token ids and scores, nothing of text or of Transformers.

Source: the search of HAT / fairseq as published, confirmed by golden hypotheses. Greedy search is beam 1.

Shapes: B sentences still searched, K beams, N = B * K rows, V vocabulary, C = 2K candidates; the vocabulary is looked
through in groups of W neighbouring tokens, G of them in the K rows of a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dynhat_runtime.decoding.search import (
    BeamOptions,
    Hypothesis,
    SearchCancelledError,
    best_first,
    hypothesis,
    search_itself,
)
from dynhat_runtime.model.decodable import Decodable, SearchesItself

LARGEST_GROUP = 256
USUAL_GROUP = 128
"""Tokens that one look at their maximum rules out together; between the sizes of the two steps of the selection."""


class StepFunction(Protocol):
    """Incremental decoding of N rows, K of them per sentence."""

    def step(self, tokens_N: Tensor) -> Tensor:
        """Scores before softmax (N, V) of what follows each row's last token."""

    def reorder(self, rows_N: Tensor) -> None:
        """Continue with these rows, each within its sentence."""

    def keep_sentences(self, sentences_B: Tensor, rows_N: Tensor) -> None:
        """Continue with these sentences and these rows only."""


class _Node(NamedTuple):
    """One token of a hypothesis and what came before it."""

    token: int
    total: float
    previous: _Node | None

    def tokens_and_totals(self) -> tuple[list[int], list[float]]:
        tokens, totals = [], []
        node: _Node | None = self
        while node is not None:
            tokens.append(node.token)
            totals.append(node.total)
            node = node.previous
        tokens.reverse()
        totals.reverse()
        return tokens, totals


@torch.inference_mode()
def search_by_steps(
    sub: Decodable,
    sources: Sequence[Sequence[int]],
    max_lengths: Sequence[int],
    options: BeamOptions,
    is_cancelled: Callable[[], bool],
) -> list[list[Hypothesis]]:
    """Encode and search sentences with any network; arguments and errors as for `search.search`."""
    device, longest = sub.device, max(map(len, sources))
    src_BS = torch.tensor(
        [[options.pad_id] * (longest - len(ids)) + list(ids) for ids in sources], device=device
    )
    decoder = sub.start(sub.encode(src_BS), options.beam_size)
    return beam_search(decoder, max_lengths, options, device=device, is_cancelled=is_cancelled)


def beam_search(
    decoder: StepFunction,
    max_lengths: Sequence[int],
    options: BeamOptions,
    *,
    device: torch.device | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> list[list[Hypothesis]]:
    """Search every sentence's best outputs.

    Args:
        decoder: At its first position, with K rows per sentence.
        max_lengths: Per sentence, tokens before eos is forced.
        options: How to search.
        device: Where the decoder's tokens live.
        is_cancelled: Asked before each step; by a decoder that searches itself, every few milliseconds.

    Returns:
        Per sentence its finished hypotheses, best first; at most K.

    Raises:
        SearchCancelledError: `is_cancelled` said so.
    """
    if isinstance(decoder, SearchesItself):
        return search_itself(decoder, max_lengths, options, is_cancelled)
    beam = options.beam_size
    finished: list[list[Hypothesis]] = [[] for _ in max_lengths]
    active = list(range(len(max_lengths)))
    rows: list[_Node | None] = [None] * (len(active) * beam)
    tokens_N = torch.full((len(rows),), options.eos_id, dtype=torch.long, device=device)
    # Before the first token a sentence's rows are equal: only the first may be continued.
    totals_BK = torch.full((len(active), beam), -torch.inf, device=device)
    totals_BK[:, 0] = 0.0
    position = 0
    while active:
        if is_cancelled():
            raise SearchCancelledError
        forced_B = [position >= max_lengths[sentence] for sentence in active]
        repeats = [_repeats(node, options.no_repeat_size) for node in rows] if options.no_repeat_size else []
        candidates = _best_candidates(decoder.step(tokens_N), totals_BK, position, forced_B, repeats, options)
        survivors: list[int] = []
        next_rows: list[_Node] = []
        parents: list[int] = []
        for place, (sentence, sentence_candidates) in enumerate(zip(active, candidates, strict=True)):
            chosen = _advance(sentence_candidates, rows, place * beam, finished[sentence], options)
            if len(finished[sentence]) < beam and not forced_B[place]:
                survivors.append(place)
                parents += [row for row, _ in chosen]
                next_rows += [node for _, node in chosen]
        _continue_with(decoder, survivors, parents, len(active), beam, device)
        active = [active[place] for place in survivors]
        rows = list(next_rows)
        tokens_N = torch.tensor([node.token for node in next_rows], dtype=torch.long, device=device)
        totals_BK = torch.tensor([node.total for node in next_rows], device=device).view(len(active), beam)
        position += 1
    return [best_first(hypotheses) for hypotheses in finished]


class _Candidate(NamedTuple):
    """A token that may follow one of a sentence's rows."""

    total: float
    beam: int
    token: int


def _best_candidates(
    logits_NV: Tensor,
    totals_BK: Tensor,
    position: int,
    forced_B: list[bool],
    repeats: list[list[int]],
    options: BeamOptions,
) -> list[list[_Candidate]]:
    """Per sentence its 2K best continuations, best first; pad and what `repeats` lists for a row never, eos as
    `min_length` and the cap demand."""
    beam = totals_BK.shape[1]
    # Before anything is ruled out: what may not be said still has its share. Three times faster than logsumexp.
    scores_NV = logits_NV.log_softmax(dim=1)
    is_too_short = position < options.min_length
    if any(forced_B):  # a cap below `min_length` wins
        forced_N1 = torch.tensor(forced_B, device=scores_NV.device).repeat_interleave(beam)[:, None]
        eos_N1 = scores_NV[:, options.eos_id : options.eos_id + 1].clone()
        if is_too_short:
            eos_N1.masked_fill_(~forced_N1, -torch.inf)
        scores_NV.masked_fill_(forced_N1, -torch.inf)
        scores_NV[:, options.eos_id : options.eos_id + 1] = eos_N1
    elif is_too_short:
        scores_NV[:, options.eos_id] = -torch.inf
    scores_NV[:, options.pad_id] = -torch.inf
    for row, ruled_out in enumerate(repeats):
        scores_NV[row, ruled_out] = -torch.inf
    best, rows, tokens = _best_of_sentences(scores_NV.add_(totals_BK.view(-1, 1)), totals_BK)
    return [
        [_Candidate(*candidate) for candidate in zip(*columns, strict=True)]
        for columns in zip(best, rows, tokens, strict=True)
    ]


def _best_of_sentences(
    totals_NV: Tensor, totals_BK: Tensor
) -> tuple[list[list[float]], list[list[int]], list[list[int]]]:
    """Totals, beams and tokens of the 2K best of every sentence's K rows, best first.

    The best C tokens lie in the C groups of the highest maxima, so only these groups are sorted: half the time of
    sorting every row.
    """
    num_sentences, beam = totals_BK.shape
    num_candidates = min(2 * beam, totals_NV.shape[1])
    width = _group_width(totals_NV.shape[1])
    if totals_NV.shape[1] % width:
        totals_NV = F.pad(totals_NV, (0, width - totals_NV.shape[1] % width), value=-torch.inf)
    groups_per_row = totals_NV.shape[1] // width
    totals_BGW = totals_NV.view(num_sentences, beam * groups_per_row, width)
    group_BC = totals_BGW.amax(dim=2).topk(min(num_candidates, totals_BGW.shape[1]), dim=1).indices
    chosen_BCW = (
        totals_BGW[0, group_BC[0]]
        if num_sentences == 1
        else totals_BGW.gather(1, group_BC[:, :, None].expand(-1, -1, width))
    )
    best_BC, flat_BC = chosen_BCW.view(num_sentences, -1).topk(num_candidates, dim=1)
    rows, tokens = [], []
    for groups, places in zip(group_BC.tolist(), flat_BC.tolist(), strict=True):
        found = [(groups[place // width], place % width) for place in places]
        rows.append([group // groups_per_row for group, _ in found])
        tokens.append([group % groups_per_row * width + token for group, token in found])
    return best_BC.tolist(), rows, tokens


def _group_width(vocab_size: int) -> int:
    """Tokens in a group: a large divisor of the vocabulary, so that nothing has to be padded, if it has one."""
    if vocab_size <= LARGEST_GROUP:
        return vocab_size
    divisors = (width for width in range(LARGEST_GROUP, USUAL_GROUP // 2 - 1, -1) if vocab_size % width == 0)
    return next(divisors, USUAL_GROUP)


def _advance(
    candidates: list[_Candidate],
    rows: list[_Node | None],
    first_row: int,
    finished: list[Hypothesis],
    options: BeamOptions,
) -> list[tuple[int, _Node]]:
    """Finish what ended in eos, return the K rows to go on with.

    Rules: an eos counts only among the first K candidates, and only while fewer than K hypotheses have finished;
    the first K other candidates go on.
    """
    beam = options.beam_size
    chosen: list[tuple[int, _Node]] = []
    for rank, candidate in enumerate(candidates):
        row = first_row + candidate.beam
        if candidate.token == options.eos_id:
            if rank < beam and len(finished) < beam and candidate.total > -torch.inf:
                finished.append(_finish(_Node(candidate.token, candidate.total, rows[row]), options))
        elif len(chosen) < beam:
            chosen.append((row, _Node(candidate.token, candidate.total, rows[row])))
    return chosen


def _repeats(node: _Node | None, size: int) -> list[int]:
    """Tokens that would make the last `size` of a hypothesis a run that has come before."""
    if node is None:
        return []
    said, _ = node.tokens_and_totals()
    latest = said[len(said) - size + 1 :]
    return [said[i + size - 1] for i in range(len(said) - size + 1) if said[i : i + size - 1] == latest]


def _finish(node: _Node, options: BeamOptions) -> Hypothesis:
    return hypothesis(*node.tokens_and_totals(), options)


def _continue_with(
    decoder: StepFunction,
    survivors: list[int],
    parents: list[int],
    num_active: int,
    beam: int,
    device: torch.device | None,
) -> None:
    """Tell the decoder which sentences and rows go on; nothing where nothing moved."""
    if not survivors:
        return
    if len(survivors) < num_active:
        decoder.keep_sentences(torch.tensor(survivors, device=device), torch.tensor(parents, device=device))
    elif beam > 1 and parents != list(range(num_active * beam)):
        decoder.reorder(torch.tensor(parents, device=device))
