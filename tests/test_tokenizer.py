"""The tokenizer: special ids, byte fallback, refusal of what is no tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer
from dynhat_runtime.errors import BundleError
from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, Bundle


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Bundle) -> SentencePieceTokenizer:
    """The tiny bundle's."""
    return SentencePieceTokenizer(tiny_bundle.text_file(SENTENCEPIECE_MODEL))


@pytest.mark.parametrize(
    "text", ["The man sees a red house.", "zwei Äpfel", "日本語", "🙂 ok", "naïve – “quoted”"]
)
def test_no_text_is_unrepresentable(tokenizer: SentencePieceTokenizer, text: str) -> None:
    """Any text comes back, by bytes where the vocabulary has no piece, and never as unknown."""
    ids = tokenizer.encode(text)
    assert 3 not in ids
    assert tokenizer.decode(ids) == text


def test_batch_is_one_by_one(tokenizer: SentencePieceTokenizer) -> None:
    """Encoding a batch gives what encoding each text gives."""
    texts = ["The man sees.", "", "Eine Frau kauft zwei Äpfel."]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_special_tokens_say_nothing(tokenizer: SentencePieceTokenizer) -> None:
    """bos, pad, eos and unk vanish from the text."""
    ids = tokenizer.encode("The man")
    assert tokenizer.decode([0, 1, *ids, 2, 3]) == "The man"


def test_broken_model_is_refused(tmp_path: Path) -> None:
    """A file that is no tokenizer is named, with the remedy."""
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"no protobuf at all")
    with pytest.raises(BundleError, match=r"tokenizer\.model.*restore"):
        SentencePieceTokenizer.load(file)
    with pytest.raises(BundleError, match=r"absent\.model.*cannot be read"):
        SentencePieceTokenizer.load(tmp_path / "absent.model")
