"""Languages by name, and their codes as the two facades' clients write them."""

from __future__ import annotations

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

REGIONAL_TARGETS = {
    "en": {"EN-GB": "English (British)", "EN-US": "English (American)"},
    "pt": {"PT-BR": "Portuguese (Brazilian)", "PT-PT": "Portuguese (European)"},
}
"""Targets that DeepL's clients name by region alone."""


def name_of(code: str) -> str:
    """A language's English name; its code where we know none."""
    return LANGUAGE_NAMES.get(code, code)


def folded(code: str) -> str:
    """The model's code of a DeepL code: EN-GB is en, ZH-HANT is zh."""
    return code.partition("-")[0].lower()


def targets_of(code: str) -> dict[str, str]:
    """The DeepL codes under which a language is offered as target, each with its name."""
    return REGIONAL_TARGETS.get(code, {code.upper(): name_of(code)})
