"""Canary sentences: whether an operating point can translate at all, asked before it serves anybody.

Refuses points; touches no weights and measures no time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.translator import Translator
from dynhat_runtime.errors import BundleError
from dynhat_runtime.model.decodable import Decodable
from dynhat_runtime.operating_point import OperatingPoint, OperatingPointTable

logger = logging.getLogger(__name__)

CANARIES: Mapping[str, tuple[str, str, str]] = {
    "cs": (
        "Děkuji.",
        "Kde je prosím nádraží?",
        "Dnes večer půjdu se svou matkou do města a koupím novou knihu.",
    ),
    "de": (
        "Danke.",
        "Wo ist bitte der Bahnhof?",
        "Heute Abend gehe ich mit meiner Mutter in die Stadt und kaufe ein neues Buch.",
    ),
    "en": (
        "Thank you.",
        "Where is the station, please?",
        "This evening I am going to town with my mother to buy a new book.",
    ),
    "es": (
        "Gracias.",
        "¿Dónde está la estación, por favor?",
        "Esta noche voy a la ciudad con mi madre a comprar un libro nuevo.",
    ),
    "fr": (
        "Merci.",
        "Où est la gare, s'il vous plaît ?",
        "Ce soir, je vais en ville avec ma mère pour acheter un nouveau livre.",
    ),
    "it": (
        "Grazie.",
        "Dov'è la stazione, per favore?",
        "Questa sera vado in città con mia madre a comprare un libro nuovo.",
    ),
    "nl": (
        "Dank je.",
        "Waar is het station, alstublieft?",
        "Vanavond ga ik met mijn moeder naar de stad om een nieuw boek te kopen.",
    ),
    "pl": (
        "Dziękuję.",
        "Gdzie jest dworzec?",
        "Dziś wieczorem idę z matką do miasta, żeby kupić nową książkę.",
    ),
    "pt": (
        "Obrigado.",
        "Onde fica a estação, por favor?",
        "Esta noite vou à cidade com a minha mãe comprar um livro novo.",
    ),
    "ro": (
        "Mulțumesc.",
        "Unde este gara, vă rog?",
        "În această seară merg în oraș cu mama mea să cumpăr o carte nouă.",
    ),
    "ru": (
        "Спасибо.",
        "Где находится вокзал?",
        "Сегодня вечером я иду с мамой в город, чтобы купить новую книгу.",
    ),
}
"""Per source language: plain sentences that any translator of it should manage. The last is the longest: it is for
timing, and not part of the check, which it would make twice as long."""


@dataclass(frozen=True, slots=True)
class CheckedPoints:
    """The points of a table after their canaries.

    Attributes:
        table: Without those refused.
        refused: Why, by the id of each point refused.
        guarded_ids: Points of which output can be expected to be sound, so that it is worth watching.
    """

    table: OperatingPointTable
    refused: Mapping[str, str]
    guarded_ids: frozenset[str]


# Rules, per point:
#   1  no canary sentences in the source language                          -> kept and guarded, unchecked
#   2  a canary comes out sound, and not as the other one does             -> kept and guarded
#   3  otherwise, and the table states its quality (dev loss or BLEU)      -> refused
#   4  otherwise: nobody claimed that it translates                        -> kept, its output not guarded
def check_points(
    translator: Translator,
    subs: Mapping[str, Decodable],
    table: OperatingPointTable,
    language: str,
) -> CheckedPoints:
    """Let every point translate the canary sentences of the source language, greedily: that is the quickest, and
    no more forgiving than a beam.

    Args:
        translator: As it will serve.
        subs: The points of `table` by id.
        table: What is claimed of them.
        language: Code of the source language.

    Raises:
        BundleError: Every point was refused.
    """
    options = BeamOptions(beam_size=1)
    canaries = CANARIES.get(language)
    if canaries is None:
        logger.info("no canary sentences in %r: operating points serve unchecked", language)
        return CheckedPoints(table, {}, frozenset(subs))
    refused: dict[str, str] = {}
    guarded: set[str] = set()
    for point in table:
        complaint = _complaint(translator, subs[point.id], canaries[:-1], options)
        if complaint is None:
            guarded.add(point.id)
        elif _claims_quality(point):
            refused[point.id] = complaint
            logger.warning("operating point %s is refused: %s", point.id, complaint)
        else:
            logger.warning("operating point %s serves unguarded: %s", point.id, complaint)
    kept = tuple(point for point in table if point.id not in refused)
    if not kept:
        (point_id, complaint), *_ = refused.items()
        raise BundleError(
            f"all {len(table)} operating points were refused ({point_id}: {complaint}): "
            "restore the bundle, or measure its table again with 'dynhat profile'"
        )
    return CheckedPoints(table.model_copy(update={"points": kept}), refused, frozenset(guarded))


def _claims_quality(point: OperatingPoint) -> bool:
    """Whether its table says how well it translates."""
    return point.dev_loss is not None or point.bleu is not None


def _complaint(
    translator: Translator, sub: Decodable, canaries: Sequence[str], options: BeamOptions
) -> str | None:
    """What is wrong with a point's canaries, or None."""
    outputs = translator.translate(sub, canaries, options)
    if all(output.fault is not None for output in outputs):
        return f"canary sentence {canaries[0]!r} came out as {outputs[0].text[:60]!r} ({outputs[0].fault})"
    if len({output.text for output in outputs}) == 1:
        return f"every canary sentence came out as {outputs[0].text[:60]!r}"
    return None
