"""Turn HTML and short codes into plain text: blocks become sentences, items of lists are set off by semicolons."""

import html
import re
from collections import Counter

# Elements of HTML, of its past too. Not here, so that they stay as text: `template`, `xmp`, `plaintext`, `frame`.
_ELEMENTS = """
    a abbr acronym address applet area article aside audio b base basefont bdi bdo big blink blockquote body br button
    canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em embed
    fieldset figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hgroup hr html i iframe image img input
    ins kbd label legend li link main map mark marquee menu meta meter nav nobr noscript object ol optgroup option
    output p param path picture pre progress q rp rt ruby s samp script search section select small source span strike
    strong style sub summary sup svg table tbody td textarea tfoot th thead time title tr track tt u ul var video wbr
""".split()  # noqa: SIM905
_HIDDEN = ("script", "style", "title", "textarea", "iframe", "svg")
"""Elements whose text no browser shows as text; in those but the last it goes on to the closing tag."""
_BLOCKS = """
    address article aside blockquote body caption center details dialog dir div dl fieldset figcaption figure footer
    form h1 h2 h3 h4 h5 h6 header hgroup hr legend main menu nav ol optgroup p pre section summary table ul
""".split()  # noqa: SIM905
_SHALLOW = frozenset("br col dd dt hr img input li option p td th tr wbr".split())  # noqa: SIM905
"""Elements that end where the next begins: they do not nest in themselves."""
_NAME = "|".join(_ELEMENTS)

# What no text has by chance: `</b>`, `<br>`, `<a href=`, `<strong>` that is not glued to a word, a comment, a doctype.
_TAG = re.compile(
    rf"<(?:/(?:{_NAME})\s*>|(?:br|dd|div|dt|h[1-6]|hr|img|li|p|td|th|tr)\s*/?>|(?:{_NAME})\s+[\w:-]+\s*=|!--|!doctype\s)"
    r"|(?<!\w)<(?:center|em|h[1-6]|ol|small|span|strong|sub|sup|table|tbody|ul)\s*>",
    re.IGNORECASE,
)
_ESCAPED = re.compile(rf"&(?:amp;)*lt;(?:/?(?:{_NAME})\b|!--)", re.IGNORECASE)
_NO_TAG = re.compile(rf"<(?!/?(?:{_NAME})(?:[\s/>]|$)|/?(?:m|o|st1|v|w|x):\w|!--|!doctype\s)", re.IGNORECASE)
_HIDDEN_TAG = re.compile(rf"<({'|'.join(_HIDDEN)})\b", re.IGNORECASE)
_ANY_TAG, _TAG_NAME = re.compile(r"<[^<>]*>"), re.compile(r"<(/?)([a-z][a-z0-9]*)")
_SHORT_CODE = re.compile(r"\[(/?)([a-z][\w-]*)(\s+[\w-]+=[^\[\]<>]*|\s*/?)\]", re.IGNORECASE)
_BUILDERS = ("vc_", "et_pb_", "fusion_")
"""Page builders of WordPress: how their short codes begin."""
_LITERAL_BREAK = re.compile(r"(?<!\\)(?:\\r)?\\n")

_LONG_REFERENCE = re.compile(r"&#[0-9]{1000,};?")

# Marks of where something ends, control characters that no text has once its white space is tidied.
_LIST, _BLOCK, _LINE, _ITEM = "\x1c", "\x1d", "\x1e", "\x1f"
_MARKS = re.compile(r"([\x1c-\x1f]+)")
_ENDS = ".!?:;,…。！？：；，、–—|"
_CLOSING = "\"'”’»)]"
_BULLETS = "•·▪●◦‣∙*✓✔►-–—"


def unescape(text: str) -> str:
    """Unescape HTML once."""
    try:
        return html.unescape(text)
    except ValueError:  # more digits than Python reads as a number; no character has so many
        return html.unescape(_LONG_REFERENCE.sub("\ufffd", text))


def may_have_markup(text: str) -> bool:
    """Tell quickly whether it is worth a closer look: most texts have nothing that tags or short codes have."""
    return "<" in text or "[" in text or ("&" in text and "lt;" in text)


def has_markup(text: str) -> bool:
    """Tell whether a text has tags that HTML knows, plain or escaped, or short codes."""
    return may_have_markup(text) and (_with_tags(text) is not None or _without_short_codes(text) != text)


def plain_text(text: str, literal_breaks: bool = False) -> str | None:
    r"""Return the text without its markup; None if it has none.

    Args:
        literal_breaks: The two characters `\n` are a line break, as they are anyway in a text with tags.
    """
    bare = _without_short_codes(text) if "[" in text else text
    tagged = _with_tags(bare)
    if tagged is None and bare == text and not (literal_breaks and _LITERAL_BREAK.search(text)):
        return None
    marks = re.sub(r"\s+", lambda found: _BLOCK if _BLOCK in found[0] else " ", bare if tagged is None else tagged)
    if tagged is not None or literal_breaks:
        marks = _LITERAL_BREAK.sub(_LINE, marks)
    return _sentences(unescape(marks) if tagged is None else _parsed(marks))


def _with_tags(text: str) -> str | None:
    """Return a text whose tags are tags, however often they were escaped; None if there are none."""
    for _ in range(4):
        if "<" in text and _TAG.search(text):
            return text
        if "lt;" not in text or not _ESCAPED.search(text):
            break
        text = unescape(text)
    return None


def _without_short_codes(text: str) -> str:
    """Replace WordPress's short codes by marks: those with attributes, with a closing one, or of a page builder."""
    if not (found := {(slash, name) for slash, name, _ in _SHORT_CODE.findall(text)}):
        return text

    def replaced(code: re.Match[str]) -> str:
        _, name, attributes = code.groups()
        pair = ("", name) in found and ("/", name) in found
        return _BLOCK if pair or "=" in attributes or name.lower().startswith(_BUILDERS) else code[0]

    return _SHORT_CODE.sub(replaced, text)


def _parsed(text: str) -> str:
    """Return the text of some HTML as a browser shows it, with marks where elements end."""
    from selectolax.lexbor import LexborHTMLParser

    text = text.replace("<![CDATA[", " ").replace("]]>", " ")
    if (begin := text.rfind("<!--")) > text.rfind("-->"):
        text = text[:begin] + text[begin + 4 :]  # the parser would take the rest for a comment
    text = _NO_TAG.sub("&lt;", text)
    lowered = text.lower()
    text = _HIDDEN_TAG.sub(lambda tag: tag[0] if f"</{tag[1].lower()}" in lowered else f"&lt;{tag[1]}", text)
    if _deep(text):
        return unescape(_ANY_TAG.sub(_BLOCK, text))
    tree = LexborHTMLParser(text)
    tree.strip_tags(list(_HIDDEN))
    for names, before, after in (
        (_BLOCKS, _BLOCK, _BLOCK), (("ul", "ol", "dd"), _LIST, ""), (("li", "dt", "dd", "tr", "option"), _ITEM, ""),
        (("br",), _LINE, ""), (("td", "th"), " ", " "),
    ):  # fmt: skip
        for node in tree.css(",".join(names)):
            node.insert_before(before)
            if after:
                node.insert_after(after)
    return tree.root.text()


def _deep(text: str) -> bool:
    """Tell whether elements are nested so deeply that a parser would take minutes: its time grows with the square."""
    if (tags := text.count("<")) < 500:
        return False
    opened, depth, deepest = Counter(), 0, 0
    for slash, name in _TAG_NAME.findall(text.lower()):
        if name not in _SHALLOW and (not slash or opened[name]):
            step = -1 if slash else 1
            opened[name] += step
            depth += step
            deepest = max(deepest, depth)
    return deepest * tags > 1_000_000


def _sentences(text: str) -> str:
    """Put a full stop, a semicolon or nothing where the marks are."""
    done, marks = [], ""
    for place, piece in enumerate(_MARKS.split(text)):
        if place % 2:
            marks += piece
        elif piece := piece.strip():
            done += [_joint(done[-1], marks, piece) if done else "", piece]
            marks = ""
    return "".join(done)


def _joint(before: str, marks: str, after: str) -> str:
    ended = before.rstrip(_CLOSING)[-1:] in _ENDS
    if ended or after[0] in _BULLETS or (marks == _LINE and after[0].islower()):
        return " "
    if _ITEM in marks:
        return ": " if _LIST in marks else "; "
    return ". "
