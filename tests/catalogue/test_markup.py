"""HTML becomes the text that a browser shows, in sentences; text that is none stays as it is to the letter."""

import pytest

from tc3lib.catalogue.cleaning import clean_text
from tc3lib.catalogue.markup import has_markup, plain_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>Holds <strong>2</strong> l.</p>", "Holds 2 l."),
        ("<p>&nbsp;</p>", ""),
        ("<p></p>", ""),
        ("&lt;p&gt;Holds 2 l.&lt;/p&gt;", "Holds 2 l."),
        ("&amp;lt;p&amp;gt;Tom &amp;amp;amp; J&amp;lt;/p&amp;gt;", "Tom & J"),
        ("<p>Tom &amp;amp; caf&eacute; it&#x92;s</p>", "Tom &amp; café it’s"),
        ("<p>One</p>\n<p>Two “quoted.”</p><p>Three</p>", "One. Two “quoted.” Three"),
        ("<div><p>One</p>two</div>", "One. two"),
        ("<h2>Features</h2><ul><li>Steel</li><li>2 l</li></ul><p>Nice</p>", "Features: Steel; 2 l. Nice"),
        ("<p>With:</p><ul>\\n<li><p>A lid.</p></li>\\n<li>A cup</li></ul>", "With: A lid. A cup"),
        ("<p>Colours</p><ol><li>warm<ul><li>red<li>brown</ul><li>blue</ol>", "Colours: warm: red; brown; blue"),
        ("Colour: red<br>Size: L<br />a very<br>nice mug", "Colour: red. Size: L a very nice mug"),
        ("<b>Mug</b>\\nBlack\\\\nickel", "Mug. Black\\\\nickel"),
        ("<table><tr><th>Weight</th><td>2 kg</td></tr><tr><td>Size</td><td>L</td></tr></table>end",
         "Weight 2 kg; Size L. end"),
        ("<dl><dt>Weight</dt><dd>2 kg</dd><dt>Size<dd>L</dl>", "Weight: 2 kg; Size: L"),
        ("<p>&bull; Steel<br>• Black</p>", "• Steel • Black"),
        ("<html><head><title>t</title><style>p{}</style></head><body>a <script>1</script>b</body></html>", "a b"),
        ("<p>Use List<String>, x<3 & a < b, Tom & Jerry</p>", "Use List<String>, x<3 & a < b, Tom & Jerry"),
        ("<p>Use &lt;p&gt; and the <title> tag</p>", "Use <p> and the <title> tag"),
        ("a<!-- b --><!--[if mso]>c<![endif]--><p>d</p>", "a. d"),
        ("a<!-- open <b>c</b>", "a open c"),
        ("<![CDATA[<p>a</p>]]>", "a"),
        ("<o:p></o:p><p class=MsoNormal>w</p>", "w"),
        ("Great <strong>steel <em>mug", "Great steel mug"),
        ('<a href="x">A mug</a> cut in a <spa', "A mug cut in a <spa"),
        ('[vc_row][vc_column width="1/2"]Steel mug[/vc_column][/vc_row]', "Steel mug"),
        ('[caption id="a_1" width="300"]<img src="x"> A mug[/caption]', "A mug"),
        ('A mug [gallery ids="1,2" link="file"]', "A mug"),
        ('A mug [contact-form-7 id="5" title="Ask us"]', "A mug"),
        ("[et_pb_text]A &amp; b[/et_pb_text]", "A & b"),
    ],
)  # fmt: skip
def test_markup_becomes_text(text, expected):
    assert clean_text(text) == expected
    assert has_markup(text)


@pytest.mark.parametrize(
    "text",
    [
        "ages 2-8", "<3", "a < b", "Tom & Jerry", "List<String>", "a<b>c", "List<Button> and Map<K, V>", "p<0.05",
        "mail <me@example.org>, see <http://example.org>", "Usage: tool <title> <source>", "<b>", "if <p or q> then",
        "[1] [sic] [DVD] arr[i] x[my_index] see [/etc]", "C:\\new\\names", "two\\nlines", "[Vinyl]",
        "Kit [Cor = Azul]", "Dress [size M, color=red] new", "a [b = c] d",
    ],
)  # fmt: skip
def test_text_that_is_no_markup_stays_to_the_letter(text):
    assert clean_text(text) == text
    assert plain_text(text) is None
    assert not has_markup(text)


def test_literal_line_breaks_are_breaks_where_the_file_has_them():
    assert clean_text("Steel\\nBlack, 2 &lt; 3\\r\\nwith lid", literal_breaks=True) == "Steel. Black, 2 < 3 with lid"
    assert clean_text("no break: a\\\\nb", literal_breaks=True) == "no break: a\\\\nb"


@pytest.mark.parametrize(
    "piece",
    ["<div>", "<p>a</p>", "<b>", "<ul><li>", "&nbsp;", "<", "<a ", "[a", "[a =", "&amp;", "<!--", "<title>", "[a][/a]"],
)
def test_endless_markup_takes_no_endless_time(piece):
    """Each of these, or a parser for it, takes minutes where time grows with the square."""
    assert len(clean_text("<p>" + piece * (200_000 // len(piece)) + "x")) < 210_000
    assert len(clean_text(piece + " " * 200_000 + "=" * 200_000)) < 210_000
