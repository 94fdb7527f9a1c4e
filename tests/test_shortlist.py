"""A vocabulary shortlist: what is listed, what its file holds, and which files are refused."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from dynhat_runtime.decoding import tokenizer
from dynhat_runtime.errors import BundleError
from dynhat_runtime.model.shortlist import EOS_ID, Shortlist
from tests.listed_tokens import random_shortlist, shortlist_of


def test_a_list_has_what_its_tokens_have() -> None:
    """Common tokens and those of every token of the sentence, each once, ascending."""
    shortlist = shortlist_of(
        {4: [9, 30], 5: [7, 9], 6: [11]}, src_vocab_size=8, tgt_vocab_size=40, common=[EOS_ID, 8]
    )
    assert shortlist.listed([4, 5, 4, EOS_ID]).tolist() == [2, 7, 8, 9, 30]
    assert shortlist.listed(np.array([7])).tolist() == [2, 8]


@pytest.mark.parametrize("tgt_vocab_size", [300, 70_000])
def test_round_trip(tgt_vocab_size: int) -> None:
    """What is written is read again, ids beyond 65,535 included."""
    written = random_shortlist(50, tgt_vocab_size, 7)
    read = Shortlist.of_bytes(written.as_bytes({"seed": 1}), (50, tgt_vocab_size), "file")
    for sentence in ([3], [4, 5, 6, 49], list(range(50))):
        assert read.listed(sentence).tolist() == written.listed(sentence).tolist()


def test_small_vocabularies_take_two_bytes_a_token() -> None:
    """The file is little more than its tokens."""
    assert len(random_shortlist(1000, 8000, 50).as_bytes({})) < 2 * 1000 * 50 + 4 * 1001 + 500


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"starts": [0, 1]}, "is for 1 source tokens, the model has 3"),
        ({"starts": [0, 2, 1, 4]}, "do not follow one another"),
        ({"starts": [0, 1, 2, 3]}, "do not follow one another"),
        ({"tokens": [3, 4, 5, 20]}, "outside 0 to 19"),
        ({"common": [7]}, "the end of a sentence .* is not among its common tokens"),
        ({"common": [[2]]}, "are no lists"),
        ({"common": None}, "no vocabulary shortlist"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, list[int] | None], complaint: str) -> None:
    """A file that contradicts itself or the model is named, with the remedy."""
    arrays = {"common": [2], "starts": [0, 1, 2, 4], "tokens": [3, 4, 5, 6]} | changes
    content = save({name: np.array(value, np.uint16) for name, value in arrays.items() if value is not None})
    with pytest.raises(BundleError, match=rf"some/file: .*{complaint}.*dynhat make-shortlist"):
        Shortlist.of_bytes(content, (3, 20), "some/file")


def test_another_file_is_refused() -> None:
    """What is no safetensors file at all."""
    with pytest.raises(BundleError, match="some/file: no vocabulary shortlist"):
        Shortlist.of_bytes(b"\x80\x04]\x94.", (3, 20), "some/file")


def test_the_end_is_the_tokenizers() -> None:
    """The token that every list needs is the one that ends a sentence."""
    assert EOS_ID == tokenizer.EOS_ID
