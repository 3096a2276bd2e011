"""Notice what is odd in the rows that are kept: HTML, broken text, placeholders. Nothing is changed here."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from tc3lib.catalogue.markup import has_markup
from tc3lib.catalogue.rows import Product

EXAMPLES, WIDTH = 3, 160
"""Examples of each kind, and their characters."""
# A byte that begins a character in UTF-8 and one that goes on, read as Windows-1252 or as Mac Roman; U+FFFD. The class
# comes first so that `re` skips over all other characters.
_SUSPECT = re.compile(
    "[\xc2-\xf4√‚\ufffd](?:(?<=[\xc2-\xf4])[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
    "|(?<=√)[\xa0-\xff†°∂ƒ∑∫π≥≤∞]|(?<=‚)Ä|(?<=\ufffd))"
)
_LEADS = "ÃÂâÅÄÎÐÑ×Øàáãåç√‚\ufffd"
"""With one of these begins what is made of any language's text; to look for them takes a fifth of the time."""
_PLACEHOLDERS = {
    "#n/a", "#ref!", "(none)", "<null>", "[null]", "\\n", "coming soon", "em breve", "lorem ipsum", "n.a.", "n/a",
    "n/d", "na", "nan", "nd", "nenhum", "nenhuma", "nil", "no description", "no title", "none", "not available", "null",
    "não disponível", "não informado", "placeholder", "s/d", "sem descrição", "sem título", "tba", "tbc", "tbd",
    "teste", "to be announced", "to be defined", "undefined", "untitled",
}  # fmt: skip
_LONGEST = max(map(len, _PLACEHOLDERS))
_NOTHING = re.compile(r"[\W_]*|[xX]{2,}")

Noticed = dict[str, dict[str, Any]]
"""By kind (`html`, `broken`, `placeholder`): how many `rows`, and `examples` with `uid`, `text` and `kept_as`."""


def is_broken(text: str) -> bool:
    """Tell whether bytes were read in a wrong encoding (`CafÃ©`), or characters lost to U+FFFD."""
    if text.isascii() or not any(map(text.__contains__, _LEADS)) or not _SUSPECT.search(text):
        return False
    from ftfy.badness import is_bad

    return "\ufffd" in text or is_bad(text)


def is_placeholder(text: str) -> bool:
    """Tell whether a text stands for one that is missing: `N/A`, `NULL`, `-`, `xxx`."""
    return len(text) <= _LONGEST and (text.casefold() in _PLACEHOLDERS or _NOTHING.fullmatch(text) is not None)


def notice(kept: Sequence[tuple[Product, str, str]]) -> Noticed:
    """Return what is odd in kept rows, given as they were read, with title and content as cleaning left them."""
    noticed: Noticed = {}
    for product, title, content in kept:
        kinds = {}
        read_title, read_content = product.title, product.content  # where cleaning changed nothing there is no HTML
        if (content != read_content and has_markup(read_content)) or (title != read_title and has_markup(read_title)):
            kinds["html"] = has_markup
        if is_broken(content) or is_broken(title):
            kinds["broken"] = is_broken
        short = len(title) <= _LONGEST or len(content) <= _LONGEST
        if short and (is_placeholder(title) or is_placeholder(content)):
            kinds["placeholder"] = is_placeholder
        for kind, tells in kinds.items():
            found = noticed.setdefault(kind, {"rows": 0, "examples": []})
            found["rows"] += 1
            if len(found["examples"]) < EXAMPLES:
                found["examples"].append(_example(product, title, content, kind, tells))
    return noticed


def _example(product: Product, title: str, content: str, kind: str, tells: Callable[[str], bool]) -> dict[str, Any]:
    """Return the one of both texts that is odd, before and after cleaning."""
    pairs = (product.title, title), (product.content, content)
    before, after = next((pair for pair in pairs if tells(pair[kind != "html"])), pairs[1])
    if kind == "broken":
        before, after = _around(before), _around(after)
    return {"uid": product.uid, "text": _short(before), "kept_as": _short(after)}


def merge(noticed: Noticed, more: Noticed) -> None:
    """Add what was noticed in later rows."""
    for kind, found in more.items():
        sum_ = noticed.setdefault(kind, {"rows": 0, "examples": []})
        sum_["rows"] += found["rows"]
        sum_["examples"] += found["examples"][: EXAMPLES - len(sum_["examples"])]


def _around(text: str) -> str:
    """Return a text from shortly before the first place that is broken."""
    found = _SUSPECT.search(text)
    return text[max(0, found.start() - WIDTH // 4) :] if found else text


def _short(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
