"""Text on its way to the model and back: sentences, what must come through untouched, HTML, language.

Admitted here: pure functions of text. No torch, no HTTP, no model, no clock.
"""
