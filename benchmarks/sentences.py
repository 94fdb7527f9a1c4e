"""Plain English sentences to translate, of 4 to 25 words, and of 30. Measuring needs lengths, not meaning.

All were written for this project and come under its licence.
"""

from __future__ import annotations

from pathlib import Path

SENTENCES = (
    "Good morning to you all.",
    "Where is the station?",
    "The train leaves at seven.",
    "I would like a cup of tea, please.",
    "She reads a book in the garden.",
    "We are going to the market tomorrow.",
    "The children are playing behind the house.",
    "He forgot to close the window last night.",
    "Could you tell me the way to the museum?",
    "My sister works as a nurse in a small hospital.",
    "The weather was so bad that we stayed at home.",
    "They bought a new car because the old one was broken.",
    "It is important to drink enough water on hot days.",
    "The teacher explained the problem twice, but nobody understood it.",
    "When the lights went out, everybody in the room became quiet.",
    "This bridge was built more than two hundred years ago.",
    "I have never seen so many stars as in that night.",
    "The committee will discuss the proposal at its next meeting.",
    "Please send me the documents before the end of the week.",
    "If it rains tomorrow, we will visit the old castle another day.",
    "The small shop around the corner sells bread, milk, fruit and newspapers.",
    "After a long walk through the forest, they finally reached the lake.",
    "The engineer checked every part of the machine before it was turned on.",
    "Although he had slept well, he was tired during the whole meeting.",
    "Many people move to the city because they hope to find work there.",
    "The price of vegetables has risen by almost ten percent since last summer.",
    "She called her mother to tell her that she had passed the exam.",
    "The government announced that it would spend more money on schools and roads.",
    "A good map is useful, but a friend who knows the way is better.",
    "The musicians played until midnight, and nobody wanted to leave the square before the last song.",
    "We had to wait for two hours at the airport because the plane from London was late.",
    "Scientists have found that the birds return to the same island every spring in order to raise their young.",
)


def sentences_of_30_words() -> list[str]:
    """Forty sentences of 30 to 33 words."""
    return Path(__file__).with_name("sentences_of_30_words.txt").read_text(encoding="utf-8").splitlines()
