"""Which pairs are trained on: every filter with what it takes and what it leaves, and their order."""

from __future__ import annotations

import pytest

from dynhat_runtime.offline.cleaning import Cleaner, Reason, modern_spelling, normalised
from dynhat_runtime.offline.parallel_text import Pair
from dynhat_runtime.offline.recipe import FILTERS, CleaningRecipe, CorpusRecipe

CORPUS = CorpusRecipe(file="a.tsv.gz", max_words=12)
GOOD = ("The old man bought two apples.", "Der alte Mann kaufte zwei Äpfel.")
HELD_OUT = [("Where is the station? I am lost.", "Wo ist der Bahnhof? Ich habe mich verlaufen.")]

TAKEN: list[tuple[Reason, Pair]] = [
    ("empty", ("", "leer")),
    ("empty", ("x", " ")),
    ("too_long", ("a b c d e f g h i j k l m", "zu lang")),
    ("too_long", ("too long", "a b c d e f g h i j k l m")),
    ("control_characters", ("The old\x07 man.", "Der alte Mann.")),
    ("control_characters", ("The old man.", "Der \ufffdlte Mann.")),
    ("control_characters", ("The \ue012old man.", "Der alte Mann.")),
    ("length_ratio", ("Yes.", "Ja, das glaube ich schon seit vielen Jahren.")),
    ("length_ratio", ("That is what I have believed for many years.", "Ja.")),
    ("copied", ("this line was never translated", "This line was never translated")),
    ("overlap", ("Where is the station?", "Wo finde ich den Bahnhof?")),
    ("overlap", ("My way is gone.", "Nun ja. Ich habe mich verlaufen!")),
    ("language", ("The old man bought apples.", "Somebody went to town yesterday.")),
    ("language", ("Der alte Mann kaufte gestern Obst.", "Der Greis hat gestern Äpfel gekauft.")),
]
LEFT: list[Pair] = [
    GOOD,
    ("OK", "OK"),
    ("Tom Jackson, Boston", "Tom Jackson, Boston"),
    ("Hi.", "Grüß dich!"),
    ("Hello!", "Guten Tag zusammen!"),
    ("Where is Tom?", "Wo ist Tom?"),
    ("Danke!", "Danke!"),
    ("Family 👨‍👩‍👧 first.", "Familie 👨‍👩‍👧 zuerst."),
]


def _cleaner(**rules: object) -> Cleaner:
    return Cleaner(CleaningRecipe.model_validate(rules), ("en", "de"), HELD_OUT)


@pytest.mark.parametrize(("reason", "pair"), TAKEN)
def test_bad_pairs_are_taken(reason: Reason, pair: Pair) -> None:
    """A pair that should not be learnt from is left out, under the name of what is wrong with it."""
    assert _cleaner().judge(pair, CORPUS) == reason


@pytest.mark.parametrize("pair", LEFT)
def test_good_pairs_stay(pair: Pair) -> None:
    """Names, short exchanges, emoji and sentences shorter than the overlap's bound stay."""
    assert _cleaner().judge(pair, CORPUS) is None


@pytest.mark.parametrize(("reason", "pair"), [(r, p) for r, p in TAKEN if r in FILTERS])
def test_a_filter_that_is_not_named_takes_nothing(reason: Reason, pair: Pair) -> None:
    """Without its filter a pair stays, or is taken by another under that one's name."""
    others = [name for name in FILTERS if name != reason]
    assert _cleaner(filters=others).judge(pair, CORPUS) == ("language" if reason == "copied" else None)


def test_a_pair_is_let_through_once() -> None:
    """A pair that differs from an earlier one in case, punctuation and spacing alone is a duplicate."""
    cleaner = _cleaner()
    assert cleaner.judge(GOOD, CORPUS) is None
    cleaner.remember(GOOD)
    assert cleaner.judge(("the old man bought two apples!", GOOD[1]), CORPUS) == "duplicate"
    assert cleaner.judge((GOOD[0], "Der alte Mann hat zwei Äpfel gekauft."), CORPUS) is None


def test_bounds_are_the_recipes() -> None:
    """What the recipe's bounds allow stays."""
    ratio, overlap, language = TAKEN[7][1], TAKEN[10][1], TAKEN[12][1]
    assert _cleaner(max_length_ratio=10).judge(ratio, CORPUS) is None
    assert _cleaner(length_slack_characters=60).judge(ratio, CORPUS) is None
    assert _cleaner(min_overlap_words=5).judge(overlap, CORPUS) is None
    assert _cleaner(min_language_words=20).judge(language, CORPUS) is None


def test_languages_without_a_profile_are_not_judged() -> None:
    """Where nothing tells the languages apart, no pair is left out for its language."""
    cleaner = Cleaner(CleaningRecipe(), ("en", "fr"))
    assert cleaner.judge(TAKEN[12][1], CORPUS) is None


def test_normalised_text() -> None:
    """Accents are composed, invisible characters go, any white space is one space; nothing else changes."""
    assert normalised(" Gru\u0308n\u00a0ist\u00ad \t scho\u0308n\ufeff\u2009! ") == "Grün ist schön !"
    assert normalised("„Große Straße“ – 5 € …") == "„Große Straße“ – 5 € …"


def test_form_is_the_recipes() -> None:
    """Text is normalised unless the recipe says not to; old German is renewed only on request, never in the source."""
    pair = ("daß  that ", "Er  muß wissen, daß die Thür roth ist.")
    renewing = CorpusRecipe(file="a", modernise_spelling=True)
    raw = _cleaner(normalise=False)
    assert raw.formed(pair, CORPUS) == pair
    assert _cleaner().formed(pair, CORPUS) == ("daß that", "Er muß wissen, daß die Thür roth ist.")
    assert raw.formed(pair, renewing) == ("daß  that ", "Er  muss wissen, dass die Tür rot ist.")


def test_modern_text_stays() -> None:
    """Text in today's spelling is left as it is, with its ß."""
    text = "Große Straßen heißen auch heute so; das macht Spaß."
    assert modern_spelling(text) == text
