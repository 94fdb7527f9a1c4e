"""What can be said of a batch, and told to those who wait for it. Translates nothing and locks nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dynhat_runtime.decoding.translator import PlannedSentence, SentenceTranslation
from dynhat_runtime.prepared_texts import Place
from dynhat_runtime.tally import EngineTallies
from dynhat_runtime.translation_request import TranslationRequest

logger = logging.getLogger(__name__)

Batch = list[tuple[TranslationRequest, Place]]
"""Sentences, each with its request, all of which have one point and one beam size."""


def planned_in(batch: Batch) -> list[PlannedSentence]:
    """What is to be translated."""
    return [request.planned[place] for request, place in batch]


def request_ids_of(batch: Batch) -> list[str]:
    """The names by which log lines speak of its requests."""
    return sorted({request.request_id for request, _ in batch if request.request_id is not None})


def is_abandoned(batch: Batch) -> bool:
    """Whether nobody waits for any of it."""
    return all(request.future.cancelled() for request, _ in batch)


def tell_sentences(batch: Batch, outputs: Sequence[SentenceTranslation]) -> None:
    """Tell those who listen of their sentences; who fails to listen harms only himself."""
    for (request, place), output in zip(batch, outputs, strict=True):
        if request.on_sentence is None or request.future.cancelled():
            continue
        try:
            request.on_sentence(place[0], request.piece(place, output.text))
        except Exception:
            logger.exception("whoever listens to the sentences of request %s failed", request.request_id)
            request.future.cancel()


def note_waits(batch: Batch, tallies: EngineTallies) -> None:
    """Tally how long those waited that begin with this batch."""
    for request in {id(request): request for request, _ in batch}.values():
        if not request.translations and request.earlier is None:
            tallies.queue_wait_s[request.priority].add(request.began_s - request.submitted_s)
