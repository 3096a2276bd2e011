"""Made-up text for a small base model: letters, leaflets, stories and lists of names.

The corpus shares its sentences with the catalogue but shows them in other surroundings. It never holds a
title of the catalogue, the frame of the fine-tuning prompt or the form of its answers.
"""

import html
import json
import random
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import phrases
from make_catalogue import Product, made_up, person, product, title_case

FRAME = re.compile(r"###|Below is an instruction|The '[^'\n]*' is ")

OPENINGS = phrases.lines("""
Thank you for your request. I have read your letter twice and hope that my response will be of use.
You asked for some context before you decide, so let me describe how we work.
Please find below the instruction leaflet that was missing from your parcel.
We are sorry that the order was not complete; the rest will be on its way today.
The task of choosing is yours, but here is what I would tell a friend.
Your question about the input of our customers is a fair one: we read every word.
I write to ask for a description of the things in your window.
It was kind of you to write at such length, and I will try to answer each point in turn.
""")

CLOSINGS = phrases.lines("""
Please write again if anything is not clear.
I hope that this completes your order and that it reaches you before the holiday.
The rest is a matter of taste, as you say.
With kind regards from all of us at the counter.
Let me know which you prefer and I will put it aside.
Do not pay until you have seen it.
""")

ASIDES = phrases.lines("""
It was raining when I wrote this, and the shop was empty but for the cat.
The catalogue goes to the printer on Friday.
My colleague, who knows more about it than I do, agrees with every word.
We have moved the shelves again, so nothing is where it was.
The post is slow this month.
An instruction is only as good as the person who follows it.
She read the response aloud, then folded it and put it under the clock.
Without the context, he said, the input means nothing.
Below the clock hangs a notice that describes the way out.
Describe the thing, she said, and do not admire it.
A list provides what memory does not; further lists provide nothing.
Instruction: turn the key twice. Input: one coin. Response: a low hum.
He completes every form that comes, and appropriately signs it.
The task was simple to describe and hard to complete.
A good description tells you what a thing is for.
He wrote the request in pencil and the answer in ink.
Appropriately enough, the last box was empty.
The first product was sold before noon.
There was further trouble with the labels, which had been paired with the wrong boxes.
""")

SCENES = phrases.lines("""
{a} opened the shop at nine, as on every other day, and put the sign outside.
{a} had come from {w} with one trunk and no coat.
"Have you seen {b}?" asked {a}. "Nobody has seen {b} since Tuesday," said the baker.
{b} laughed, and then {b} stopped laughing, because {a} was serious.
The road to {w} was closed, so {a} and {b} walked along the river.
In {w} they say that a guest is a letter from far away.
{a} wrote to {b} every week, and every week {b} meant to answer.
"I was born in {w}," said {b}, "and I mean to go back to {w} one day."
At the market {a} bought apples, string and a clock that did not go.
{b} kept the key to the cellar and would not say why.
"You are late," said {a}. "I am never late," said {b}. "It is {w} that is too far away."
When the lamps were lit, {a} sat down by the window and began to count.
The dog belonged to {b}, but it slept at the foot of {a}'s bed.
That winter there was so much snow in {w} that the school was shut for a month.
{a} gave {b} the last of the bread and said that it was nothing.
They never spoke of it again, but {b} kept the letter, and so did {a}.
Nobody in {w} could read the sign, which was in an old language.
In spring {b} mended the gate, painted it green and went away.
""")

QUOTING = phrases.lines("""
'{t}' was on the list, and so the clerk wrote '{t}' on the card.
Where have you put '{t}'? I left '{t}' on the second shelf.
She had ordered '{t}', and what came was '{t}', to her surprise.
Write '{t}' on the label. The label now says '{t}'.
The name was '{t}'; he spelled it out once more: '{t}'.
{t}, read the first line. {t}, read the second.
Input: {t}. Output: {t}.
"{t}"? Yes, that is it: "{t}".
""")


def load_titles() -> set[str]:
    """Return the titles of the catalogue that are not blank, as the file has them and as cleaning makes them."""
    with Path(__file__).with_name("trn.json").open(encoding="utf-8") as file:
        raw = {json.loads(line)["title"].strip() for line in file}
    return (raw | {" ".join(html.unescape(title).split()) for title in raw}) - {""}


def title_index(titles: Iterable[str]) -> dict[tuple[str, ...], set[str]]:
    """Sort titles by their first two words, so that many can be looked for at once."""
    index: dict[tuple[str, ...], set[str]] = {}
    for title in titles:
        index.setdefault(tuple(re.findall(r"\w+", title)[:2]), set()).add(title)
    return index


def titles_within(index: dict[tuple[str, ...], set[str]], document: str) -> set[str]:
    """Return the titles of an index that occur word for word in a document."""
    words = re.findall(r"\w+", document)
    starts = set(pairwise(words)) | {(word,) for word in words}
    return {title for start in starts & index.keys() for title in index[start] if title in document}


def titles_in_corpus(titles: Iterable[str], documents: Iterable[str]) -> set[str]:
    """Return the titles that occur word for word in one of the documents."""
    index = title_index(titles)
    return set().union(*(titles_within(index, document) for document in documents))


def title_like(rng: random.Random, avoid: set[str]) -> str:
    """Return a title for nothing: that of a product not in the catalogue, or words strung together."""
    if rng.random() < 0.5:
        title = product(rng).title
        while title in avoid:
            title = product(rng).title
        return title
    pool = " ".join(rng.choice(phrases.PRAISE + ASIDES + CLOSINGS) for _ in range(2)).strip(".").split()
    words = [rng.choice((rng.choice(pool), made_up(rng), made_up(rng))) for _ in range(rng.randint(2, 9))]
    if rng.random() < 0.3:
        words.insert(rng.randint(1, len(words)), str(rng.randint(1, 2030)))
    if rng.random() < 0.3:
        words[-1] = f"({words[-1]})"
    if rng.random() < 0.2:
        words[0] += rng.choice((":", ",", " -", " &", " é", " –"))
    return title_case(" ".join(words)).replace("'", "")


def quoting(rng: random.Random, avoid: set[str]) -> str:
    """Return talk in which names of things are quoted and said again."""
    names = [title_like(rng, avoid) for _ in range(rng.randint(1, 4))]
    said = [rng.choice(QUOTING).format(t=name) for name in names]
    if len(names) > 1:
        again = rng.sample(names, len(names))
        said.append(f"In all: {'; '.join(again)}.")
        said.append(f"Once more, from the top: {'; '.join(names)}.")
    return rng.choice((" ", "\n")).join(said)


def wish(rng: random.Random, item: Product) -> str:
    """Return the attributes of a product in any order, as a customer might name them."""
    return ", ".join(rng.sample(item.words, len(item.words)))


def letter(rng: random.Random, _: set[str]) -> str:
    """Return a letter from the shop that tells a customer about one or two things."""
    text = f"Dear {' '.join(person(rng))}, {rng.choice(OPENINGS)}"
    for _ in range(rng.choice((1, 1, 2))):
        item = product(rng)
        lead = rng.choice(
            (
                "You had in mind this: {w}. What I can say is as follows.",
                "For {w} the list has these words.",
                "As to {w}, here is what I know.",
                "Somebody else wanted {w} too, and I told her the same.",
            )
        )
        text += f" {lead.format(w=wish(rng, item))} {item.content(rng)}"
    return f"{text} {rng.choice(ASIDES)} {rng.choice(CLOSINGS)}\n{' '.join(person(rng))}"


def pages(rng: random.Random, _: set[str]) -> str:
    """Return a run of descriptions without their titles."""
    parts = []
    for _ in range(rng.randint(2, 4)):
        item = product(rng)
        parts.append(f"{item.content(rng)} (Filed under {wish(rng, item)}.)")
    return f"{rng.choice(ASIDES)} {' '.join(parts)}"


def leaflet(rng: random.Random, _: set[str]) -> str:
    """Return notes on one kind of thing: its materials, sizes and uses."""
    kind = rng.choice(list(phrases.KINDS.values()))
    notes = [(f"{name} {kind['noun']}", text) for name, text in kind["materials"].items()]
    notes += [(f"{name} {kind['noun']}", text) for name, text in kind["sizes"].items()]
    notes += [(f"{kind['noun']} for {name}", text) for name, text in kind["uses"].items()]
    rng.shuffle(notes)
    text = " ".join(f"On the {name}: {note}" for name, note in notes)
    return f"Instruction leaflet. {rng.choice(ASIDES)} {text} {' '.join(kind['facts'])}"


def story(rng: random.Random, _: set[str]) -> str:
    """Return a very short story about two people and a town with made-up names."""
    names = {"a": rng.choice((person(rng)[0], made_up(rng))), "b": made_up(rng), "w": made_up(rng)}
    scenes = rng.sample(SCENES, rng.randint(4, 9)) + rng.sample(ASIDES, 2)
    return " ".join(scene.format_map(names) for scene in scenes)


def corpus(seed: int) -> Iterator[str]:
    """Yield documents without end; the same seed yields the same ones."""
    rng = random.Random(seed)
    titles = load_titles()
    index = title_index(titles)
    makers = {letter: 5, pages: 2, leaflet: 1, story: 1, quoting: 4}
    while True:
        document = rng.choices(list(makers), list(makers.values()))[0](rng, titles)
        if not FRAME.search(document) and not titles_within(index, document):
            yield document
