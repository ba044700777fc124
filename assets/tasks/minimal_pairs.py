"""Write minimal_pairs.jsonl: 600 grammatical minimal pairs, 60 for each of ten phenomena.

Form and metric are those of BLiMP: two sentences that differ in one word or in word order, and a
model is right where it finds the good one likelier. Lexicon and templates were written for this
project. Nearly every contrast comes in both directions (what is wrong with a singular subject is
right with a plural one), so that neither length nor any one word gives the answer away.

    python assets/tasks/minimal_pairs.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Pair = tuple[str, str]  # the good sentence, the bad one


def _rows(table: str) -> list[list[str]]:
    """The cells of a table with one row a line and `|` between cells."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _lines(table: str) -> list[str]:
    return [row[0] for row in _rows(table)]


def _number(noun: str) -> tuple[str, str]:
    """Singular and plural: "key" -> key, keys; "leaf/leaves" -> leaf, leaves."""
    singular, _, plural = noun.partition("/")
    return singular, plural or singular + "s"


def _fill(frame: str, good: str, bad: str) -> Pair:
    return frame.format(good), frame.format(bad)


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


PEOPLE = _lines("""
    gardener
    soldier
    schoolmaster
    old woman/old women
    fisherman/fishermen
    merchant
    servant
    traveller
    farmer
    shepherd
    young man/young men
    lawyer
    doctor
    cousin
    neighbour
    clerk
    priest
    sailor
    officer
    student
    widow
    carpenter
    labourer
    gentleman/gentlemen
    stranger
    painter
    poor child/poor children
    blacksmith
    miller
    little girl
""")

HABITS = _rows("""
    walk|walks|home across the fields at dusk
    remember|remembers|the great storm very well
    go|goes|to church every Sunday
    drink|drinks|a glass of milk before bed
    live|lives|in a little house by the river
    know|knows|the way through the forest
    sleep|sleeps|very badly in the hot weather
    look|looks|tired after the long journey
    speak|speaks|French with a strange accent
    believe|believes|every word of the story
    work|works|from morning until night
    love|loves|the sound of the church bells
    come|comes|from a village in the north
    sing|sings|the old songs by the fire
    want|wants|to buy a piece of land
    stand|stands|at the gate and waits for the coach
    think|thinks|too much about money
    wear|wears|a black coat in winter
    hope|hopes|to return before the spring
    write|writes|a long letter home every month
    seem|seems|to be afraid of the dog
    keep|keeps|a few hens behind the house
    laugh|laughs|at the smallest joke
    sit|sits|by the window in the afternoon
    deserve|deserves|a better place than this
    rise|rises|at five o'clock in the morning
    enjoy|enjoys|the fresh air of the hills
    need|needs|a new pair of boots
    understand|understands|the matter perfectly
    dislike|dislikes|the noise of the town
""")


def subject_verb_agreement() -> list[Pair]:
    found = []
    for i, (plain, with_s, rest) in enumerate(HABITS):
        one, _ = _number(PEOPLE[i])
        _, many = _number(PEOPLE[(i + 13) % len(PEOPLE)])
        if plain == "stand":  # its second verb agrees too
            found.append(_fill("The " + one + " {} at the gate every evening.", with_s, plain))
            found.append(_fill("The " + many + " {} at the gate every evening.", plain, with_s))
            continue
        found.append(_fill(f"The {one} {{}} {rest}.", with_s, plain))
        found.append(_fill(f"The {many} {{}} {rest}.", plain, with_s))
    return found
