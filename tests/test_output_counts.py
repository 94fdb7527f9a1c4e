"""What is counted as wrong in a translation's form, and what is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dynhat_runtime.decoding.output_guard import Fault
from dynhat_runtime.offline.output_counts import (
    OutputCounts,
    begins_upper,
    common_words,
    count_output,
    final_mark,
    has_name,
    names_of,
    numbers_of,
)


def _count(
    source: str, reference: str, translation: str, faults: Sequence[Fault | None] = (None,)
) -> OutputCounts:
    return count_output([source], [reference], [translation], faults)


def test_the_guards_verdicts_are_counted() -> None:
    """Degenerate sentences are counted by the output guard's verdicts, and by nothing else."""
    faults: list[Fault | None] = [
        "repetition",
        None,
        "empty",
        "repetition",
        "too_long",
        "too_short",
        "copied",
    ]
    counts = count_output(["a"] * 7, ["b"] * 7, ["c"] * 7, faults)
    assert counts.num_sentences == 7
    assert (counts.num_repetition, counts.num_empty, counts.num_copied) == (2, 1, 1)
    assert (counts.num_too_long, counts.num_too_short) == (1, 1)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1,000 apples", ["1000"]),
        ("1.234.567 Äpfel", ["1234567"]),
        ("3.5 and 3,25", ["3", "5", "3", "25"]),
        ("at 5:30 on 9/11", ["5", "30", "9", "11"]),
        ("in 2014, 12.", ["2014", "12"]),
        ("1.0000", ["1", "0000"]),
        ("none", []),
    ],
)
def test_numbers(text: str, numbers: list[str]) -> None:
    """Digits are numbers whichever separators a language puts between thousands."""
    assert numbers_of(text) == numbers


def test_lost_numbers() -> None:
    """A number counts where the reference has it, as often as both have it; in words it need not be copied."""
    counts = _count("5 of 1,000, 5 at two.", "5 von 1.000, 5 um zwei.", "5 von 1.000 um zwei.")
    assert (counts.num_numbers, counts.num_numbers_lost) == (3, 1)
    counts = _count("I have 2 dogs.", "Ich habe zwei Hunde.", "Ich habe Hunde.")
    assert (counts.num_numbers, counts.num_numbers_lost) == (0, 0)


def test_names_of_a_source() -> None:
    """Capitalised words are names, but for one letter, and for common words that begin a sentence."""
    common = common_words(["he was in a house", "so will it be"])
    assert names_of("In Boston Tom and I met Mary. Was Will there? Will Smith: Tom", common) == [
        "Boston", "Tom", "Mary", "Will", "Smith",
    ]  # fmt: skip
    assert names_of("Will it be? »Was it so?«", common) == []


@pytest.mark.parametrize(
    ("text", "has"),
    [("Toms Hund", True), ("Tom's dog", True), ("Tomate", False), ("tom", False), ("(Tom)", True)],
)
def test_a_name_in_a_text(text: str, has: bool) -> None:
    """A name may have a genitive's s and punctuation about it; another word or case is not it."""
    assert has_name(text, "Tom") is has


def test_lost_names() -> None:
    """A name counts where the reference keeps it, and is lost where the translation does not."""
    counts = _count("Tom saw Mary in Munich.", "Tom sah Mary in München.", "Tom sah Maria in München.")
    assert (counts.num_names, counts.num_names_lost) == (2, 1)


@pytest.mark.parametrize(
    ("text", "mark"), [("Ja.", "."), ("Ja?»", "?"), ("(ja!) ", "!"), ("„Ja …“", "…"), ("ja", ""), ("", "")]
)
def test_final_marks(text: str, mark: str) -> None:
    """A text ends with a mark though quotes, brackets or spaces follow it."""
    assert final_mark(text) == mark


@pytest.mark.parametrize(
    ("text", "upper"),
    [("Ja", True), ("„Ja“", True), ("3 Äpfel", True), ("ja", False), ("12.", None), ("", None)],
)
def test_initial_case(text: str, upper: bool | None) -> None:
    """The first letter decides."""
    assert begins_upper(text) is upper


@pytest.mark.parametrize(
    ("translation", "num_marks_lost", "num_cases_lost"),
    [("Wer ist da?", 0, 0), ("Wer ist da.", 1, 0), ("wer ist da", 1, 1), ("", 1, 1)],
)
def test_lost_form(translation: str, num_marks_lost: int, num_cases_lost: int) -> None:
    """End and beginning count where source and reference agree, and are lost where the translation differs."""
    counts = _count("Who is there?", "Wer ist da?", translation)
    assert (counts.num_final_marks, counts.num_initial_cases) == (1, 1)
    assert (counts.num_final_marks_lost, counts.num_initial_cases_lost) == (num_marks_lost, num_cases_lost)


def test_what_the_reference_changed_does_not_count() -> None:
    """Where source and reference end or begin otherwise, no translation is at fault."""
    counts = _count("come in", "Kommen Sie herein!", "komm")
    assert (counts.num_final_marks, counts.num_initial_cases) == (0, 0)
    assert (counts.num_final_marks_lost, counts.num_initial_cases_lost) == (0, 0)
