"""What of a sentence is translated, and how the translations become a sentence again with all that is protected.

Decides what the model is asked and which answer is taken; asks no model itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dynhat_runtime.text.protected_spans import Span, protected_spans
from dynhat_runtime.text.stand_ins import Masked, mask

_STOPS = ".!?…"
_ENDS_NO_PIECE = " ,;:–—-([{<«„“‚‘\"'/\t\u00a0"
"""Signs at a piece's end that belong to what follows."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Language between what is protected."""

    before: str
    """Kept as it is in front of it."""
    text: str


@dataclass(frozen=True, slots=True)
class Clause:
    """What of a sentence is translated together: all of it, unless an emoji stands in the middle."""

    before: str
    """Kept in front of it."""
    whole: Masked | None
    """All of it at once, where something is protected that words can stand in for."""
    pieces: tuple[Piece, ...]
    ending: str
    """Kept behind the last piece."""
    after: str
    """Kept behind it."""

    @property
    def sources(self) -> tuple[str, ...]:
        """What the model is asked for this clause."""
        whole = () if self.whole is None else (self.whole.text,)
        return (*whole, *(piece.text for piece in self.pieces))


@dataclass(frozen=True, slots=True)
class Assembled:
    """A translated sentence."""

    text: str
    used: tuple[int, ...]
    """Which of the plan's sources it is made of."""


@dataclass(frozen=True, slots=True)
class SentencePlan:
    """A sentence as the model is asked for it."""

    clauses: tuple[Clause, ...]
    is_plain: bool
    """Nothing in it is protected."""

    @property
    def sources(self) -> tuple[str, ...]:
        """All texts to translate; none if there is no language in it but what is protected."""
        return tuple(source for clause in self.clauses for source in clause.sources)

    # Rules, for every clause:
    #   1  It was translated whole with stand-ins, and all of them
    #      came back once, in an order that keeps their meaning    -> that, with what they stand for.
    #   2  Otherwise                                               -> its pieces' translations, and between them what is
    #      protected, where it was.
    def assemble(self, translations: Sequence[str]) -> Assembled:
        """The sentence in the other language.

        Args:
            translations: One for each of `sources`, in the same order.
        """
        texts: list[str] = []
        used: list[int] = []
        position = 0
        for clause in self.clauses:
            answers = translations[position : position + len(clause.sources)]
            num_whole = 0 if clause.whole is None else 1
            said = None if clause.whole is None else clause.whole.restore(answers[0])
            if said is not None:
                used.append(position)
            else:
                said = self._join(clause, answers[num_whole:])
                used += range(position + num_whole, position + len(answers))
            texts += [clause.before, said, clause.after]
            position += len(answers)
        return Assembled("".join(texts), tuple(used))

    def _join(self, clause: Clause, translations: Sequence[str]) -> str:
        """The pieces' translations and what stands between them."""
        said = (
            piece.before + (translation if self.is_plain else _without_new_stop(piece.text, translation))
            for piece, translation in zip(clause.pieces, translations, strict=True)
        )
        return "".join(said) + clause.ending


# A clause with something protected is translated two ways at once, in the same batch: whole with stand-ins, which reads
# better, and in pieces, which cannot lose anything. So a lost stand-in costs no second round that nobody planned for.
def plan_sentence(sentence: str) -> SentencePlan:
    """How to translate a sentence; what is kept and what is translated add up to all of it.

    Args:
        sentence: Without white space around it.
    """
    spans = protected_spans(sentence)
    if not spans:
        return SentencePlan((Clause("", None, (Piece("", sentence),), "", ""),), is_plain=True)
    return SentencePlan(tuple(_clauses(sentence, spans)), is_plain=False)


def _clauses(sentence: str, spans: Sequence[Span]) -> Iterator[Clause]:
    """Cut at symbols: no word can stand in for them."""
    begin, inside = 0, list[Span]()
    for span in spans:
        if span.kind == "symbol":
            yield _clause(sentence, begin, span.begin, inside, sentence[span.begin : span.end])
            begin, inside = span.end, []
        else:
            inside.append(span)
    yield _clause(sentence, begin, len(sentence), inside, "")


def _clause(sentence: str, begin: int, end: int, spans: Sequence[Span], symbols: str) -> Clause:
    """The clause from `begin` to `end`, in which `spans` lie, with the symbols behind it."""
    text = sentence[begin:end].strip()
    if not text:
        return Clause(sentence[begin:end], None, (), "", symbols)
    offset = sentence.index(text, begin)
    moved = [Span(span.begin - offset, span.end - offset, span.kind) for span in spans]
    pieces, ending = _pieces(text, moved)
    whole = mask(text, moved) if moved and pieces else None
    return Clause(sentence[begin:offset], whole, pieces, ending, sentence[offset + len(text) : end] + symbols)


def _pieces(text: str, spans: Sequence[Span]) -> tuple[tuple[Piece, ...], str]:
    """The language between the spans, each piece with all that is kept in front of it; and what is kept at the end."""
    pieces: list[Piece] = []
    kept = ""
    position = 0
    for span in (*spans, Span(len(text), len(text), "symbol")):
        between = text[position : span.begin]
        protected = text[span.begin : span.end]
        position = span.end
        if not any(map(str.isalpha, between)):
            kept += between + protected
            continue
        at = next(i for i, character in enumerate(between) if character.isalnum())
        language = between[at:].rstrip(_ENDS_NO_PIECE)
        pieces.append(Piece(kept + between[:at], language))
        kept = between[at + len(language) :] + protected
    return tuple(pieces), kept


def _without_new_stop(source: str, translation: str) -> str:
    """A piece of a sentence gets no full stop that it did not have."""
    if translation.endswith(".") and not translation.endswith("..") and source[-1:] not in _STOPS:
        return translation[:-1]
    return translation
