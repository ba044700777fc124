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
    stand|stands|at the garden gate every evening
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
        found.append(_fill(f"The {one} {{}} {rest}.", with_s, plain))
        found.append(_fill(f"The {many} {{}} {rest}.", plain, with_s))
    return found


# head | joining words | other noun | rest
RELATIONS = _rows("""
    key|to the|cabinet|lying upon the table
    window|above the|door|covered with dust
    letter|from the|lawyer|read aloud at breakfast
    road|through the|forest|blocked by the snow
    bench/benches|under the|tree|wet with rain
    dog|beside the|soldier|waiting at the gate
    picture|of the|ship|hung in the hall
    servant|of the|lady/ladies|paid every Friday
    book|beside the|lamp|bound in red leather
    bridge|over the|stream|crossed by few people
    house|behind the|tree|built of grey stone
    story/stories|about the|king|told every winter
    goat|behind the|stable|tied to a post
    friend|of the|prisoner|watched by the guard
    boat|near the|rock|painted white
    wall|around the|garden|falling into ruin
    pupil|of the|priest|dressed in black
    path|beside the|field|hidden by the long grass
    basket|under the|table|full of apples
    lamp|beside the|mirror|burning low
    tower|behind the|castle|struck by lightning
    answer|to the|question|known to everybody
    cottage|beside the|mill|empty all the winter
    message|from the|soldier|written in pencil
    chair|beside the|bed|made of oak
    cry/cries|of the|owl|heard across the valley
    stone|beside the|grave|green with moss
    guest|of the|officer|expected on Friday
    garden|behind the|cottage|full of bees
    report|of the|spy/spies|kept in a strong box
""")


def agreement_across_phrase() -> list[Pair]:
    """The noun next to the verb has the other number."""
    found = []
    for i, (head, joint, other, rest) in enumerate(RELATIONS):
        (one, many), (other_one, other_many) = _number(head), _number(other)
        singular, plural = (("was", "were"), ("is", "are"))[i % 2]
        found.append(_fill(f"The {one} {joint} {other_many} {{}} {rest}.", singular, plural))
        found.append(_fill(f"The {many} {joint} {other_one} {{}} {rest}.", plural, singular))
    return found


POINTED_AT = _rows("""
    My father was very fond of {}.|horse|orchard
    She looked for a long time at {}.|letter|old picture
    Nobody had ever slept in {}.|bed|upper room
    He paid a great deal of money for {}.|field|silver cup
    The whole village was talking about {}.|marriage|strange event
    We could see the sea from {}.|window|high tower
    There is no truth in {}.|report|foolish tale
    The thieves had hidden the gold under {}.|tree|heavy stone
    I have never been afraid of {}.|dog|wild animal
    The boys were forbidden to play near {}.|well|deep pool
    He wrote his name at the end of {}.|letter|long paper
    The travellers rested in the shade of {}.|wall|great oak
    They heard the sound of voices in {}.|cave|empty house
    The queen refused to listen to {}.|song|wicked man/men
    The old man had worked all his life in {}.|garden|green valley
""")


def determiner_noun_agreement() -> list[Pair]:
    found = []
    for i, (frame, *nouns) in enumerate(POINTED_AT):
        for k, noun in enumerate(nouns):
            one, many = _number(noun)
            near, far = ("this", "these"), ("that", "those")
            singular, plural = (near, far)[(i + k) % 2]
            found.append(_fill(frame, f"{singular} {one}", f"{plural} {one}"))
            singular, plural = (near, far)[(i + k + 1) % 2]
            found.append(_fill(frame, f"{plural} {many}", f"{singular} {many}"))
    return found


# base | past | participle | what follows
IRREGULAR = _rows("""
    write|wrote|written|to his brother
    take|took|taken|the money
    give|gave|given|her the ring
    see|saw|seen|the light
    know|knew|known|the reason
    steal|stole|stolen|the silver spoons
    draw|drew|drawn|the curtains
    wear|wore|worn|his best coat
    fall|fell|fallen|into the water
    eat|ate|eaten|the whole loaf
    go|went|gone|to the station
    do|did|done|his duty
    drive|drove|driven|the cart to market
    choose|chose|chosen|the larger room
    shake|shook|shaken|the old man's hand
    grow|grew|grown|tired of the game
    throw|threw|thrown|the rope overboard
    forgive|forgave|forgiven|his enemies
    tear|tore|torn|the paper to pieces
    mistake|mistook|mistaken|the road in the dark
""")
DOERS = _lines("""
    The clerk
    My uncle
    The young prince
    Her husband
    The sailor
    His companion
    The stranger
    Mr. Brown
    The judge
    The poor boy
""")


def irregular_verb_forms() -> list[Pair]:
    """After "did not", after "had", and with no auxiliary at all."""
    found = []
    for i, (base, past, participle, rest) in enumerate(IRREGULAR):
        first, second, third = (DOERS[(i + step) % len(DOERS)] for step in (0, 3, 7))
        found.append(_fill(f"{first} did not {{}} {rest}.", base, past))
        found.append(_fill(f"{second} had already {{}} {rest}.", participle, past))
        found.append(_fill(f"{third} {{}} {rest} after all.", past, participle))
    return found


DONE_TO_ONESELF = _lines("""
    had hurt {} badly in the fall
    warmed {} at the kitchen fire
    dressed {} with great care
    threw {} down upon the grass
    hid {} behind the thick curtain
    saw {} in the tall mirror
    found {} alone in the dark wood
    blamed {} for the whole misfortune
    wrapped {} in a heavy cloak
    could not defend {} against such an enemy
    washed {} in the cold stream
    had locked {} in the upper room
    prepared {} for the long journey
    was/were not ashamed to praise {}
    made {} comfortable by the fire
    never thought of {} at such times
    gave {} a great deal of trouble
    placed {} at the end of the table
    was/were unable to save {}
    had taught {} to read
""")
SELVES = {"he": "himself", "she": "herself", "they": "themselves"}
PERSONS = {
    "he": ["The king", "My uncle", "The old fisherman", "Her husband", "The little boy"],
    "she": ["The queen", "My aunt", "The old nurse", "His wife", "The little girl"],
    "they": ["The soldiers", "My parents", "The two travellers", "His friends", "The children"],
}


def reflexive_agreement() -> list[Pair]:
    found = []
    for start, (person, subjects) in enumerate(PERSONS.items()):
        wrong = [self for other, self in SELVES.items() if other != person]
        for i, done in enumerate(DONE_TO_ONESELF):
            verbs = done.replace("was/were", "were" if person == "they" else "was")
            frame = f"{subjects[(i + start) % len(subjects)]} {verbs}."
            found.append(_fill(frame, SELVES[person], wrong[(i // 2) % 2]))
    return found


# subject | what it had done | noun | rest; then another subject
DEALINGS = _rows("""
    The widow|found|money|in the old chest|My uncle
    The sailor|seen|birds|upon that rock|The captain
    The miller|bought|horses|from the gipsies|The squire
    The lawyer|received|letters|from the lady|Her cousin
    The doctor|drunk|wine|at his own table|The old man
    The boy|heard|music|in that house|The neighbours
    The farmer|lost|sheep|among the hills|The shepherd
    The prisoner|asked|questions|about the war|The stranger
    The clerk|made|mistakes|in the accounts|The merchant
    The hunter|met|people|on that road|The two girls
    The princess|worn|jewels|at the ball|Her sisters
    The priest|given|bread|to the beggar|The servant
""")
# noun | what it did to | a noun | rest
MEETINGS = _rows("""
    traveller|had crossed|river|had ever been seen again
    soldier|had met|general|would ever forget the day
    boy|had seen|wolf|would ever go back alone
    man|had entered|cave|had ever come out alive
    lady|had read|letter|would ever believe the tale
    servant|had served|duke|had ever wanted bread
    sailor|had touched|treasure|had ever died in peace
    merchant|had trusted|prince|had ever been paid
    pupil|had heard|master|could ever doubt the truth
    knight|had loved|princess|had ever loved again
    farmer|had bought|field|had ever grown rich
    child|had tasted|cake|had ever forgotten the taste
""")
# subject | base | past | object | second subject
LIKEWISE = _rows("""
    The cook|hear|heard|the bell|the maid
    The farmer|like|liked|the rain|his wife
    The captain|see|saw|the rock|the mate
    The boy|know|knew|the answer|his sister
    My father|believe|believed|the story|my mother
    The judge|understand|understood|the question|the lawyer
    The king|want|wanted|the war|the queen
    The guide|remember|remembered|the path|the hunter
    The doctor|expect|expected|the letter|his servant
    The old man|enjoy|enjoyed|the music|his daughter
    The priest|recognize|recognized|the voice|the clerk
    The prince|need|needed|the money|his brother
""")


def polarity_items() -> list[Pair]:
    """Only a negative word above them allows "any", "ever" and "either"."""
    found = []
    for first, done, noun, rest, second in DEALINGS:
        found.append(_fill(f"{first} had {{}} {done} any {noun} {rest}.", "never", "lately"))
        found.append(_fill(f"{second} had lately {done} {{}} {noun} {rest}.", "some", "any"))
    for noun, verb, other, rest in MEETINGS:
        good = f"No {noun} who {verb} the {other} {rest}."
        found.append((good, f"The {noun} who {verb} no {other} {rest}."))
    for first, base, past, thing, second in LIKEWISE:
        denied = f"{first} did not {base} {thing}, and {second} did not {base} it {{}}."
        told = f"{first} {past} {thing}, and {second} {past} it {{}}."
        found += [_fill(denied, "either", "too"), _fill(told, "too", "either")]
    return found


# subject | verb with object | object | verb without | when or where
VERBS = _rows("""
    clerk|received|the letter|trembled|before breakfast
    servant|fetched|the water|yawned|in the early morning
    doctor|bound|the wound|arrived|soon after sunset
    old woman|purchased|a new shawl|laughed|in the market
    soldier|found|a gold coin|died|on the field of battle
    gentleman|admired|the picture|knelt|in the little chapel
    child|caught|a butterfly|slept|under the apple tree
    master|praised|the new pupil|coughed|in the schoolroom
    sailor|brought|a parrot|perished|on board the ship
    king|accused|his minister|vanished|that very night
    cook|noticed|a fat mouse|grumbled|in the kitchen
    lady|wore|a white dress|smiled|at the window
    carpenter|made|a strong table|sneezed|in his workshop
    hunter|discovered|a narrow path|lingered|near the waterfall
    stranger|thanked|the farmer|hesitated|at the garden gate
    nurse|avoided|the cold wind|shivered|in the open carriage
    widow|kept|the old clock|lived|in the little cottage
    prisoner|seized|the heavy chain|fainted|in the dark cell
    merchant|built|a stone house|prospered|in a distant country
    priest|blamed|the young men|frowned|during the service
    captain|took|the small boat|waited|at the mouth of the river
    traveller|mentioned|the accident|dozed|by the fire
    judge|sentenced|the thief|listened|in the great hall
    painter|invited|his brother|blushed|at the end of the evening
    shepherd|rescued|the lamb|stumbled|in the deep snow
    farmer|devoured|the bread|snored|in the warm barn
    prince|frightened|the pigeons|appeared|at the top of the tower
    girl|carried|the basket|went|to the church
    beggar|threw|a paper|came|through the open door
    lawyer|placed|the money|sighed|upon the bench
""")


def transitivity() -> list[Pair]:
    """A verb that needs an object, and one that can have none."""
    found = []
    for i, (subject, takes, thing, alone, where) in enumerate(VERBS):
        found.append(_fill(f"The {subject} {{}} {thing} {where}.", takes, alone))
        opening = ("At last", "That day", "Once more")[i % 3]
        found.append(_fill(f"{opening} the {subject} {{}} {where}.", alone, takes))
    return found


# question word | auxiliary | subject | rest
QUESTIONS = _rows("""
    where|had|the old woman|hidden the key
    why|had|the captain|turned back
    how|could|the prisoner|escape from the tower
    when|would|the next ship|sail
    what|had|the doctor|written in the book
    why|was|the little girl|crying
    where|could|a stranger|find a bed
    whom|had|the princess|promised to marry
    how|had|the fire|begun
    what|would|his father|say to him
    when|had|the letter|been sent
    why|should|the poor man|be punished
    where|were|the two brothers|hiding
    what|had|the dog|found in the wood
    how|would|the ladies|travel
    whom|could|the general|trust
    when|was|the church|built
    why|had|nobody|opened the gate
    where|would|the river|reach the sea
    what|could|the servants|have seen
    how|had|the boy|learned to swim
    why|would|any man|refuse the money
    when|would|the music|stop
    where|had|his enemies|gone
    what|was|the stranger|looking for
    how|can|a blind man|know the way
    whom|would|the people|choose
    why|had|the clock|stopped
    when|would|the bridge|be finished
    where|should|the children|sleep
""")
WONDERING = _lines("""
    She could not remember
    I do not know
    Nobody could tell him
    He longed to learn
    They never found out
    It was not certain
""")


def question_order() -> list[Pair]:
    """The auxiliary stands before the subject, but not in an embedded question."""
    found = []
    for i, (word, auxiliary, subject, rest) in enumerate(QUESTIONS):
        asked = f"{word} {auxiliary} {subject} {rest}"
        told = f"{word} {subject} {auxiliary} {rest}"
        found.append((f"{_capital(asked)}?", f"{_capital(told)}?"))
        frame = WONDERING[i % len(WONDERING)]
        found.append((f"{frame} {told}.", f"{frame} {asked}."))
    return found


# knowing | subject and verb | object | rest
KNOWLEDGE = _rows("""
    I remember|the captain found|a purse|in the garden
    Everybody knew|the old man kept|a pistol|in his desk
    She had forgotten|her brother had worn|a mask|at the fair
    We soon discovered|the boys had caught|a rabbit|in the trap
    He told me|the queen wore|a crown|upon her head
    I understood|the thief had taken|a candle|from the table
    They heard|the fisherman had brought|a whale|to the shore
    The maid noticed|the stranger put|a letter|into his pocket
    Nobody knew|the miller had built|a boat|in his barn
    I saw clearly|the child held|a knife|in his hand
    He explained|the farmer had built|a mill|near the bridge
    She learned|her aunt had placed|a cross|upon the grave
    The judge knew|the clerk had concealed|a will|behind the clock
    I have heard|the hunter discovered|a cave|among the hills
    You will see|the painter has made|a portrait|for the duke
    He recollected|the soldier had fetched|a bucket|from the well
    They told us|the sailors received|a barrel|from the merchant
    I noticed|the tailor had made|a coat|for the boy
    She knew well|the doctor had put|a powder|in the glass
    We remembered|the prince had seized|a sword|in his anger
    It is known|the monks possessed|a treasure|in those days
    I can guess|the servant found|a ring|under the carpet
    He confessed|the old lady had brought|a horse|from the gipsies
    They reported|the enemy had built|a wall|across the road
    She whispered|the cat had caught|a bird|in the orchard
    The boy saw|his uncle had brought|a present|from London
    I never heard|the king kept|a lion|in the palace
    He guessed|the widow had made|a cake|for the wedding
    We were told|the shepherd carried|a lamb|upon his back
    She recalled|the stranger had worn|a cloak|at the ball
""")


def filler_gap() -> list[Pair]:
    """A place is left empty after "what", and none after "that"."""
    found = []
    for knowing, did, thing, rest in KNOWLEDGE:
        found.append(_fill(f"{knowing} {{}} {did} {rest}.", "what", "that"))
        found.append(_fill(f"{knowing} {{}} {did} {thing} {rest}.", "that", "what"))
    return found


PRONOUNS = [("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"), ("I", "me")]
SUBJECT_FRAMES = _lines("""
    On the following morning {} walked to the village.
    When the bell rang, {} opened the door.
    After supper {} talked for an hour about the war.
    At the end of the street {} stopped to listen.
    In the summer {} lived at the old farm.
    For many years {} heard nothing of the matter.
    As soon as the rain ceased, {} set out again.
    Before the winter {} sold the house.
    The next day {} found the gate open.
    By the light of the moon {} crossed the bridge.
    At first {} believed every word.
    From the hill {} could see the whole valley.
    Late in the evening {} came to an inn.
    In spite of the danger {} went forward.
    Perhaps {} will return in the spring.
    In the end {} forgave the old man.
    Last year {} went to London for the first time.
    At the sound of the horn {} began to run.
    With great difficulty {} climbed the wall.
    After a long silence {} spoke again.
    Then {} looked towards the window.
    In the middle of the night {} heard a cry.
    Without a word {} left the room.
    The doctor said that {} must rest.
    The captain asked where {} had been.
    The children laughed because {} had fallen.
    The dog barked as {} came up the path.
    Nobody knew what {} had done.
    The farmer was angry when {} broke the fence.
    My aunt hoped that {} would stay.
""")
OBJECT_FRAMES = _lines("""
    The doctor told {} the whole story.
    The old lady smiled at {} very kindly.
    The general sent for {} at once.
    The children followed {} to the gate.
    The servant showed {} into the library.
    A strange voice called {} from the garden.
    The captain offered {} a place in the boat.
    The news of the battle reached {} on Sunday.
    The farmer lent {} his best horse.
    A tall man was waiting for {} at the station.
    The cold wind drove {} back into the house.
    My father never spoke of {} again.
    The king had promised {} a reward.
    The dog ran towards {} with a loud bark.
    The lawyer paid {} a visit in the evening.
    The noise of the guns frightened {} at first.
    The whole village came to see {} that day.
    The priest took {} by the hand.
    The merchant cheated {} out of the money.
    The good woman gave {} some bread.
    The boy looked at {} with wide eyes.
    A friend had warned {} of the danger.
    The light of the fire fell upon {} as the door opened.
    The soldiers carried {} across the river.
    The schoolmaster taught {} to read.
    The judge asked {} a great many questions.
    The storm kept {} at home for a week.
    Nobody thanked {} for the trouble.
    The guide led {} through the forest.
    The porter would not let {} pass.
""")


def pronoun_case() -> list[Pair]:
    found = []
    frames = zip(SUBJECT_FRAMES, OBJECT_FRAMES, strict=True)
    for i, (subject_frame, object_frame) in enumerate(frames):
        subject, thing = PRONOUNS[i % len(PRONOUNS)]
        found.append(_fill(subject_frame, subject, thing))
        subject, thing = PRONOUNS[(i + 2) % len(PRONOUNS)]
        found.append(_fill(object_frame, thing, subject))
    return found


PHENOMENA: tuple[Callable[[], list[Pair]], ...] = (
    subject_verb_agreement,
    agreement_across_phrase,
    determiner_noun_agreement,
    irregular_verb_forms,
    reflexive_agreement,
    polarity_items,
    transitivity,
    question_order,
    filler_gap,
    pronoun_case,
)


def pairs() -> list[dict[str, str]]:
    """All pairs, in the order of the file: the phenomena take turns, so that the first few pairs of
    a quick evaluation hold some of each."""
    turns = zip(*(phenomenon() for phenomenon in PHENOMENA), strict=True)
    return [
        {"phenomenon": phenomenon.__name__, "sentence_good": good, "sentence_bad": bad}
        for turn in turns
        for phenomenon, (good, bad) in zip(PHENOMENA, turn, strict=True)
    ]


def main() -> None:
    text = "".join(json.dumps(pair) + "\n" for pair in pairs())
    Path(__file__).with_name("minimal_pairs.jsonl").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
