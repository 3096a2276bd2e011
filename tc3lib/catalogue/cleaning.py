"""Clean the text of a product. Nothing is lost except what `clean_text` names."""

import re
import unicodedata
from collections.abc import Callable

from tc3lib.catalogue.markup import plain_text, unescape
from tc3lib.catalogue.noticed import is_broken
from tc3lib.settings import DataSettings

# Amazon glued this note to the end of many book descriptions, without a space and sometimes without an edition.
_NOTE = "This text refers to"
_EDITION_NOTE = re.compile(rf" ?-- ?{_NOTE} (?:the|an?)(?:(?!--).){{0,100}}?(?:edition|title)\b[^.]{{0,40}}\.$")
_NO_LATIN = re.compile(r"[\u0300-\U0010ffff]{1000}")
_NOTE_LENGTH = 200
"""Characters at the end of a text that are searched: more than the pattern can match."""


def clean_text(text: str, literal_breaks: bool = False) -> str:
    r"""Turn HTML into text, or unescape it once; normalise to NFC, collapse white space, drop a glued edition note.

    Text without tags that HTML knows loses nothing but white space (as `str.split` knows it) and such a note.
    References to C1 controls (`&#x92;`) become what browsers show for them. A text with over 1,000 combining marks in a
    row is not normalised: sorting them could take hours.

    Args:
        literal_breaks: The two characters `\n` are a line break, as they are anyway in a text with tags.
    """
    plain = None
    if "<" in text or "&" in text or "[" in text or literal_breaks:
        plain = plain_text(text, literal_breaks)
    if plain is not None:
        text = plain
    elif "&" in text:
        text = unescape(text)
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


def tidier(config: DataSettings, literal_breaks: bool = False) -> Callable[[str], str]:
    """Return the function that the settings ask for; `literal_breaks` as in `clean_text`."""

    def clean(text: str) -> str:
        if config.fix_encoding and is_broken(text):
            from ftfy import fix_encoding

            text = fix_encoding(text)
        return clean_text(text, literal_breaks) if config.clean else text.strip()

    plain = clean_text if config.clean else str.strip
    return clean if config.fix_encoding or literal_breaks else plain


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
