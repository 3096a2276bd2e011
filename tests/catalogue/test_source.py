"""What a catalogue may look like, and what is said of everything else."""

import bz2
import codecs
import gzip
import io
import json
import random
import zipfile

import pytest

from tc3lib.catalogue import json_rows as blocks
from tc3lib.catalogue import prepare as data
from tc3lib.catalogue import source as sources
from tc3lib.errors import Tc3Error

LINE = b'{"uid": "a", "title": "Mug", "content": "A mug."}\n'
OTHER = '{"uid": "b", "title": "Café", "content": "A pão de queijo."}\n'.encode()


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return buffer.getvalue()


def kept(folder, content, name="trn.json", **settings):
    """Prepare a file of these bytes and return the kept titles."""
    (folder / name).write_bytes(content)
    data.prepare(folder / name, folder / "out.json", **settings)
    return [json.loads(line)["input_text"] for line in (folder / "out.json").read_bytes().splitlines()]


PACKINGS = {
    "lines": LINE + OTHER,
    "no last newline": (LINE + OTHER)[:-1],
    "CRLF": (LINE + OTHER).replace(b"\n", b"\r\n"),
    "CRLF without the last": (LINE + OTHER).replace(b"\n", b"\r\n")[:-2],
    "byte order mark": codecs.BOM_UTF8 + LINE + OTHER,
    "gzip": gzip.compress(LINE + OTHER),
    "gzip in two members": gzip.compress(LINE) + gzip.compress(OTHER),
    "gzip of lines with a byte order mark": gzip.compress(codecs.BOM_UTF8 + LINE + OTHER),
    "zip": zipped(readme_txt=b"x", trn_json=LINE + OTHER),
    "zip with a folder": zipped(amazon__trn_json=LINE + OTHER, amazon__tst_json=LINE),
    "gzip in zip": zipped(amazon__trn_json_gz=gzip.compress(LINE + OTHER), amazon__tst_json_gz=b"x"),
    "zip with another name": zipped(products_jsonl=LINE + OTHER),
    "array": b"[" + LINE + b"," + OTHER + b"]",
    "array, one element a line": b"[\n" + LINE[:-1] + b",\n" + OTHER + b"]\n",
    "array on one line": b"[" + LINE[:-1] + b", " + OTHER[:-1] + b"]",
    "array, indented": json.dumps([json.loads(LINE), json.loads(OTHER)], indent=4).encode(),
    "array, indented, with a byte order mark and CRLF": codecs.BOM_UTF8
    + json.dumps([json.loads(LINE), json.loads(OTHER)], indent=1).replace("\n", "\r\n").encode(),
    "array in gzip": gzip.compress(b" \n[" + LINE + b"," + OTHER + b"]"),
}


@pytest.mark.parametrize("name", PACKINGS)
def test_a_catalogue_is_read_however_it_is_packed(tmp_path, name):
    assert kept(tmp_path, PACKINGS[name], max_damaged=0) == ["Mug", "Café"]


@pytest.mark.parametrize("name", ["trn.json.gz", "trn.zip", "trn.jsonl", "trn"])
def test_the_bytes_tell_the_packing_and_not_the_name(tmp_path, name):
    assert kept(tmp_path, gzip.compress(LINE), name) == ["Mug"]


QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>Sorry.</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2000000000\n"
REFUSED = {
    "empty": (b"", "is empty: copy or download it again"),
    "empty in gzip": (gzip.compress(b""), "is empty"),
    "UTF-16": (LINE.decode().encode("utf-16"), "is UTF-16 text; expected UTF-8. Save it again"),
    "UTF-16 without a mark": (LINE.decode().encode("utf-16-le"), "is UTF-16 text"),
    "UTF-16, big end first": (codecs.BOM_UTF16_BE + LINE.decode().encode("utf-16-be"), "is UTF-16 text"),
    "UTF-32": (LINE.decode().encode("utf-32"), "is UTF-32 text"),
    "HTML": (QUOTA, "is an HTML page with the title 'google drive - quota exceeded', not a catalogue"),
    "HTML in gzip": (gzip.compress(b"\n " + QUOTA), "is an HTML page"),
    "HTML without a title": (b"\xef\xbb\xbf<html>x", "is an HTML page, not a catalogue"),
    "LFS": (LFS, "is a Git LFS pointer, not the file it stands for: fetch that with `git lfs pull`"),
    "bzip2": (bz2.compress(LINE), "is a bzip2 file; expected JSON Lines, plain or in gzip or zip. Unpack it first"),
    "zip without a catalogue": (zipped(readme_txt=b"x"), "zip file with 0 catalogues in it; .* It holds 'readme.txt'"),
    "zip with two": (zipped(a_json=LINE, b_json=LINE), "zip file with 2 catalogues in it"),
    "zip with nothing": (zipped(trn_json=b""), "is empty"),
    "zip cut short": (zipped(trn_json=LINE * 99)[:-30], "is a zip file that cannot be opened"),
    "gzip cut short": (gzip.compress(b"".join(LINE.replace(b"u", b"%d" % n) for n in range(99)))[:-12], "damaged gzip"),
    "gzip with another sum": (gzip.compress(LINE)[:-6] + b"xxxxxx", "damaged gzip file .*Copy or download it again"),
    "gzip, spoilt inside": (gzip.compress(LINE * 9)[:20] + b"x" * 20 + gzip.compress(LINE * 9)[40:], "damaged gzip"),
    "only white space": (b" \n\n", "has no row with a title and a content in 2 lines"),
    "CSV without a header": (b"Mug,A mug.\n", "has no row .* expected JSON Lines such as .* The first: .*\"line\":1,"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_catalogue_is_named(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(Tc3Error, match=rf"trn\.json.*{message}") as caught:
        kept(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["trn.json"]


def test_a_zip_with_a_password_is_named(tmp_path):
    content = bytearray(zipped(trn_json=LINE))
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + flags] |= 1
    with pytest.raises(Tc3Error, match=r"is a zip file that cannot be opened \(.*encrypted"):
        kept(tmp_path, bytes(content))


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(Tc3Error, match=r"is a folder: give the path of the catalogue's file"):
        data.prepare(tmp_path, tmp_path / "out.json")
    with pytest.raises(Tc3Error, match=r"no file .*trn\.json: expected JSON Lines"):
        data.prepare(tmp_path / "trn.json", tmp_path / "out.json")


DAMAGED = {
    "invalid UTF-8": b'{"title": "a\xff", "content": "b"}',
    "UTF-8 of a surrogate": b'{"title": "a\xed\xa0\x80", "content": "b"}',
    "a lone surrogate": b'{"title": "a", "content": "\\ud800"}',
    "a lone surrogate in another key": b'{"title": "a", "content": "b", "x": "\\udc00"}',
    "NUL": b'{"title": "a\x00", "content": "b"}',
    "many NULs": b"\x00" * 4096,
    "a number": b'{"title": 1, "content": "b"}',
    "an array as content": b'{"title": "a", "content": ["b"]}',
    "null": b"null",
    "an array": b'["a", "b"]',
    "a string": b'"a"',
    "a missing key": b'{"title": "a"}',
    "two objects": LINE[:-1] + LINE[:-1],
    "two objects with a comma": LINE[:-1] + b", " + LINE[:-1],
    "deep nesting": b'{"title": "a", "content": "b", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "cut short": LINE[:20],
    "text": b"hello",
    "NaN": b'{"title": "a", "content": "b", "x": NaN}',
    "single quotes": b"{'title': 'a', 'content': 'b'}",
    "a trailing comma": b'{"title": "a", "content": "b",}',
    "a raw tab": b'{"title": "a\t", "content": "b"}',
    "a byte order mark": codecs.BOM_UTF8 + LINE[:-1],
    "an object as uid": b'{"title": "a", "content": "b", "uid": {}}',
    "a very long number as uid": b'{"title": "a", "content": "b", "uid": ' + b"9" * 5000 + b"}",
    "an over-long line": b'{"title": "a", "content": "' + b"x" * blocks.LINE_BYTES + b'"}',
    "an over-long line of quotes": b'"' * (blocks.LINE_BYTES + 1),
}


@pytest.mark.parametrize(
    ("name", "count"), [*((name, 1) for name in DAMAGED), ("an over-long line", 2), ("invalid UTF-8", 2)]
)
def test_a_damaged_line_costs_itself_alone(tmp_path, name, count):
    content = LINE * 3 + DAMAGED[name] + b"\n" + OTHER
    assert kept(tmp_path, content, max_damaged=1, workers=count) == ["Mug"] * 3 + ["Café"]
    (row,) = map(json.loads, (tmp_path / "quarantine.jsonl").read_bytes().splitlines())
    assert (row["line"], row["offset"]) == (4, 3 * len(LINE))
    assert row["reason"]


@pytest.mark.parametrize("name", [name for name in DAMAGED if not name.startswith(("two objects", "a byte order"))])
def test_a_damaged_element_costs_itself_alone(tmp_path, name):
    content = b"[" + b",\n".join([LINE[:-1], DAMAGED[name], OTHER[:-1]]) + b"]"
    assert kept(tmp_path, content, max_damaged=1) == ["Mug", "Café"]
    rows = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_bytes().splitlines()]
    assert rows[0]["line"] == 2
    assert rows[0]["offset"] == len(LINE) + 2


def test_an_array_that_is_cut_short_keeps_its_whole_rows(tmp_path):
    assert kept(tmp_path, b"[" + LINE + b"," + OTHER, max_damaged=1) == ["Mug", "Café"]
    assert len((tmp_path / "quarantine.jsonl").read_bytes().splitlines()) == 1
    assert kept(tmp_path, b"[" + LINE + b"," + OTHER[:-5], max_damaged=1) == ["Mug"]


def test_lines_of_which_the_first_is_an_array_are_lines(tmp_path):
    assert kept(tmp_path, b"[1, 2]\n" + LINE * 2, max_damaged=1) == ["Mug"] * 2


def test_other_keys_are_passed_over_without_being_built(tmp_path):
    """A number with 50,000 digits cannot be built within Python's limit for such conversions."""
    line = LINE.replace(b"}", b', "target_ind": [' + b"9" * 50_000 + b"]}")
    assert kept(tmp_path, line) == ["Mug"]
    assert kept(tmp_path, b"[" + line + b"]") == ["Mug"]


def lines_of(path, start=0, end=None):
    with sources.opened(path) as source:
        found = []
        for block in source.blocks(start, end):
            positions = block.positions(1)
            found += [(offset, line, block.reason) for line, (_, offset) in zip(block.lines, positions, strict=True)]
    return found


def test_ranges_give_what_the_whole_file_gives_wherever_it_is_cut(tmp_path, monkeypatch):
    """Each line lies in the one range in which it begins, over-long ones too, for any size of block."""
    monkeypatch.setattr(blocks, "LINE_BYTES", 20)
    monkeypatch.setattr(sources, "_is_array", lambda head: False)
    draw, path = random.Random(0), tmp_path / "trn.json"
    for _ in range(300):
        content = draw.choice([b"", codecs.BOM_UTF8]) + b"".join(
            b"x" * draw.choice([0, 1, 5, 19, 20, 21, 22, 60]) + draw.choice([b"\n", b"\r\n", b"\n\n"])
            for _ in range(draw.randrange(1, 12))
        )
        content += b"y" * draw.choice([0, 0, 3, 20, 21])
        path.write_bytes(content)
        monkeypatch.setattr(blocks, "BLOCK_BYTES", draw.choice([1, 2, 7, 19, 20]))
        plain, offset = [], 3 * content.startswith(codecs.BOM_UTF8)
        for line in io.BytesIO(content[offset:]).readlines():
            too_long = len(line.removesuffix(b"\n")) > 20
            plain.append((offset, b"" if too_long else line, blocks.TOO_LONG if too_long else ""))
            offset += len(line)
        assert lines_of(path) == plain
        cuts = sorted({0, *(draw.randrange(1, len(content) + 1) for _ in range(draw.randrange(6)))})
        ranges = [*zip(cuts, [*cuts[1:], None], strict=True)]
        assert [line for start, end in ranges for line in lines_of(path, start, end)] == plain


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "trn.json").write_bytes(LINE * 9)

    def fail(self, size):
        raise OSError(5, "Input/output error")

    with sources.opened(tmp_path / "trn.json") as source:
        source.file = type("Broken", (), {"read": fail})()
        with pytest.raises(Tc3Error, match=r"cannot read .*trn\.json: Input/output error\."):
            source.read(1)


@pytest.mark.parametrize(
    "first", [b"[broken", b"[1, 2", b"[" + b"1," * 40_000 + b"1]", b"[{", b'[{"title": "x"', b"]", b"[]"]
)
@pytest.mark.parametrize("count", [1, 5])
def test_lines_after_a_first_one_that_looks_like_an_array_are_kept(tmp_path, first, count):
    assert kept(tmp_path, first + b"\n" + LINE * count, max_damaged=1) == ["Mug"] * count


@pytest.mark.parametrize(
    "between", [b"," + b"\n" * (6 << 20), b"," * (6 << 20), b" " * (3 << 20) + b"," + b" " * (3 << 20)]
)
def test_much_between_two_elements_is_passed_over(tmp_path, between):
    assert kept(tmp_path, b"[" + LINE + between + OTHER + b"]", max_damaged=0) == ["Mug", "Café"]


def report_of(folder, content):
    (folder / "trn.json").write_bytes(content)
    report = data.prepare(folder / "trn.json", folder / "out.json", max_damaged=1)
    return report.read, report.kept, report.dropped.get("damaged", 0)


def test_a_damaged_last_element_is_counted_once(tmp_path):
    good = LINE[:-1]
    assert report_of(tmp_path, b"[" + good + b"," + good + b',{"title": "b", "content": 5x}]') == (3, 2, 1)
    assert report_of(tmp_path, b"[\n" + good + b",null]") == (2, 1, 1)
    assert report_of(tmp_path, b"[" + good + b"]") == (1, 1, 0)
    assert report_of(tmp_path, b"[" + good + b",]\n") == (1, 1, 0)


def test_garbage_between_elements_costs_no_element(tmp_path):
    good = LINE[:-1]
    assert report_of(tmp_path, b"[" + good + b"x" + good + b"," + good + b"]") == (4, 3, 1)
    assert report_of(tmp_path, b"[\n" + good + b",\n{bad}\n" + good + b",\n" + good + b"]") == (4, 3, 1)
    assert report_of(tmp_path, b"[" + good + b"]\nhello") == (2, 1, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"[" + b'{"x":[1,' * 100_000 + b"]",
        b"[" + b'{"a\\", ' * 100_000 + b"{}]",
        b"[" + b"{},]," * 50_000 + b"{}]",
        b"[" + b"[" * 1_000_000,
        b"[" + b'"' * 1_000_000,
        b"[" + b'{"x":[{"y":1},' * 70_000 + b"]",
        b'{"title": "a' + "\u0301".encode() * 250_000 + "\u0323".encode() * 250_000 + b'", "content": "b"}',
        b'{"title": "' + b"&#" + b"1" * 5000 + b';", "content": "b"}',
    ],
    ids=["unclosed", "escaped quotes", "closers", "openers", "quotes", "unclosed with objects", "marks", "digits"],
)
def test_what_would_take_quadratic_time_ends(tmp_path, content):
    """Each of these took minutes, or hours, or stopped the program, where time was not linear: see that they end."""
    rows = b",".join([LINE[:-1]] * 20) if content.startswith(b"[") else LINE * 20
    end = b"," if content.startswith(b"[") else b"\n"
    (tmp_path / "trn.json").write_bytes(content[:1] * content.startswith(b"[") + rows + end + content.lstrip(b"["))
    assert data.prepare(tmp_path / "trn.json", tmp_path / "out.json", max_damaged=1).kept >= 20


def test_a_zip_of_any_method_with_a_damaged_byte_is_told(tmp_path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("trn.json", LINE * 2000)
        content = bytearray(buffer.getvalue())
        content[80] ^= 0xFF
        with pytest.raises(Tc3Error, match="is a damaged zip file"):
            kept(tmp_path, bytes(content))


def test_a_file_packed_twice_is_named(tmp_path):
    with pytest.raises(Tc3Error, match="is packed more than once"):
        kept(tmp_path, gzip.compress(gzip.compress(LINE)))


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_told(tmp_path, name):
    with pytest.raises(Tc3Error, match=r"cannot read|no file"):
        data.prepare(tmp_path / name, tmp_path / "out.json")


def element(size):
    """A product of exactly so many bytes."""
    row = b'{"title": "Long", "content": "' + b"z" * (size - 32) + b'"}'
    assert len(row) == size
    return row


L = blocks.LINE_BYTES


@pytest.mark.parametrize("separator", [b",", b",\n", b"\n,", b",\n    ", b",\r\n  "])
def test_elements_around_the_edges_of_what_is_read_at_once_are_kept(tmp_path, separator):
    good = LINE[:-1]
    for pad in range(-12, 6):
        rows = [element(L + pad), element(L), good, good]
        assert report_of(tmp_path, b"[" + separator.join(rows) + b"]") == (4, 4 - (pad > 0), int(pad > 0))
        rows = [element(2 * L + pad), good, good]
        assert report_of(tmp_path, b"[" + separator.join(rows) + b"\n]") == (3, 2, 1)
        rows = [element(4 * L - 51 + pad), element(300_000), good]
        assert report_of(tmp_path, b"[" + separator.join(rows) + b"]") == (3, 2, 1)


def test_an_over_long_last_element_is_counted_once(tmp_path):
    assert report_of(tmp_path, b"[" + LINE + b"," + element(3 * L) + b"]\n") == (2, 1, 1)


def test_random_arrays_are_what_json_says(tmp_path):
    draw = random.Random(0)
    texts = ["plain", 'quo"te', "},{", "]", "[", "\\", "\n", "é😀", '"}, {"title": "x"']
    for layout in range(12):
        rows = [
            {
                "uid": str(number),
                "x": [{"y": draw.choice(texts)}, [], {}],
                "title": f"Mug {number}",
                "content": draw.choice(texts) * draw.choice([1, 3, 2000]) + ".",
            }
            for number in range(300)
        ]
        text = json.dumps(rows, indent=[None, 1, 4][layout % 3], ensure_ascii=layout % 2 == 0)
        text = text.replace("\n", "\r\n") if layout % 4 == 3 else text
        assert report_of(tmp_path, codecs.BOM_UTF8 * (layout > 5) + text.encode()) == (300, 300, 0)
        found = [json.loads(line)["input_text"] for line in (tmp_path / "out.json").read_bytes().splitlines()]
        assert found == [row["title"] for row in rows]
