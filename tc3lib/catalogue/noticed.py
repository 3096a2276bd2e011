"""Notice what is odd in the rows that are kept: HTML, broken text, placeholders. Nothing is changed here."""

import re
from typing import Any

from tc3lib.catalogue.markup import has_markup

EXAMPLES, WIDTH = 3, 160
"""Examples of each kind, and their characters."""
# A byte that begins a character in UTF-8 and one that goes on, read as Windows-1252 or as Mac Roman; U+FFFD.
_SUSPECT = re.compile("[\xc2-\xf4][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|√[\xa0-\xff†°∂ƒ∑∫π≥≤∞]|‚Ä|\ufffd")
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
    if text.isascii() or not _SUSPECT.search(text):
        return False
    from ftfy.badness import is_bad

    return "\ufffd" in text or is_bad(text)


def is_placeholder(text: str) -> bool:
    """Tell whether a text stands for one that is missing: `N/A`, `NULL`, `-`, `xxx`."""
    return len(text) <= _LONGEST and (text.casefold() in _PLACEHOLDERS or _NOTHING.fullmatch(text) is not None)


def notice(noticed: Noticed, uid: Any, *texts: tuple[str, str]) -> None:
    """Add a row to what was noticed, given its texts before and after cleaning."""
    kinds = {}
    for before, after in texts:
        if ("<" in before or "&" in before or "[" in before) and has_markup(before):
            kinds.setdefault("html", (before, after))
        if is_broken(after):
            kinds.setdefault("broken", (_around(before), _around(after)))
        if is_placeholder(after):
            kinds.setdefault("placeholder", (before, after))
    for kind, (before, after) in kinds.items():
        found = noticed.setdefault(kind, {"rows": 0, "examples": []})
        found["rows"] += 1
        if len(found["examples"]) < EXAMPLES:
            found["examples"].append({"uid": uid, "text": _short(before), "kept_as": _short(after)})


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
