"""The LibreTranslate facade: POST /translate and GET /languages, as its clients speak them.

One language pair, plain text. Detects no languages: "auto" means the one language we read, at confidence 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from dynhat_runtime.errors import RequestError
from dynhat_runtime.service.bodies import read_fields
from dynhat_runtime.service.door import Door, key_in
from dynhat_runtime.service.gate import POINT_HEADER
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.service.log_fields import note_in_log
from dynhat_runtime.service.ports import EnginePort
from dynhat_runtime.service.request_fields import check_choice, check_texts, read_in_time
from dynhat_runtime.service.schemas import (
    DetectedLanguage,
    ErrorAnswer,
    Language,
    TranslateAnswer,
    TranslateRequest,
)
from dynhat_runtime.service.translation import Asked, translate

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 403, 408, 429, 500, 503, 504)
}

NUM_OTHER_FIELDS = 64
"""Form fields tolerated beside `q`: clients send more than we read."""

LANGUAGE_NAMES = {
    "cs": "Czech",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "zh": "Chinese",
}


def router(lifecycle: Lifecycle, limits: RequestLimits, door: Door) -> APIRouter:
    """The facade's routes."""
    routes = APIRouter(tags=["LibreTranslate"])

    @routes.post("/translate", response_model=TranslateAnswer, responses=ERRORS)
    async def post_translate(request: Request) -> JSONResponse:
        """Translate one text or a list of texts."""
        engine = lifecycle.serving.engine
        max_fields = limits.batch_limit + NUM_OTHER_FIELDS
        reading = read_fields(request, limits.max_body_bytes, max_fields)
        fields = await read_in_time(reading, limits, "q")
        caller = door.admit(key_of(fields, request))
        asked = check_translate(fields, engine, limits)
        note_in_log(request, caller, asked.texts if limits.log_texts else None)
        how = Asked(timeout_s=limits.timeout_s, priority=caller.priority)
        translation = await translate(engine, asked.texts, request, how)
        answer = _translate_answer(asked, translation.texts, engine.src_lang)
        headers = {POINT_HEADER: translation.operating_point}
        return JSONResponse(answer.model_dump(exclude_none=True), headers=headers)

    @routes.get("/languages")
    async def get_languages() -> list[Language]:
        """The languages read, each with those it is translated into."""
        engine = lifecycle.serving.engine
        pair: tuple[tuple[str, list[str]], ...] = (
            (engine.src_lang, [engine.tgt_lang]),
            (engine.tgt_lang, []),
        )
        return [
            Language(code=code, name=LANGUAGE_NAMES.get(code, code), targets=targets)
            for code, targets in pair
        ]

    return routes


def key_of(fields: Mapping[str, Any], request: Request) -> str | None:
    """The key as LibreTranslate's clients send it, in the field `api_key` of body or query; or in a header."""
    for key in (fields.get("api_key"), request.query_params.get("api_key")):
        if isinstance(key, str) and key:
            return key
    return key_in(request.headers)


def check_translate(fields: Mapping[str, Any], engine: EnginePort, limits: RequestLimits) -> TranslateRequest:
    """A request's fields as a value; fields we do not know are ignored.

    Raises:
        RequestError: Naming the field at fault, and what it may be.
    """
    texts, is_batch = check_texts("q", fields.get("q"), limits)
    source = check_choice("source", fields.get("source"), (engine.src_lang, "auto"))
    check_choice("target", fields.get("target"), (engine.tgt_lang,))
    text_format = fields.get("format") or "text"
    if text_format == "html":
        raise RequestError("format 'html' is not supported yet: send plain text with format 'text'", "format")
    check_choice("format", text_format, ("text",))
    return TranslateRequest(texts=texts, is_batch=is_batch, is_auto=source == "auto")


def _translate_answer(asked: TranslateRequest, texts: tuple[str, ...], src_lang: str) -> TranslateAnswer:
    """The answer in the shape of the question: a list for a list."""
    detected = DetectedLanguage(confidence=0.0, language=src_lang)
    if asked.is_batch:
        return TranslateAnswer(
            translatedText=list(texts), detectedLanguage=[detected] * len(texts) if asked.is_auto else None
        )
    return TranslateAnswer(translatedText=texts[0], detectedLanguage=detected if asked.is_auto else None)
