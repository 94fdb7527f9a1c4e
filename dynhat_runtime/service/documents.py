"""What the facades share: whole documents through the engine in one batch, and the language that they are in.

Knows no facade's fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from dynhat_runtime.service.ports import EnginePort
from dynhat_runtime.service.translation import QUICK_CHARS, Asked, Translation, translate
from dynhat_runtime.text.documents import (
    NO_TAG_NAMES,
    Document,
    TagNames,
    TextFormat,
    parse_document,
    put_together,
    usual_cuts,
)
from dynhat_runtime.text.html import Kept
from dynhat_runtime.text.language import Detection, detect
from dynhat_runtime.text.sentences import Cuts

MIN_ECHO_CONFIDENCE = 0.9
"""From there on a text whose language was not told is taken to be in the target language, and echoed."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a client sent: documents, and where their language was not told, what it was taken to be.

    Attributes:
        cuts: What ends a sentence in them.
    """

    documents: tuple[Document, ...]
    cuts: Cuts
    detected: tuple[Detection, ...] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts to translate."""
        return tuple(text for document in self.documents for text in document.texts)


async def read_source(
    texts: Sequence[str],
    text_format: TextFormat,
    engine: EnginePort,
    *,
    is_auto: bool,
    tag_names: TagNames = NO_TAG_NAMES,
    cuts: Cuts | None = None,
) -> Source:
    """Parse, and detect where it was asked for; long texts on a thread. Without `cuts` the format's usual ones hold."""
    chosen = usual_cuts(text_format) if cuts is None else cuts

    def read() -> Source:
        documents = [parse_document(text, text_format, engine.src_lang, tag_names, chosen) for text in texts]
        if not is_auto:
            return Source(tuple(documents), chosen)
        pairs = [_taken(document, text, engine) for document, text in zip(documents, texts, strict=True)]
        return Source(tuple(pair[0] for pair in pairs), chosen, tuple(pair[1] for pair in pairs))

    if sum(map(len, texts)) <= QUICK_CHARS:
        return read()
    return await run_in_threadpool(read)


# Rules:
#   1  nothing in the text tells its language              -> source language, confidence 0; what can be translated, is.
#   2  target language, with a confidence of 0.9 or more   -> target language, echoed.
#   3  otherwise                                           -> source language, with the probability of that; translated.
def _taken(document: Document, text: str, engine: EnginePort) -> tuple[Document, Detection]:
    """What is done with a document whose language was not told, and the language it was taken to be in."""
    found = detect(" ".join(document.texts), engine.src_lang, engine.tgt_lang)
    if found.language == engine.src_lang:
        return document, found
    if found.confidence >= MIN_ECHO_CONFIDENCE:
        return Kept(text), found
    return document, Detection(engine.src_lang, 1 - found.confidence)


async def translate_source(
    engine: EnginePort, source: Source, request: Request, asked: Asked
) -> tuple[list[str], Translation]:
    """Translate all documents in one batch; raises as `translate` does.

    Returns:
        Each document's translation, and what the engine says of their texts.
    """
    translation = await translate(engine, source.texts, request, replace(asked, cuts=source.cuts))
    return put_together(source.documents, translation.texts), translation
