"""What goes over the wire of the DeepL facade, as values; spelt as DeepL spells it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from dynhat_runtime.text.documents import TagNames, TextFormat
from dynhat_runtime.text.sentences import Cuts


class DeeplError(BaseModel):
    """Every error of the facade, whatever its status."""

    message: str


class DeeplBody(BaseModel):
    """POST /v2/translate, as JSON or as a form; fields that are not listed are ignored."""

    text: str | list[str]
    target_lang: str
    """In any of its regions: EN-GB, PT-BR."""
    source_lang: str | None = None
    """None where it is to be detected."""
    tag_handling: Literal["html", "xml"] | None = None
    ignore_tags: str | list[str] | None = None
    """Names of tags whose content is left alone."""
    non_splitting_tags: str | list[str] | None = None
    """Names of tags that stand within a sentence."""
    splitting_tags: str | list[str] | None = None
    """Names of tags that end a sentence."""
    model_type: Literal["latency_optimized", "quality_optimized", "prefer_quality_optimized"] | None = None
    split_sentences: Literal["0", "1", "nonewlines"] | None = None
    """0 takes each text for one sentence; nonewlines takes a line break for a space, as is usual in HTML."""
    formality: str | None = None
    show_billed_characters: bool | None = None


class DeeplRequest(BaseModel):
    """POST /v2/translate, checked."""

    model_config = ConfigDict(frozen=True)

    texts: tuple[str, ...]
    source_lang: str | None
    """None where it is to be detected."""
    text_format: TextFormat
    tag_names: TagNames
    cuts: Cuts
    model_type: str | None
    shows_billed: bool


class DeeplTranslation(BaseModel):
    """One text's translation."""

    detected_source_language: str
    text: str
    billed_characters: int | None = None
    """Characters of the text; only where they were asked for."""
    model_type_used: str | None = None
    """Only where a model type was asked for."""


class DeeplTranslateAnswer(BaseModel):
    """POST /v2/translate: one translation per text, in the same order."""

    translations: list[DeeplTranslation]


class DeeplLanguage(BaseModel):
    """One element of GET /v2/languages."""

    language: str
    name: str
    supports_formality: bool | None = None
    """Only of target languages."""


class DeeplFeature(BaseModel):
    """What can be done in a language."""

    status: Literal["stable"] = "stable"


class DeeplResourceLanguage(BaseModel):
    """One element of GET /v3/languages."""

    lang: str
    name: str
    usable_as_source: bool
    usable_as_target: bool
    features: dict[str, DeeplFeature]
    status: Literal["stable"] = "stable"


class DeeplUsage(BaseModel):
    """GET /v2/usage."""

    character_count: int
    character_limit: int
