"""The LibreTranslate facade at the root, as its clients speak it: translate, detect, languages, settings of a page.

Knows one language pair. Which of the two a text is in is judged by `text.language`, which knows no third.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from dynhat_runtime.errors import RequestError
from dynhat_runtime.service.bodies import FORM, JSON, described, read_query_and_fields
from dynhat_runtime.service.documents import Source, read_source, translate_source
from dynhat_runtime.service.door import Door, key_in
from dynhat_runtime.service.gate import POINT_HEADER
from dynhat_runtime.service.languages import name_of
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.service.log_fields import note_in_log
from dynhat_runtime.service.ports import EnginePort
from dynhat_runtime.service.request_fields import (
    MAX_ALTERNATIVES,
    check_choice,
    check_count,
    check_texts,
    read_in_time,
)
from dynhat_runtime.service.schemas import (
    DetectBody,
    DetectedLanguage,
    ErrorAnswer,
    FrontendLanguage,
    FrontendLanguages,
    FrontendSettings,
    Language,
    TranslateAnswer,
    TranslateBody,
    TranslateRequest,
)
from dynhat_runtime.service.translation import Asked, Translation
from dynhat_runtime.text.documents import PlainText
from dynhat_runtime.text.language import Detection, detect

PATHS = ("/translate", "/detect", "/languages", "/frontend/settings")

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 403, 408, 429, 500, 503, 504)
}
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": ErrorAnswer}}

NUM_OTHER_FIELDS = 64
"""Form fields tolerated beside `q`: clients send more than we read."""


def router(lifecycle: Lifecycle, limits: RequestLimits, door: Door) -> APIRouter:
    """The facade's routes."""
    routes = APIRouter(tags=["LibreTranslate"])

    async def read_fields(request: Request) -> dict[str, Any]:
        """Body and query, in time."""
        max_fields = limits.batch_limit + NUM_OTHER_FIELDS
        reading = read_query_and_fields(request, limits.max_body_bytes, max_fields)
        return await read_in_time(reading, limits, "q")

    @routes.post(
        "/translate",
        response_model=TranslateAnswer,
        response_model_exclude_none=True,
        responses=ERRORS,
        openapi_extra=described(JSON, FORM, schema=TranslateBody.model_json_schema()),
    )
    async def post_translate(request: Request) -> JSONResponse:
        """Translate one text or a list of texts, plain or HTML."""
        engine = lifecycle.serving.engine
        fields = await read_fields(request)
        caller = door.admit(key_of(fields, request))
        asked = check_translate(fields, engine, limits)
        note_in_log(request, caller, asked.texts if limits.log_texts else None)
        source = await read_source(asked.texts, asked.text_format, engine, is_auto=asked.is_auto)
        how = Asked(
            timeout_s=limits.timeout_s, priority=caller.priority, num_alternatives=asked.num_alternatives
        )
        texts, translation = await translate_source(engine, source, request, how)
        lifecycle.num_characters += sum(map(len, asked.texts))
        answer = _translate_answer(asked, source, texts, translation)
        headers = {POINT_HEADER: translation.operating_point}
        return JSONResponse(answer.model_dump(exclude_none=True), headers=headers)

    @routes.post(
        "/detect",
        response_model=list[DetectedLanguage],
        responses=ERRORS,
        openapi_extra=described(JSON, FORM, schema=DetectBody.model_json_schema()),
    )
    async def post_detect(request: Request) -> JSONResponse:
        """Which of the two languages a text is in, the likelier one first."""
        engine = lifecycle.serving.engine
        fields = await read_fields(request)
        caller = door.admit(key_of(fields, request))
        texts, is_batch = check_texts("q", fields.get("q"), limits)
        if is_batch:
            raise RequestError("q is a list: send one text", "q")
        note_in_log(request, caller, texts if limits.log_texts else None)
        found = detect(texts[0], engine.src_lang, engine.tgt_lang)
        return JSONResponse([each.model_dump() for each in _candidates(found, engine)])

    @routes.get("/languages", responses=NOT_READY)
    async def get_languages() -> list[Language]:
        """The languages read, each with those it is translated into."""
        engine = lifecycle.serving.engine
        pair: tuple[tuple[str, list[str]], ...] = (
            (engine.src_lang, [engine.tgt_lang]),
            (engine.tgt_lang, []),
        )
        return [Language(code=code, name=name_of(code), targets=targets) for code, targets in pair]

    @routes.get("/frontend/settings", responses=NOT_READY)
    async def get_frontend_settings() -> FrontendSettings:
        """What a page in front of this service has to know."""
        engine = lifecycle.serving.engine
        return FrontendSettings(
            charLimit=limits.char_limit,
            apiKeys=door.asks_for_keys,
            keyRequired=door.asks_for_keys,
            language=FrontendLanguages(
                source=FrontendLanguage(code=engine.src_lang, name=name_of(engine.src_lang)),
                target=FrontendLanguage(code=engine.tgt_lang, name=name_of(engine.tgt_lang)),
            ),
        )

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
    text_format = check_choice("format", fields.get("format") or "text", ("text", "html"))
    return TranslateRequest(
        texts=texts,
        is_batch=is_batch,
        is_auto=source == "auto",
        text_format="html" if text_format == "html" else "text",
        num_alternatives=check_count("alternatives", fields.get("alternatives"), MAX_ALTERNATIVES),
    )


def _translate_answer(
    asked: TranslateRequest, source: Source, texts: Sequence[str], translation: Translation
) -> TranslateAnswer:
    """The answer in the shape of the question: a list for a list."""
    detected = None if source.detected is None else [_detected(each) for each in source.detected]
    alternatives = _alternatives(source, translation) if asked.num_alternatives else None
    if asked.is_batch:
        return TranslateAnswer(
            translatedText=list(texts), detectedLanguage=detected, alternatives=alternatives
        )
    return TranslateAnswer(
        translatedText=texts[0],
        detectedLanguage=None if detected is None else detected[0],
        alternatives=None if alternatives is None else alternatives[0],
    )


def _alternatives(source: Source, translation: Translation) -> list[list[str]]:
    """Each document's other translations: none for one with markup, or one that was only echoed."""
    details = iter(translation.details)
    found = []
    for document in source.documents:
        own = [next(details) for _ in document.texts]
        is_plain = isinstance(document, PlainText) and own[0] is not None
        found.append(list(own[0].alternatives) if is_plain and own[0] is not None else [])
    return found


def _detected(found: Detection) -> DetectedLanguage:
    """As the facade says it, in percent."""
    return DetectedLanguage(confidence=round(100 * found.confidence, 1), language=found.language)


def _candidates(found: Detection, engine: EnginePort) -> list[DetectedLanguage]:
    """The language found, and the other one if the text says anything at all."""
    if not found.confidence:
        return [_detected(found)]
    other = engine.src_lang if found.language == engine.tgt_lang else engine.tgt_lang
    return [_detected(found), _detected(Detection(other, 1 - found.confidence))]
