"""Tidy the text of a product. Nothing is lost but what the docstring of `clean_text` names."""

import html
import re
import unicodedata

# Amazon glued this note to the end of many book descriptions, without a space and sometimes without an edition.
_NOTE = "This text refers to"
_EDITION_NOTE = re.compile(rf" ?-- ?{_NOTE} (?:the|an?)(?:(?!--).){{0,100}}?(?:edition|title)\b[^.]{{0,40}}\.$")
_NOTE_LENGTH = 200
"""Characters, more than the pattern can match: only the end of a text is searched."""


def clean_text(text: str) -> str:
    """Return the text with HTML unescaped once, in NFC, runs of white space as one space, no glued edition note.

    References to C1 controls (`&#x92;`) become what browsers show for them; nothing else is added or removed. White
    space is what `str.split` takes for it, NBSP included; it goes from both ends.
    """
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if not text.isprintable():  # true of all white space but the plain space, and of little else
        text = " ".join(text.split())
    else:
        while "  " in text:
            text = text.replace("  ", " ")
        text = text.strip()
    if text.endswith(".") and _NOTE in text[-_NOTE_LENGTH:]:
        found = _EDITION_NOTE.search(text, max(0, len(text) - _NOTE_LENGTH))
        text = text[: found.start()] if found else text
    return text
