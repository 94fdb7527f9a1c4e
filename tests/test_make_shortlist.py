"""From training text to a bundle's shortlist: what is drawn, what is listed, what is said when it cannot be done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from dynhat_runtime.cli import app
from dynhat_runtime.decoding.tokenizer import BOS_ID, EOS_ID, PAD_ID
from dynhat_runtime.errors import SettingsError, TrainingError
from dynhat_runtime.model.checkpoint import SHORTLIST, Bundle
from dynhat_runtime.offline.alignment import learn_translations
from dynhat_runtime.offline.cleaning import Cleaner
from dynhat_runtime.offline.data import tokenise
from dynhat_runtime.offline.make_shortlist import (
    ShortlistOptions,
    choose,
    covered,
    drawn_pairs,
    make_shortlist,
)
from dynhat_runtime.offline.parallel_text import Pair
from dynhat_runtime.offline.recipe import CleaningRecipe, CorpusRecipe
from tests.toy_bundle import write_toy_bundle
from tests.toy_text import VOCAB_SIZE, toy_pairs, toy_tokenizer, write_pairs
from tests.toy_training import as_toml, toy_fields, write_toy_data

QUIET = Console(quiet=True)
FEW = ShortlistOptions(num_per_token=6, num_common=10)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle whose training record names no text."""
    return write_toy_bundle(tmp_path / "bundle")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The toy recipe, with its text beside it."""
    write_toy_data(tmp_path)
    path = tmp_path / "toy.toml"
    path.write_text(as_toml(toy_fields()), encoding="utf-8")
    return path


def test_lists_hold_the_translations(bundle: Bundle, recipe: Path) -> None:
    """Learned from 300 pairs, short lists hold nearly all of unseen references, and none of what is never said."""
    unseen = write_pairs(recipe.parent / "unseen.tsv.gz", toy_pairs(60, seed=9))
    made = make_shortlist(bundle, recipe.parent, FEW, recipe=recipe, dev=unseen, console=QUIET)
    assert made.num_pairs == 300
    assert made.coverage is not None
    assert made.coverage.token_fraction > 0.97
    assert made.coverage.mean_listed < 60
    shortlist = Bundle.open(bundle.path).shortlist()
    assert shortlist is not None
    for source, _ in toy_pairs(20, seed=10):
        ids = toy_tokenizer().encode(source)
        listed = set(shortlist.listed([*ids, EOS_ID]).tolist())
        assert listed >= {EOS_ID, *ids}
        assert not listed & {BOS_ID, PAD_ID}


def test_the_file_says_how_it_was_made(bundle: Bundle, recipe: Path) -> None:
    """Text with licences, pairs, sizes, seed and coverage stand in it; the same command makes the same file."""
    dev = recipe.parent / "dev.tsv.gz"
    made = make_shortlist(bundle, recipe.parent, FEW, recipe=recipe, dev=dev, console=QUIET)
    content = (bundle.path / SHORTLIST).read_bytes()
    assert len(content) == made.size_bytes
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    told = json.loads(header["__metadata__"]["made_how"])
    assert told["learned_from"][0]["licence"] == "made up"
    assert (told["num_pairs"], told["num_per_token"], told["num_common"], told["seed"]) == (300, 6, 10, 1)
    assert (told["dev_set"], told["mean_listed"]) == (
        "dev.tsv.gz",
        made.coverage and made.coverage.mean_listed,
    )
    make_shortlist(made.bundle, recipe.parent, FEW, recipe=recipe, dev=dev, console=QUIET)
    assert (bundle.path / SHORTLIST).read_bytes() == content


@pytest.mark.parametrize(("weight", "least", "most"), [(1.0, 300, 300), (2.0, 600, 600), (0.25, 45, 105)])
def test_pairs_are_drawn_by_weight(recipe: Path, weight: float, least: int, most: int) -> None:
    """A corpus of weight 2 counts twice, one of a quarter gives about a quarter of its pairs, always the same."""
    corpora = [CorpusRecipe(file="train.tsv.gz", licence="made up", weight=weight)]

    def drawn(seed: int) -> list[Pair]:
        keep_all = Cleaner(CleaningRecipe(filters=()), ("en", "de"))
        return drawn_pairs(recipe.parent, corpora, keep_all, seed)

    assert least <= len(drawn(1)) <= most
    assert drawn(1) == drawn(1)
    assert weight >= 1 or drawn(2) != drawn(1)


def test_what_is_cleaned_away_teaches_nothing(recipe: Path) -> None:
    """A pair is learned from as it is trained on: a second one like it is left out."""
    corpora = [CorpusRecipe(file="train.tsv.gz", licence="made up")] * 2
    assert len(drawn_pairs(recipe.parent, corpora, Cleaner(CleaningRecipe(), ("en", "de")), 1)) <= 300


def test_sizes_are_kept() -> None:
    """No source token has more tokens of its own than asked for, beside itself; none of them is common."""
    corpus = tokenise(toy_pairs(200), toy_tokenizer(), 60)
    table = learn_translations(corpus, VOCAB_SIZE)
    small, large = (
        choose(table, corpus, toy_tokenizer(), ShortlistOptions(number, 12)) for number in (3, 20)
    )
    for shortlist, number in ((small, 3), (large, 20)):
        assert len(shortlist.common) <= 12 + 1
        assert np.diff(shortlist.starts).max() <= number + 1
        assert not set(shortlist.common.tolist()) & set(shortlist.tokens.tolist())
    pairs = toy_pairs(40, seed=5)
    fewer, more = (covered(shortlist, pairs, toy_tokenizer()) for shortlist in (small, large))
    assert fewer.mean_listed < more.mean_listed
    assert fewer.token_fraction <= more.token_fraction


def test_text_that_is_not_named(bundle: Bundle, recipe: Path) -> None:
    """A bundle that names no text asks for a recipe; text that is not there is named; so is text with nothing in it."""
    with pytest.raises(SettingsError, match=r"training record names no text: give a --recipe"):
        make_shortlist(bundle, recipe.parent, FEW, console=QUIET)
    with pytest.raises(TrainingError, match=r"nowhere.*train.tsv.gz: cannot be read"):
        make_shortlist(bundle, recipe.parent / "nowhere", FEW, recipe=recipe, console=QUIET)
    write_pairs(recipe.parent / "train.tsv.gz", [])
    with pytest.raises(TrainingError, match="no pair is left to learn from"):
        make_shortlist(bundle, recipe.parent, FEW, recipe=recipe, console=QUIET)
    assert not (bundle.path / SHORTLIST).exists()


def test_the_command(bundle: Bundle, recipe: Path) -> None:
    """It says what lists hold and what to do next, and leaves the bundle with its shortlist."""
    arguments = ["--data-dir", str(recipe.parent), "--recipe", str(recipe), "--bundle", str(bundle.path)]
    dev = ["--dev", str(recipe.parent / "dev.tsv.gz")]
    done = CliRunner().invoke(app, ["make-shortlist", *arguments, *dev, "--per-token", "6", "--common", "10"])
    assert done.exit_code == 0
    assert "of the reference tokens listed" in done.stdout
    assert "learned from 300 pairs" in done.stderr
    assert "dynhat profile --points --shortlist" in done.stderr
    assert Bundle.open(bundle.path).shortlist() is not None
