"""How to search, and what a search finds: values that every decoder shares. Computes no scores, and needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dynhat_runtime.model.decodable import Decodable, SearchesItself, SearchesSentences


@dataclass(frozen=True, slots=True)
class BeamOptions:
    """How to search.

    Attributes:
        beam_size: K; 1 is greedy search.
        length_penalty: Exponent of the length that a sum of log-probabilities is divided by (0.6 on WMT).
        min_length: Tokens before eos may be produced.
        no_repeat_size: No run of so many tokens comes twice in an output, so nothing loops; 0 lets everything repeat.
            Source: Paulus et al. 2018, "A deep reinforced model for abstractive summarization", section 2.5.
    """

    beam_size: int = 4
    length_penalty: float = 0.6
    min_length: int = 1
    eos_id: int = 2
    pad_id: int = 1
    no_repeat_size: int = 0


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished output.

    Attributes:
        tokens: Ends in eos.
        score: Sum of log-probabilities / length ** length_penalty; the length counts eos.
        totals: Sums of log-probabilities up to and with each token.
    """

    tokens: tuple[int, ...]
    score: float
    totals: tuple[float, ...]

    @property
    def token_scores(self) -> tuple[float, ...]:
        """Log-probability of each token."""
        return tuple(b - a for a, b in zip((0.0, *self.totals), self.totals, strict=False))


class SearchCancelledError(Exception):
    """The caller no longer wants the result; raised between two steps."""


def search(
    sub: Decodable,
    sources: Sequence[Sequence[int]],
    max_lengths: Sequence[int],
    options: BeamOptions,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> list[list[Hypothesis]]:
    """Search every sentence's best outputs, the way that is fastest with this network.

    Args:
        sub: What computes.
        sources: Token ids, each ending in eos.
        max_lengths: Per sentence, tokens before eos is forced.
        options: How to search.
        is_cancelled: Asked every few milliseconds.

    Returns:
        Per sentence its finished hypotheses, best first; at most as many as there are beams.

    Raises:
        SearchCancelledError: `is_cancelled` said so.
    """
    if not sources:
        return []
    if isinstance(sub, SearchesSentences):
        return search_itself(sub.start_search(sources, options.beam_size), max_lengths, options, is_cancelled)
    from dynhat_runtime.decoding.beam_search import search_by_steps  # brings torch, as the network has

    return search_by_steps(sub, sources, max_lengths, options, is_cancelled)


def search_itself(
    decoder: SearchesItself,
    max_lengths: Sequence[int],
    options: BeamOptions,
    is_cancelled: Callable[[], bool],
) -> list[list[Hypothesis]]:
    """What a decoder finds that searches on its own; arguments and errors as for `search`."""
    raws = decoder.search(
        max_lengths,
        beam_size=options.beam_size,
        min_length=options.min_length,
        no_repeat_size=options.no_repeat_size,
        eos_id=options.eos_id,
        pad_id=options.pad_id,
        is_cancelled=is_cancelled,
    )
    if raws is None:
        raise SearchCancelledError
    return [best_first([hypothesis(*raw, options) for raw in of_sentence]) for of_sentence in raws]


def hypothesis(tokens: Sequence[int], totals: Sequence[float], options: BeamOptions) -> Hypothesis:
    """A finished output of these tokens; `totals` are the sums of log-probabilities up to and with each."""
    return Hypothesis(tuple(tokens), totals[-1] / len(tokens) ** options.length_penalty, tuple(totals))


def best_first(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    """The highest score first."""
    return sorted(hypotheses, key=lambda h: -h.score)
