"""The DeepL facade: POST /v2/translate, GET /v2/languages, /v3/languages and /v2/usage, as DeepL's clients speak them.

Translates texts, plain or with markup. Has no glossaries, documents, formality or context; what would change a
translation and cannot be had is refused, what cannot do harm is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from dynhat_runtime.errors import RequestError
from dynhat_runtime.service.bodies import FORM, JSON, described, read_query_and_fields
from dynhat_runtime.service.deepl_models import MODEL_TYPES, choose_point, model_type_of
from dynhat_runtime.service.deepl_schemas import (
    DeeplBody,
    DeeplError,
    DeeplFeature,
    DeeplLanguage,
    DeeplRequest,
    DeeplResourceLanguage,
    DeeplTranslateAnswer,
    DeeplTranslation,
    DeeplUsage,
)
from dynhat_runtime.service.documents import Source, read_source, translate_source
from dynhat_runtime.service.door import Door, key_in
from dynhat_runtime.service.gate import POINT_HEADER
from dynhat_runtime.service.languages import folded, name_of, targets_of
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.service.log_fields import note_in_log
from dynhat_runtime.service.ports import EnginePort
from dynhat_runtime.service.request_fields import check_choice, check_texts, read_in_time, show
from dynhat_runtime.service.translation import Asked
from dynhat_runtime.text.documents import TagNames
from dynhat_runtime.text.sentences import Cuts

PATHS = ("/v2/translate", "/v2/languages", "/v2/usage", "/v3/languages")

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": DeeplError} for status in (400, 403, 408, 413, 429, 500, 503, 504)
}

MAX_BODY_BYTES = 128 * 1024
"""As DeepL has it."""
NUM_OTHER_FIELDS = 64
"""Form fields tolerated beside `text`."""
NO_LIMIT_CHARACTERS = 1_000_000_000_000
"""What is told as the limit, which there is none of; DeepL tells its unlimited clients the same."""

TYPE_PARAMETER = {
    "name": "type",
    "in": "query",
    "required": False,
    "description": "the languages read, or those written",
    "schema": {"type": "string", "enum": ["source", "target"], "default": "source"},
}

RESOURCE = "translate_text"
RESOURCE_PARAMETER = {
    "name": "resource",
    "in": "query",
    "required": True,
    "description": "what the languages are for",
    "schema": {"type": "string", "enum": [RESOURCE]},
}

CUTS: Mapping[str, Cuts] = {"0": "none", "1": "lines", "nonewlines": "sentences"}
"""By what DeepL calls them in `split_sentences`."""

TRUE, FALSE = (True, "1", "true"), (False, "0", "false")


def router(lifecycle: Lifecycle, limits: RequestLimits, door: Door) -> APIRouter:
    """The facade's routes."""
    routes = APIRouter(tags=["DeepL"])

    async def read_fields(request: Request) -> dict[str, Any]:
        """Body and query, in time."""
        max_fields = limits.batch_limit + NUM_OTHER_FIELDS
        return await read_in_time(read_query_and_fields(request, MAX_BODY_BYTES, max_fields), limits, "text")

    @routes.post(
        "/v2/translate",
        response_model=DeeplTranslateAnswer,
        response_model_exclude_none=True,
        responses=ERRORS,
        openapi_extra=described(JSON, FORM, schema=DeeplBody.model_json_schema()),
    )
    async def post_translate(request: Request) -> JSONResponse:
        """Translate one text or a list of texts."""
        caller = door.admit(key_in(request.headers))
        serving = lifecycle.serving
        engine = serving.engine
        asked = check_request(await read_fields(request), engine, limits)
        note_in_log(request, caller, asked.texts if limits.log_texts else None)
        source = await read_source(
            asked.texts,
            asked.text_format,
            engine,
            is_auto=asked.source_lang is None,
            tag_names=asked.tag_names,
            cuts=asked.cuts,
        )
        point_id, prepared = await choose_point(serving, asked.model_type, source)
        how = Asked(
            timeout_s=limits.timeout_s, priority=caller.priority, point_id=point_id, prepared=prepared
        )
        texts, translation = await translate_source(engine, source, request, how)
        lifecycle.num_characters += sum(map(len, asked.texts))
        used = model_type_of(translation.operating_point, engine.table) if asked.model_type else None
        answer = _answer(asked, source, texts, used, engine)
        headers = {POINT_HEADER: translation.operating_point}
        return JSONResponse(answer.model_dump(exclude_none=True), headers=headers)

    @routes.get(
        "/v2/languages",
        response_model=list[DeeplLanguage],
        response_model_exclude_none=True,
        responses=ERRORS,
        openapi_extra={"parameters": [TYPE_PARAMETER]},
    )
    async def get_languages(request: Request) -> list[DeeplLanguage]:
        """The languages read (`type=source`, as it is without), or those written (`type=target`)."""
        door.check(key_in(request.headers))
        engine = lifecycle.serving.engine
        # DeepL's own client sends `type` in the body of a GET.
        has_body = request.headers.get("content-type") is not None
        fields = await read_fields(request) if has_body else dict(request.query_params)
        if check_choice("type", fields.get("type", "source"), ("source", "target")) == "source":
            return [DeeplLanguage(language=engine.src_lang.upper(), name=name_of(engine.src_lang))]
        return [
            DeeplLanguage(language=code, name=name, supports_formality=False)
            for code, name in targets_of(engine.tgt_lang).items()
        ]

    @routes.get("/v3/languages", responses=ERRORS, openapi_extra={"parameters": [RESOURCE_PARAMETER]})
    async def get_languages_of_resource(request: Request) -> list[DeeplResourceLanguage]:
        """The languages of text translation, each with what it can be."""
        door.check(key_in(request.headers))
        engine = lifecycle.serving.engine
        check_choice("resource", request.query_params.get("resource"), (RESOURCE,))
        return _resource_languages(engine)

    @routes.get("/v2/usage", responses=ERRORS)
    async def get_usage(request: Request) -> DeeplUsage:
        """Characters translated since the daemon began; there is no limit."""
        door.check(key_in(request.headers))
        return DeeplUsage(character_count=lifecycle.num_characters, character_limit=NO_LIMIT_CHARACTERS)

    return routes


def check_request(fields: Mapping[str, Any], engine: EnginePort, limits: RequestLimits) -> DeeplRequest:
    """A request's fields as a value.

    Ignored: context, preserve_formatting (formatting always is), outline_detection, formality prefer_*, and unknown
    fields.

    Raises:
        RequestError: Naming the field at fault, and what it may be.
    """
    texts, _ = check_texts("text", fields.get("text"), limits)
    _check_target(fields.get("target_lang"), engine)
    if fields.get("formality") in ("more", "less"):
        raise RequestError(
            f"formality {fields['formality']!r} is not supported for {engine.tgt_lang.upper()}: leave it out",
            "formality",
        )
    for field in ("glossary_id", "glossary_ids", "style_id", "custom_instructions"):
        if fields.get(field):
            raise RequestError(f"{field} is not supported here: leave it out", field)
    tag_handling = fields.get("tag_handling") or None
    if tag_handling is not None:
        check_choice("tag_handling", tag_handling, ("html", "xml"))
    model_type = fields.get("model_type") or None
    if model_type is not None:
        check_choice("model_type", model_type, MODEL_TYPES)
    return DeeplRequest(
        texts=texts,
        source_lang=_check_source(fields.get("source_lang"), engine),
        text_format="text" if tag_handling is None else "html",
        tag_names=TagNames(
            ignored=_check_tags("ignore_tags", fields),
            inline=_check_tags("non_splitting_tags", fields),
            splitting=_check_tags("splitting_tags", fields),
        ),
        model_type=model_type,
        cuts=_check_cuts(fields.get("split_sentences"), tag_handling),
        shows_billed=_check_flag("show_billed_characters", fields.get("show_billed_characters")),
    )


def _resource_languages(engine: EnginePort) -> list[DeeplResourceLanguage]:
    """Source and targets, as /v3/languages spells them: de, en-US."""
    source = DeeplResourceLanguage(
        lang=engine.src_lang,
        name=name_of(engine.src_lang),
        usable_as_source=True,
        usable_as_target=False,
        features={name: DeeplFeature() for name in ("tag_handling", "auto_detection")},
    )
    targets = [
        DeeplResourceLanguage(
            lang=code[:2].lower() + code[2:],
            name=name,
            usable_as_source=False,
            usable_as_target=True,
            features={"tag_handling": DeeplFeature()},
        )
        for code, name in targets_of(engine.tgt_lang).items()
    ]
    return [source, *targets]


def _check_target(value: object, engine: EnginePort) -> None:
    """The target language, in any of its regions."""
    codes = targets_of(engine.tgt_lang)
    if value is None:
        raise RequestError(f"target_lang is missing: send {' or '.join(codes)}", "target_lang")
    if not isinstance(value, str) or folded(value) != engine.tgt_lang:
        raise RequestError(
            f"Value for 'target_lang' not supported: {show(value)}: send {' or '.join(codes)}", "target_lang"
        )


def _check_source(value: object, engine: EnginePort) -> str | None:
    """The source language in DeepL's spelling; None where it is to be detected."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or folded(value) != engine.src_lang:
        raise RequestError(
            f"Value for 'source_lang' not supported: {show(value)}: send {engine.src_lang.upper()}",
            "source_lang",
        )
    return engine.src_lang.upper()


def _check_cuts(value: object, tag_handling: str | None) -> Cuts:
    """What ends a sentence; DeepL takes line breaks for it where it is not told, except in HTML."""
    if value is None or value == "":
        return "sentences" if tag_handling == "html" else "lines"
    return CUTS[check_choice("split_sentences", str(value), tuple(CUTS))]


def _check_tags(field: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of tags, as a list or separated by commas."""
    value = fields.get(field)
    if value is None:
        return ()
    names: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise RequestError(f"{field} {show(value)} cannot be: send names of tags", field)
    return tuple(tag.strip() for name in names for tag in name.split(",") if tag.strip())


def _check_flag(field: str, value: object) -> bool:
    """A truth in JSON or as forms spell it; not given is no."""
    if value is None or value in FALSE:
        return False
    if value not in TRUE:
        raise RequestError(f"{field} {show(value)} cannot be: send true or false", field)
    return True


def _answer(
    asked: DeeplRequest, source: Source, texts: list[str], model_type_used: str | None, engine: EnginePort
) -> DeeplTranslateAnswer:
    """One translation per text."""
    named = asked.source_lang or engine.src_lang.upper()
    detected = (
        [named] * len(texts) if source.detected is None else [d.language.upper() for d in source.detected]
    )
    return DeeplTranslateAnswer(
        translations=[
            DeeplTranslation(
                detected_source_language=language,
                text=text,
                billed_characters=len(sent) if asked.shows_billed else None,
                model_type_used=model_type_used,
            )
            for language, text, sent in zip(detected, texts, asked.texts, strict=True)
        ]
    )
