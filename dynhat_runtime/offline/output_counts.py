"""How often output is wrong in form, counted over a test set: loops, silence, numbers and names lost, end and case.

Pure: texts and the output guard's verdicts in, counts out. What is degenerate is the guard's definition. Everything
else is counted only where the reference keeps it: what the human translator changed, a model may change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from dynhat_runtime.decoding.output_guard import Fault

MIN_NAME_LETTERS = 2
FINAL_MARKS = frozenset(".!?…:;")
_CLOSING = " \"'»«“”’‘)]}"
_NUMBER = re.compile(r"\d{1,3}(?:[.,]\d{3})+(?!\d)|\d+")
_WORD = re.compile(r"[^\W\d_]+")
_BEGINNING = re.compile(r"(?:^|[.!?…:])[\W\d_]*$")


@dataclass(frozen=True, slots=True)
class OutputCounts:
    """Over the sentences of one test set.

    Attributes:
        num_repetition: Sentences that the output guard calls so; likewise the next four.
        num_numbers: Numbers that source and reference share.
        num_numbers_lost: Those of them that the translation lacks.
        num_names: Capitalised words that source and reference share; see `names_of`.
        num_final_marks: Sentences whose source and reference end alike: with the same mark, or without one.
        num_initial_cases: Sentences whose source and reference begin alike: in upper or in lower case.
    """

    num_sentences: int
    num_repetition: int
    num_empty: int
    num_too_long: int
    num_too_short: int
    num_copied: int
    num_numbers: int
    num_numbers_lost: int
    num_names: int
    num_names_lost: int
    num_final_marks: int
    num_final_marks_lost: int
    num_initial_cases: int
    num_initial_cases_lost: int


COUNT_NAMES = tuple(field.name for field in fields(OutputCounts))[1:]
"""All but the number of sentences."""


def count_output(
    sources: Sequence[str],
    references: Sequence[str],
    translations: Sequence[str],
    faults: Sequence[Fault | None],
) -> OutputCounts:
    """Count what went wrong; all four have an entry per sentence."""
    common = common_words((*sources, *references))
    lost: Counter[str] = Counter()
    for source, reference, translation in zip(sources, references, translations, strict=True):
        numbers = Counter(numbers_of(source)) & Counter(numbers_of(reference))
        lost["numbers"] += numbers.total()
        lost["numbers_lost"] += (numbers - Counter(numbers_of(translation))).total()
        names = [name for name in names_of(source, common) if has_name(reference, name)]
        lost["names"] += len(names)
        lost["names_lost"] += sum(not has_name(translation, name) for name in names)
        for what, form in (("final_marks", final_mark), ("initial_cases", begins_upper)):
            if form(source) == form(reference):
                lost[what] += 1
                lost[f"{what}_lost"] += form(translation) != form(source)
    verdicts = Counter(faults)
    return OutputCounts(
        num_sentences=len(translations),
        num_repetition=verdicts["repetition"],
        num_empty=verdicts["empty"],
        num_too_long=verdicts["too_long"],
        num_too_short=verdicts["too_short"],
        num_copied=verdicts["copied"],
        num_numbers=lost["numbers"],
        num_numbers_lost=lost["numbers_lost"],
        num_names=lost["names"],
        num_names_lost=lost["names_lost"],
        num_final_marks=lost["final_marks"],
        num_final_marks_lost=lost["final_marks_lost"],
        num_initial_cases=lost["initial_cases"],
        num_initial_cases_lost=lost["initial_cases_lost"],
    )


def numbers_of(text: str) -> list[str]:
    """Runs of digits; a number with thousands separators, of either language, is one run: 1,000 is 1.000."""
    return [re.sub("[.,]", "", number) for number in _NUMBER.findall(text)]


def common_words(texts: Iterable[str]) -> frozenset[str]:
    """Words that stand in lower case in one of the texts: at the beginning of a sentence they are no names."""
    return frozenset(word for text in texts for word in _WORD.findall(text) if word.islower())


def names_of(source: str, common: frozenset[str]) -> list[str]:
    """Different capitalised words of a source in their order, less common ones that a sentence begins with."""
    names: dict[str, None] = {}
    for match in _WORD.finditer(source):
        word = match[0]
        if len(word) < MIN_NAME_LETTERS or not word[0].isupper():
            continue
        if word.lower() in common and _BEGINNING.search(source, 0, match.start()):
            continue
        names[word] = None
    return list(names)


def has_name(text: str, name: str) -> bool:
    """Whether a name stands in a text, as it is or with a genitive's s."""
    return any(word in (name, name + "s") for word in _WORD.findall(text))


def final_mark(text: str) -> str:
    """The punctuation mark that a text ends with, closing quotes and brackets aside; "" without one."""
    last = text.rstrip(_CLOSING)[-1:]
    return last if last in FINAL_MARKS else ""


def begins_upper(text: str) -> bool | None:
    """Whether the first letter is in upper case; None without letters."""
    first = next((character for character in text if character.isalpha()), None)
    return None if first is None else first.isupper()
