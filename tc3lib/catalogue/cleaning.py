"""Clean the text of a product. Nothing is lost except what `clean_text` names."""

import html
import re
import unicodedata

# Amazon glued this note to the end of many book descriptions, without a space and sometimes without an edition.
_NOTE = "This text refers to"
_EDITION_NOTE = re.compile(rf" ?-- ?{_NOTE} (?:the|an?)(?:(?!--).){{0,100}}?(?:edition|title)\b[^.]{{0,40}}\.$")
_LONG_REFERENCE = re.compile(r"&#[0-9]{1000,};?")
_NO_LATIN = re.compile(r"[\u0300-\U0010ffff]{1000}")
_NOTE_LENGTH = 200
"""Characters at the end of a text that are searched: more than the pattern can match."""


def clean_text(text: str) -> str:
    """Unescape HTML once, normalise to NFC, collapse white space (as `str.split` knows it), drop a glued edition note.

    References to C1 controls (`&#x92;`) become what browsers show for them; nothing else is added or removed. A text
    with over 1,000 combining marks in a row is not normalised: sorting them could take hours.
    """
    if "&" in text:
        try:
            text = html.unescape(text)
        except ValueError:  # more digits than Python reads as a number; no character has so many
            text = html.unescape(_LONG_REFERENCE.sub("\ufffd", text))
    if not text.isascii() and not _piled_marks(text):
        text = unicodedata.normalize("NFC", text)
    if not text.isprintable():  # there is white space other than plain spaces, or something rare
        text = text.replace("\n", " ").replace("\u00a0", " ")  # the common ones, much faster than `split`
        if not text.isprintable():
            text = " ".join(text.split())
    if "  " in text:
        text = " ".join(filter(None, map(str.strip, text.split("  "))))
    text = text.strip()
    if text.endswith(".") and text.find(_NOTE, -_NOTE_LENGTH) >= 0:
        found = _EDITION_NOTE.search(text, max(0, len(text) - _NOTE_LENGTH))
        text = text[: found.start()] if found else text
    return text


def _piled_marks(text: str) -> bool:
    """Tell whether the text has over 1,000 combining marks in a row: NFC takes quadratic time for them."""
    if len(text) <= 1000 or not _NO_LATIN.search(text):
        return False
    row = 0
    for character in text:
        row = row + 1 if unicodedata.combining(character) else 0
        if row > 1000:
            return True
    return False
