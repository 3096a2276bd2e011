"""Write a made-up catalogue with the size and the traits of LF-AmazonTitles-1.3MM's `trn.json`.

Counts of lines, of empty titles and of empty contents are those of the real file; lengths follow its percentiles
(content 47, 398 and 1,728 characters at 5, 50 and 95 %, at most 197,622; title 54 at 50 %, at most 1,999). The words
are those of `data/trn.json`. The same seed and number of rows give the same bytes.
"""

import json
import random
from pathlib import Path

from tqdm.auto import tqdm

ROWS = 2_248_619
EMPTY_TITLES, EMPTY_CONTENTS, EMPTY_BOTH = 126_834, 749_901, 18_519
ENTITY_ONLY = 303
"""Contents that are empty once HTML is unescaped: the real file loses as many rows to it."""
ENTITIES = ("&#8217;", "&#x2019;", "&mdash;", "&amp;", "&#xA0;", "&#x92;", "&quot;", "&#8220;")
WORDS = Path(__file__).parents[1] / "data" / "trn.json"


def write_catalogue(path: Path, rows: int = ROWS, seed: int = 0) -> None:
    """Write `rows` products as JSON Lines with `uid`, `title`, `content`, `target_ind` and `target_rel`."""
    draw = random.Random(seed)
    kinds = _kinds(rows, draw)
    products = [json.loads(line) for line in WORDS.read_text(encoding="utf-8").splitlines()]
    titles = " ".join(product["title"] for product in products)
    contents = " ".join(product["content"] for product in products)
    labels = [_labels(draw) for _ in range(5000)]
    earlier = ["A mug."]
    encode = json.encoder.encode_basestring_ascii
    longest = {"title": draw.randrange(rows), "content": draw.randrange(rows)}
    with open(path, "w", encoding="ascii") as file:
        for number, kind in enumerate(tqdm(kinds, desc=f"writing {path.name}", unit=" rows", unit_scale=True)):
            title = content = ""
            if not kind & 1:
                length = min(1999, int(draw.lognormvariate(3.99, 0.55)) + 2)
                title = _slice(titles, 1999 if number == longest["title"] else length, draw)
            if kind & 4:
                content = draw.choice(("&nbsp;", "&#xA0;", " &nbsp; "))
            elif not kind & 2:
                chance = draw.random()
                if chance < 0.09:
                    content = draw.choice(earlier)
                else:
                    length = min(197_622, int(draw.lognormvariate(5.95, 1.0)) + 10)
                    content = _slice(contents, 197_622 if number == longest["content"] else length, draw)
                    content = _dress(content, draw)
                    if chance < 0.12:
                        earlier.append(content)
            indices, relevances = draw.choice(labels)
            file.write(
                f'{{"uid": "{number:010d}", "title": {encode(title)}, "content": {encode(content)}, '
                f'"target_ind": {indices}, "target_rel": {relevances}}}\n'
            )


def _kinds(rows: int, draw: random.Random) -> bytearray:
    """Return a byte a row in random order: bit 1 no title, bit 2 no content, bit 4 nothing but an entity."""
    both, title, content, entity = (
        round(count * rows / ROWS)
        for count in (EMPTY_BOTH, EMPTY_TITLES - EMPTY_BOTH, EMPTY_CONTENTS - EMPTY_BOTH, ENTITY_ONLY)
    )
    kinds = bytearray(b"\3" * both + b"\1" * title + b"\2" * content + b"\4" * entity)
    kinds += bytes(rows - len(kinds))
    draw.shuffle(kinds)
    return kinds


def _slice(text: str, length: int, draw: random.Random) -> str:
    start = draw.randrange(len(text) - length)
    return text[start : start + length].strip() or "A"


def _dress(content: str, draw: random.Random) -> str:
    """Give a content the blemishes of the real ones: entities, quotes, accents, line ends, a glued edition note."""
    if draw.random() < 0.17:
        for entity in draw.sample(ENTITIES, draw.randrange(1, 4)):
            content = content.replace(" ", f" {entity} ", draw.randrange(1, 3))
    if draw.random() < 0.15:
        content = content.replace(" the ", ' "the" ', 2)
    if draw.random() < 0.05:
        content = content.replace("e", "é", 2).replace("'", "’")
    if draw.random() < 0.10:
        content = content.replace(". ", ".  ", 2)
    if draw.random() < 0.03:
        content = content.replace(". ", ".\n", 2)
    if draw.random() < 0.12:
        edition = draw.choice(("theHardcoveredition", "thePaperbackedition", "an out of print or unavailable edition"))
        content += f"--This text refers to {edition}."
    return content


def _labels(draw: random.Random) -> tuple[str, str]:
    count = min(500, int(draw.lognormvariate(2.6, 1.0)) + 1)
    return json.dumps([draw.randrange(1_305_265) for _ in range(count)]), json.dumps([1.0] * count)
