"""The LibreTranslate facade: POST /translate and GET /languages, as its clients speak them.

One language pair, plain text. Detects no languages: "auto" means the one language we read, at confidence 0.
"""

from __future__ import annotations

import asyncio
import reprlib
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse

from dynhat_runtime.errors import RequestError
from dynhat_runtime.service.bodies import read_fields
from dynhat_runtime.service.gate import POINT_HEADER
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.service.ports import EnginePort
from dynhat_runtime.service.schemas import (
    DetectedLanguage,
    ErrorAnswer,
    Language,
    TranslateAnswer,
    TranslateRequest,
)
from dynhat_runtime.service.translation import translate

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 408, 429, 500, 503, 504)
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


def router(lifecycle: Lifecycle, limits: RequestLimits) -> APIRouter:
    """The facade's routes."""
    routes = APIRouter(tags=["LibreTranslate"])

    @routes.post("/translate", response_model=TranslateAnswer, responses=ERRORS)
    async def post_translate(request: Request) -> JSONResponse:
        """Translate one text or a list of texts."""
        engine = lifecycle.serving.engine
        fields = await _read_in_time(request, limits)
        asked = check_translate(fields, engine, limits)
        translation = await translate(engine, asked.texts, request, limits.timeout_s)
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


def check_translate(fields: Mapping[str, Any], engine: EnginePort, limits: RequestLimits) -> TranslateRequest:
    """A request's fields as a value; fields we do not know are ignored.

    Raises:
        RequestError: Naming the field at fault, and what it may be.
    """
    texts, is_batch = _check_texts(fields.get("q"), limits)
    source = _check_choice("source", fields.get("source"), (engine.src_lang, "auto"))
    _check_choice("target", fields.get("target"), (engine.tgt_lang,))
    text_format = fields.get("format") or "text"
    if text_format == "html":
        raise RequestError("format 'html' is not supported yet: send plain text with format 'text'", "format")
    _check_choice("format", text_format, ("text",))
    return TranslateRequest(texts=texts, is_batch=is_batch, is_auto=source == "auto")


def _check_texts(q: object, limits: RequestLimits) -> tuple[tuple[str, ...], bool]:
    """The texts, and whether they came as a list."""
    if q is None:
        raise RequestError("q is missing: send a text or a list of texts", "q")
    is_batch = isinstance(q, list)
    texts: list[Any] = q if isinstance(q, list) else [q]
    if not texts:
        raise RequestError(f"q is an empty list: send 1 to {limits.batch_limit} texts", "q")
    if len(texts) > limits.batch_limit:
        raise RequestError(
            f"q holds {len(texts)} texts: the limit is {limits.batch_limit} texts per request", "q"
        )
    for position, text in enumerate(texts):
        name = f"q[{position}]" if is_batch else "q"
        if not isinstance(text, str):
            raise RequestError(f"{name} is {_show(text)}, not a string: send a text or a list of texts", "q")
        if not _is_unicode(text):
            raise RequestError(f"{name} holds half a surrogate pair: send valid Unicode", "q")
    num_chars = sum(map(len, texts))
    if num_chars > limits.char_limit:
        raise RequestError(
            f"q holds {num_chars} characters: the limit is {limits.char_limit} characters per request", "q"
        )
    return tuple(texts), is_batch


def _check_choice(field: str, value: object, allowed: tuple[str, ...]) -> str:
    """`value`, if it is one of those allowed."""
    choices = " or ".join(map(repr, allowed))
    if value is None:
        raise RequestError(f"{field} is missing: send {choices}", field)
    if not isinstance(value, str) or value not in allowed:
        raise RequestError(f"{field} {_show(value)} is not served here: send {choices}", field)
    return value


def _show(value: object) -> str:
    """A short form of something a client sent, fit for a message."""
    return reprlib.repr(value)


def _is_unicode(text: str) -> bool:
    """False for what JSON can smuggle in and UTF-8 cannot carry out."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


async def _read_in_time(request: Request, limits: RequestLimits) -> dict[str, Any]:
    """The request's fields, unless they take too long to arrive."""
    max_fields = limits.batch_limit + NUM_OTHER_FIELDS
    try:
        return await asyncio.wait_for(
            read_fields(request, limits.max_body_bytes, max_fields), limits.timeout_s
        )
    except HTTPException as error:
        if error.status_code != 413:
            raise
        # To a client of this facade a text that is too long is one mistake, however long it is.
        raise RequestError(
            f"{error.detail} (q may hold {limits.char_limit} characters per request)", "q"
        ) from None
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the body took longer than {limits.timeout_s:g} s to arrive") from None


def _translate_answer(asked: TranslateRequest, texts: tuple[str, ...], src_lang: str) -> TranslateAnswer:
    """The answer in the shape of the question: a list for a list."""
    detected = DetectedLanguage(confidence=0.0, language=src_lang)
    if asked.is_batch:
        return TranslateAnswer(
            translatedText=list(texts), detectedLanguage=[detected] * len(texts) if asked.is_auto else None
        )
    return TranslateAnswer(translatedText=texts[0], detectedLanguage=detected if asked.is_auto else None)
