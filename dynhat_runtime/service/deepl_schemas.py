"""What goes over the wire of the DeepL facade, as values; spelt as DeepL spells it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dynhat_runtime.text.documents import TextFormat


class DeeplError(BaseModel):
    """Every error of the facade, whatever its status."""

    message: str


class DeeplRequest(BaseModel):
    """POST /v2/translate, checked."""

    model_config = ConfigDict(frozen=True)

    texts: tuple[str, ...]
    source_lang: str | None
    """None where it is to be detected."""
    text_format: TextFormat
    ignored_tags: tuple[str, ...]
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


class DeeplUsage(BaseModel):
    """GET /v2/usage."""

    character_count: int
    character_limit: int
