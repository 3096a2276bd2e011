"""The report as a person sees it: on a phone and on a desk, light and dark, on paper, with hostile texts."""

from pathlib import Path

import pytest
from reports import example_report, filled

from tc3lib.evaluation.report import render

LOSS = Path(__file__).parents[2] / "docs" / "loss.png"
SCRIPT = "<script>document.title='owned'</script>"
IMAGE = """<img src=x onerror="document.title='owned'">"""

# The lowest contrast (WCAG 2) of any text that is seen, with that text.
CONTRAST = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => {
    const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = channels(colour).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  document.querySelectorAll("details").forEach((node) => node.open = true);
  const seen = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.getClientRects().length) continue;
    const [a, b] = [getComputedStyle(node).color, behind(node)].map(luminance);
    seen.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim()]);
  }
  return [seen.length, ...seen.sort((one, other) => one[0] - other[0])[0]];
}"""
OVERFLOW = """() => {
  document.querySelectorAll("details").forEach((node) => node.open = true);
  return document.scrollingElement.scrollWidth - window.innerWidth;
}"""


@pytest.fixture
def open_report(open_page, tmp_path):
    """Return a function that opens the page of a report, by default the example."""

    def open_report(report=None, picture=LOSS, **options):
        path = tmp_path / "report.html"
        path.write_text(render(report or example_report(), picture), encoding="utf-8")
        return open_page(path.as_uri(), **options)

    return open_report


@pytest.mark.parametrize("text", [SCRIPT, IMAGE])
def test_tags_in_texts_are_seen_and_do_nothing(open_report, text):
    page = open_report(filled(example_report(), text))
    assert page.title() == f"Before and after training: {text}"
    assert page.locator("h4").first.inner_text() == text
    assert page.locator(".text").first.inner_text() == text
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.images.length") == 1


@pytest.mark.parametrize("width", [320, 390, 740, 1280])
@pytest.mark.parametrize("text", [None, "W" * 300], ids=["example", "one long word"])
def test_the_page_never_scrolls_sideways(open_report, width, text):
    report = example_report() if text is None else filled(example_report(), text)
    page = open_report(report, width=width)
    assert page.evaluate("window.innerWidth") == width
    assert page.evaluate(OVERFLOW) <= 0


@pytest.mark.parametrize("width", [390, 1280])
def test_light_and_dark_differ_and_every_text_can_be_read(open_report, width):
    grounds = set()
    for scheme in ("light", "dark"):
        page = open_report(width=width, scheme=scheme)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        count, lowest, text = page.evaluate(CONTRAST)
        assert count > 200
        assert lowest >= 4.5, text
    assert len(grounds) == 2


def test_the_picture_shows_and_nothing_is_asked_for(open_report):
    page = open_report()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    assert [address for address in asked if not address.startswith("data:")] == [page.url]
    assert page.evaluate("[...document.images].map((image) => image.naturalWidth > 0)") == [True]


@pytest.mark.parametrize(("width", "columns"), [(390, 1), (1280, 3)])
def test_answers_are_side_by_side_on_a_desk_and_stacked_on_a_phone(open_report, width, columns):
    sides = open_report(width=width).locator("article").first.locator(".sides > div")
    boxes = [sides.nth(place).bounding_box() for place in range(3)]
    assert len({round(box["x"]) for box in boxes}) == columns
    assert len({round(box["y"]) for box in boxes}) == 4 - columns


def test_scores_are_a_table_to_a_screen_reader_on_a_phone_too(open_report):
    page = open_report(width=390)
    table = page.get_by_role("table", name="Held-out rows 128")
    assert table.get_by_role("columnheader").count() == 5
    assert table.get_by_role("row").count() == 13
    row = table.get_by_role("row").nth(1)
    assert row.get_by_role("rowheader").count() == 1
    assert row.get_by_role("cell").all_inner_texts()[:2] == ["2.4127", "1.9354"]
    assert row.get_by_role("cell").first.evaluate("node => getComputedStyle(node, '::before').content") == '"Before"'


def test_long_texts_scroll(open_report):
    text = open_report().locator("article").first.locator(".text").first
    assert text.evaluate("node => node.scrollHeight > node.clientHeight")
    assert text.bounding_box()["height"] < 450


def test_on_paper_it_is_light_and_nothing_is_folded_or_cut(open_report):
    page = open_report(scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(32, 32, 30)"
    assert page.locator("nav").is_hidden()
    for facts in page.locator("details .facts").all():
        assert facts.bounding_box()["height"] > 0
        assert facts.is_visible()
    assert page.evaluate(
        "[...document.querySelectorAll('.text')].every((node) => node.scrollHeight <= node.clientHeight)"
    )


def test_a_report_without_answers_records_and_picture_has_no_fault(open_report):
    bare = {"answers": {"best": [], "worst": [], "most_changed": [], "demo": []}, "plan": {}, "data": {}, "gpu": None}
    page = open_report(example_report() | bare, LOSS.with_name("none.png"), width=390)
    assert page.evaluate(OVERFLOW) <= 0
    assert page.get_by_text("No picture:").is_visible()
