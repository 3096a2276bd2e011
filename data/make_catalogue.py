"""Write `trn.json`, a made-up shop catalogue in the form of the real file.

Every row is a JSON line with `uid`, `title` and `content`. Titles state what a thing is; contents follow
from the title, sentence by sentence, out of the bank in `phrases.py`. The traits of the real file (blank
fields, HTML entities, glued format notes, repeated rows, very long contents) are put in on purpose.

Run: `python data/make_catalogue.py`
"""

import argparse
import json
import random
import re
import string
from dataclasses import dataclass
from pathlib import Path

import phrases

ROWS = 4900
BOOKS = 0.39  # share of the rows that are books
BLANK_CONTENT, BLANK_TITLE, BLANK_BOTH = 0.326, 0.049, 0.007
SMALL_WORDS = {"a", "and", "at", "by", "for", "from", "in", "of", "on", "oz", "the", "to", "up", "with", "x"}
EDITIONS = ("2nd", "3rd", "4th", "5th", "6th", "7th")
BINDINGS = ("Hardcover", "Paperback", "Kindle Edition", "Library Binding", "Mass Market Paperback")
BOOK_VARIANTS = (" [Hardcover]", " (Library Binding)", " (Kindle Edition)", " [Paperback]", " - Audiobook")
GOODS_VARIANTS = (" - 2 Pack", " (Old Packaging)", " - Gift Wrapped", " (Display Item)", " - New Model")


@dataclass
class Product:
    """A thing for sale: its title, the choices for each sentence of its description, and its attributes."""

    title: str
    book: bool
    sentences: list[list[str]]
    words: list[str]

    def content(self, rng: random.Random) -> str:
        """Return a description: choices drawn at random, a sentence left out, moved or added at times."""
        first, *rest = [rng.choice(choices) for choices in self.sentences]
        rest = [sentence for sentence in rest if rng.random() > 0.08]
        if len(rest) > 3 and rng.random() < 0.5:
            place = rng.randrange(len(rest) - 2)
            rest.insert(place, rest.pop(place + 1))
        if rest and rng.random() < 0.3:
            rest.append(rng.choice(phrases.NOTES))
        return " ".join([first, *rest])


def title_case(text: str) -> str:
    """Capitalise a phrase as in a title, leaving small words and inner capitals alone."""
    words = text.split(" ")
    cased = [w if i and w in SMALL_WORDS else w[:1].upper() + w[1:] for i, w in enumerate(words)]
    return " ".join(cased)


def fill(template: str, values: dict[str, str]) -> str:
    """Fill a template in and settle every `a(n)` by the word that follows it."""
    text = template.format_map(values)

    def article(match: re.Match) -> str:
        vowel = re.match(r"[aeiou]|8|11|18|A\d", match[2], re.IGNORECASE) and not match[2].startswith("u")
        return f"{match[1]}{'n' if vowel else ''} {match[2]}"

    text = re.sub(r"\b([Aa])\(n\) (\S+)", article, text)
    return text[:1].upper() + text[1:]


def person(rng: random.Random) -> tuple[str, str]:
    """Return the first and last name of an author who does not exist."""
    return rng.choice(phrases.AUTHORS_FIRST), rng.choice(phrases.AUTHORS_LAST)


def made_up(rng: random.Random) -> str:
    """Return a made-up name of two or three syllables, such as `Velorin`."""
    starts = [
        "b",
        "br",
        "d",
        "dr",
        "f",
        "g",
        "gr",
        "h",
        "j",
        "k",
        "l",
        "m",
        "n",
        "p",
        "qu",
        "r",
        "s",
        "st",
        "t",
        "th",
        "v",
        "w",
        "z",
    ]
    syllables = [rng.choice(starts) + rng.choice("aeiou") for _ in range(rng.choice((2, 2, 3)))]
    return "".join(syllables).capitalize() + rng.choice(("n", "r", "s", "th", "l", "x", ""))


def pick(rng: random.Random, choices: dict[str, dict]) -> str:
    """Draw a key of a dictionary of records by their weights."""
    return rng.choices(list(choices), [record["weight"] for record in choices.values()])[0]


def ware(rng: random.Random) -> Product:
    """Draw a product that is not a book."""
    brand = pick(rng, phrases.BRANDS)
    record = phrases.BRANDS[brand]
    kind = rng.choice([kind for kind in phrases.KINDS.values() if kind["family"] == record["family"]])
    materials = kind["materials"]
    if "{Colour}" in record["title"]:
        materials = [name for name in materials if name not in phrases.BARE]
    material = rng.choice(list(materials))
    values = {"brand": brand, "noun": kind["noun"], "material": material}
    bare_np = kind["np"].format(material=material)
    values["np"] = f"{kind['unit']} {bare_np}" if "unit" in kind else bare_np
    values["Np"] = title_case(bare_np)
    for name, options in (("size", kind["sizes"]), ("use", kind["uses"]), ("colour", phrases.COLOURS)):
        values[name] = rng.choice(list(options))
        values[name.capitalize()] = title_case(f"for {values[name]}")[4:]
    if rng.random() < 0.08:
        title = f"{brand} {values['Np']} Refill Pack, {values['Size']}"
        words = [brand, values["np"], values["size"], "refill"]
        return Product(title, False, [[fill(kind["refill"], values)]], words)
    choices = {
        "care": [kind["materials"][material]],
        "size": [kind["sizes"][values["size"]]],
        "use": [kind["uses"][values["use"]]],
        "colour": [phrases.COLOURS[values["colour"]]],
        "fact": kind["facts"],
        "praise": phrases.PRAISE,
    }
    for name in ("open", "close", "pledge", "story", "more"):
        choices[name] = [fill(record[name], values)] if name in record else []
    words = [brand, values["np"], values["size"]]
    words += [f"for {values['use']}"] * ("{Use}" in record["title"])
    words += [f"in {values['colour']}"] * ("{Colour}" in record["title"])
    sentences = [choices[name] for name in record["plan"].split()]
    return Product(record["title"].format_map(values), False, sentences, words)


def house_name(title: str) -> str:
    """Return what is left of a title's pattern without its variable parts, such as `Heron Guides`."""
    return " ".join(re.sub(r"\{\w+\}|[\[\](),:]", " ", title).split()).removesuffix(" by")


def volume(rng: random.Random, goods: bool = False) -> Product:
    """Draw a book or, with `goods`, a record album, which is described like one."""
    genres = {name: g for name, g in phrases.GENRES.items() if g.get("goods", False) == goods}
    genre = genres[pick(rng, genres)]
    house = rng.choices(genre["houses"], [house["weight"] for house in genre["houses"]])[0]
    first, last = person(rng)
    values = {"author": f"{first} {last}", "last": last, "world": made_up(rng)}
    values["edition"] = rng.choice(EDITIONS)
    choices = {"fact": genre["facts"], "review": phrases.REVIEWS}
    for slot, options in genre["slots"].items():
        values[slot] = rng.choice(list(options))
        choices[slot] = [options[values[slot]]]
    values["venue_title"] = title_case("at " + values.get("venue", ""))[3:]
    values["base"] = genre["base"].format_map(values)
    for name in ("open", "close", "story", "more"):
        choices[name] = [fill(house[name], values)] if name in house else []
    words = [values[slot] for slot in genre["slots"]] + [house_name(house["title"])]
    words += [values["author"]] * ("{author}" in house["title"])
    sentences = [choices[name] for name in house["plan"].split()]
    return Product(house["title"].format_map(values), not goods, sentences, [word for word in words if word])


def foreign(rng: random.Random) -> Product:
    """Draw a book in another language."""
    title, content = rng.choice(list(phrases.FOREIGN.items()))
    first, last = person(rng)
    title = title.format(place=rng.choice(list(phrases.PLACES)), author=f"{first} {last}")
    return Product(title, True, [[content]], [title])


def anthology(rng: random.Random, number: int, length: int) -> Product:
    """Return a collection of stories whose content lists them all, about `length` characters of it."""
    content = f"Contents of volume {number}, in the order of printing."
    while len(content) < length:
        genre = phrases.GENRES[rng.choice(("mystery", "romance", "children", "science fiction"))]
        values = {slot: rng.choice(list(options)) for slot, options in genre["slots"].items()}
        values["world"] = made_up(rng)
        values["venue_title"] = title_case("at " + values.get("venue", ""))[3:]
        content += f" {genre['base'].format_map(values)}, by {' '.join(person(rng))};"
    title = f"The Greyfriars Omnibus of Short Stories, Volume {number}"
    return Product(title, True, [[content[:-1] + "."]], [])


def product(rng: random.Random) -> Product:
    """Draw any product of the shop."""
    if rng.random() < BOOKS:
        return foreign(rng) if rng.random() < 0.03 else volume(rng)
    return volume(rng, goods=True) if rng.random() < 0.08 else ware(rng)


def uid(rng: random.Random, book: bool) -> str:
    """Return a number like an ISBN-10 for a book, with a wrong check digit, or one like an ASIN."""
    if not book:
        return "B0" + "".join(rng.choices(string.ascii_uppercase + string.digits, k=8))
    digits = rng.choice("000001") + "".join(rng.choices(string.digits, k=8))
    check = sum((10 - i) * int(d) for i, d in enumerate(digits))
    return digits + rng.choice([d for d in string.digits if (check + int(d)) % 11])


def escape(rng: random.Random, text: str, title: bool = False) -> str:
    """Write some characters of a text as HTML entities, in one of the ways the real file does."""
    if not title:
        text = re.sub("[:;] ", "—", text, count=2)
    text = text.replace("&", "&amp;").replace("'", rng.choice(("&#8217;", "&#x2019;", "&#x92;")))
    if title:
        return text
    opening, closing = rng.choice((("&#x201C;", "&#x201D;"), ("&quot;", "&quot;"), ("&#147;", "&#148;")))
    text = re.sub(r'"(.*?)"', rf"{opening}\1{closing}", text).replace("—", "&mdash;")
    if "&" not in text:
        text = text.replace(". ", ".&#xA0; ", 2) if ". " in text else text.replace(" ", "&#xA0;", 1)
    return text


def weather(rng: random.Random, row: dict[str, str], book: bool) -> None:
    """Give a finished row the wear and tear of the real file, in place."""
    draw = rng.random()
    if draw < 0.18:
        row["title"] = escape(rng, row["title"], title=True)
        row["content"] = escape(rng, row["content"])
    elif draw < 0.195:
        row["content"] = re.sub(r'"(.*?)"', "“\\1”", row["content"].replace("'", "’")).replace(": ", " — ")
    if rng.random() < 0.12:
        row["content"] = row["content"].replace(". ", ".  ")
    if book and rng.random() < 0.24:
        row["content"] += f"--This text refers to the{rng.choice(BINDINGS)}edition."


def blank(rng: random.Random, row: dict[str, str]) -> None:
    """Leave fields of a row empty as often as in the real file, in place."""
    draw, nothing = rng.random(), rng.choice(("", "", "", "  "))
    if draw < BLANK_CONTENT + BLANK_BOTH:
        row["content"] = nothing
    if BLANK_CONTENT < draw < BLANK_CONTENT + BLANK_BOTH + BLANK_TITLE:
        row["title"] = nothing


def catalogue(seed: int, rows: int = ROWS) -> list[dict[str, str]]:
    """Return the rows of the catalogue: books by uid, then everything else by uid.

    Args:
        seed: the same seed gives the same rows.
        rows: how many rows to make.
    """
    rng = random.Random(seed)
    made: list[tuple[bool, dict[str, str]]] = []
    fixed = [(True, {"title": t, "content": c}) for t, contents in phrases.DEMO.items() for c in contents]
    for number, length in enumerate((8200, 8900, 9600, 11500, 20000), start=1):
        item = anthology(rng, number, length)
        fixed.append((True, {"title": item.title, "content": item.content(rng)}))
    titles = {row["title"] for _, row in fixed}
    while len(made) < rows - len(fixed):
        item = product(rng)
        if item.title in titles:
            continue
        titles.add(item.title)
        row = {"title": item.title, "content": item.content(rng)}
        if rng.random() < 0.012:
            row["content"] = rng.choice(phrases.STUBS)
        weather(rng, row, item.book)
        group = [row]
        if rng.random() < 0.06:
            suffix = rng.choice(BOOK_VARIANTS if item.book else GOODS_VARIANTS)
            group.append({"title": row["title"] + suffix, "content": row["content"]})
        if rng.random() < 0.03:
            group.append({"title": row["title"], "content": item.content(rng)})
        for row in group:
            blank(rng, row)
            made.append((item.book, row))
    taken: set[str] = set()
    result = []
    for book, row in fixed + made:
        number = uid(rng, book)
        while number in taken:
            number = uid(rng, book)
        taken.add(number)
        result.append((not book, {"uid": number} | row))
    return [row for _, row in sorted(result, key=lambda pair: (pair[0], pair[1]["uid"]))]


def main() -> None:
    """Write the catalogue beside this file."""
    parser = argparse.ArgumentParser(description="Write the made-up catalogue trn.json.")
    parser.add_argument("--seed", type=int, default=2039)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("trn.json"))
    arguments = parser.parse_args()
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in catalogue(arguments.seed))
    arguments.out.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
