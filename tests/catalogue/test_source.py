"""Which files are a catalogue, the errors for all others, and what damage costs."""

import bz2
import codecs
import gzip
import io
import json
import random
import zipfile

import pytest
from catalogues import configured, prepared, written

from tc3lib import catalogue, settings
from tc3lib.catalogue import json_rows, source
from tc3lib.catalogue.rows import LINE_BYTES, Columns
from tc3lib.errors import Tc3Error

LINE = b'{"uid": "a", "title": "Mug", "content": "A mug."}\n'
OTHER = '{"uid": "b", "title": "Café", "content": "A pão de queijo."}\n'.encode()


def test_the_catalogue_is_the_users_then_gzip_then_zip_then_the_embedded_one(tmp_path):
    config = settings.get("tiny")
    assert source.find(config, tmp_path) == settings.EMBEDDED / "trn.json"
    for name in ("trn.json.zip", "trn.json.gz", "trn.json"):
        (tmp_path / name).touch()
        assert source.find(config, tmp_path) == tmp_path / name
    (tmp_path / "mine.jsonl").touch()
    assert source.find(config.change(source=str(tmp_path / "mine.jsonl")), tmp_path / "work") == tmp_path / "mine.jsonl"


@pytest.mark.parametrize(
    ("preset", "name"), [("llama3_8b", "trn.json"), ("tiny", "mine.json"), ("tiny", "x" * 300), ("tiny", "a\0b")]
)
def test_a_missing_catalogue_is_named_and_not_replaced_by_the_embedded_one(tmp_path, preset, name):
    with pytest.raises(Tc3Error, match=rf"no {name} in .*: put your catalogue there .*`title` and `content`"):
        source.find(settings.get(preset).change(source=name), tmp_path)
    with pytest.raises(Tc3Error, match=r"there is no folder .*gone\. Run the settings cell again"):
        source.find(settings.get(preset).change(source=name), tmp_path / "gone")


@pytest.mark.parametrize("name", ["train.jsonl", "trn_output.json", "trn_output.uid.jsonl", "quarantine.jsonl"])
def test_a_catalogue_that_would_be_overwritten_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(LINE)
    (tmp_path / "link.json").symlink_to(tmp_path / name)
    for called in (name, "link.json"):
        with pytest.raises(Tc3Error, match=rf"would overwrite the catalogue .*{called}"):
            catalogue.prepare(settings.get("tiny").change(source=called), tmp_path)
    assert (tmp_path / name).read_bytes() == LINE
    (tmp_path / "elsewhere").mkdir()
    assert source.find(configured(tmp_path / name), tmp_path / "elsewhere")


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return buffer.getvalue()


def titles(folder, content, name="trn.json", **changes):
    return prepared(written(folder, content, name), **changes).titles


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
    "a link to Google Docs": LINE.replace(b"{", b'{"url": "https://docs.google.com/x", "doc_id": 1, ') + OTHER,
    "the name of Excel's XML": LINE.replace(b"{", b'{"x": "urn:schemas-microsoft-com:office:spreadsheet", ') + OTHER,
    "array in gzip": gzip.compress(b" \n[" + LINE + b"," + OTHER + b"]"),
}


@pytest.mark.parametrize("name", PACKINGS)
def test_a_catalogue_is_read_however_it_is_packed(tmp_path, name):
    assert titles(tmp_path, PACKINGS[name]) == ["Mug", "Café"]


@pytest.mark.parametrize("name", ["trn.json.gz", "trn.zip", "trn.jsonl", "trn"])
def test_the_bytes_tell_the_packing_and_not_the_name(tmp_path, name):
    assert titles(tmp_path, gzip.compress(LINE), name) == ["Mug"]


QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>Sorry.</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2000000000\n"
REFUSED = {
    "empty": (b"", "is empty: copy or download it again"),
    "empty in gzip": (gzip.compress(b""), "is empty"),
    "UTF-16": (LINE.decode().encode("utf-16"), "is UTF-16 text; expected UTF-8. Save it again"),
    "UTF-16 without a mark": (LINE.decode().encode("utf-16-le"), "is UTF-16 text"),
    "UTF-16, big end first": (codecs.BOM_UTF16_BE + LINE.decode().encode("utf-16-be"), "is UTF-16 text"),
    "zeros, of a copy that was broken off": (bytes(5000), "JSON is malformed"),
    "UTF-32": (LINE.decode().encode("utf-32"), "is UTF-32 text"),
    "HTML": (QUOTA, "is an HTML page with the title 'google drive - quota exceeded', not a catalogue"),
    "HTML in gzip": (gzip.compress(b"\n " + QUOTA), "is an HTML page"),
    "HTML without a title": (b"\xef\xbb\xbf<html>x", "is an HTML page, not a catalogue"),
    "LFS": (LFS, "is a Git LFS pointer, not the file it stands for: fetch that with `git lfs pull`"),
    "bzip2": (bz2.compress(LINE), "is a bzip2 file; expected JSON Lines, plain or in gzip or zip. Unpack it first"),
    "SQLite": (b"SQLite format 3\0" + bytes(99), "is an SQLite database: export the products as JSON Lines, CSV or"),
    "PDF": (b"%PDF-1.7\n", "is a PDF file: export the products"),
    "zip without a catalogue": (zipped(readme_txt=b"x"), "zip file with 0 catalogues in it; .* It holds 'readme.txt'"),
    "zip with two": (zipped(a_json=LINE, b_json=LINE), "zip file with 2 catalogues in it"),
    "zip with nothing": (zipped(trn_json=b""), "is empty"),
    "zip cut short": (zipped(trn_json=LINE * 99)[:-30], "is a zip file that cannot be opened"),
    "gzip cut short": (gzip.compress(b"".join(LINE.replace(b"u", b"%d" % n) for n in range(99)))[:-12], "damaged gzip"),
    "gzip with another sum": (gzip.compress(LINE)[:-6] + b"xxxxxx", "damaged gzip file .*Copy or download it again"),
    "gzip, spoilt inside": (gzip.compress(LINE * 9)[:20] + b"x" * 20 + gzip.compress(LINE * 9)[40:], "damaged gzip"),
    "gzip in gzip": (gzip.compress(gzip.compress(LINE)), "is packed more than once; expected gzip, zip"),
    "only white space": (b" \n\n", "has no row with a title and a content in 2 lines"),
    "CSV without a header": (b"Mug,A mug.\n", "has no row .* expected JSON Lines such as .* The first: .*\"line\":1,"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_named(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(Tc3Error, match=rf"trn\.json.*{message}") as caught:
        titles(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["trn.json"]


def test_a_zip_with_a_password_is_named(tmp_path):
    content = bytearray(zipped(trn_json=LINE))
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + flags] |= 1
    with pytest.raises(Tc3Error, match=r"is a zip file with a password: unpack it, and give the path of the catalogue"):
        titles(tmp_path, bytes(content))


def test_a_zip_of_any_method_with_a_damaged_byte_is_named(tmp_path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("trn.json", LINE * 2000)
        content = bytearray(buffer.getvalue())
        content[80] ^= 0xFF
        with pytest.raises(Tc3Error, match="is a damaged zip file"):
            titles(tmp_path, bytes(content))


def test_a_folder_and_a_file_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    with pytest.raises(Tc3Error, match=r"is a folder: give the path of the catalogue's file"):
        catalogue.prepare(configured(tmp_path), tmp_path)
    with (
        pytest.raises(Tc3Error, match=r"cannot read .*trn\.json: No such file"),
        source.opened(tmp_path / "trn.json", Columns()),
    ):
        pass

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(source, "lines", fail)
    with pytest.raises(Tc3Error, match=r"cannot read .*trn\.json: Input/output error\."):
        titles(tmp_path, LINE)


DAMAGED = {
    "invalid UTF-8": b'{"title": "a\xff", "content": "b"}',
    "UTF-8 of a surrogate": b'{"title": "a\xed\xa0\x80", "content": "b"}',
    "a lone surrogate": b'{"title": "a", "content": "\\ud800"}',
    "a lone surrogate in another key": b'{"title": "a", "content": "b", "x": "\\udc00"}',
    "NUL": b'{"title": "a\x00", "content": "b"}',
    "many NULs": b"\x00" * 4096,
    "an object as title": b'{"title": {}, "content": "b"}',
    "an array of arrays as content": b'{"title": "a", "content": [["b"]]}',
    "null": b"null",
    "an array": b'["a", "b"]',
    "a string": b'"a"',
    "two objects": LINE[:-1] + LINE[:-1],
    "two objects with a comma": LINE[:-1] + b", " + LINE[:-1],
    "deep nesting": b'{"title": "a", "content": "b", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "cut short": LINE[:20],
    "text": b"hello",
    "Python's notation of an object": b"{'title': 'a', 'content': datetime(2024, 5, 1)}",
    "a trailing comma": b'{"title": "a", "content": "b",}',
    "a raw tab": b'{"title": "a\t", "content": "b"}',
    "a byte order mark": codecs.BOM_UTF8 + LINE[:-1],
    "a very long number as uid": b'{"title": "a", "content": "b", "uid": ' + b"9" * 5000 + b"}",
    "an over-long line": b'{"title": "a", "content": "' + b"x" * LINE_BYTES + b'"}',
    "an over-long line of quotes": b'"' * (LINE_BYTES + 1),
}


@pytest.mark.parametrize(
    ("name", "count"), [*((name, 1) for name in DAMAGED), ("an over-long line", 2), ("invalid UTF-8", 2)]
)
def test_a_damaged_line_costs_itself_alone(tmp_path, name, count):
    found = prepared(written(tmp_path, LINE * 3 + DAMAGED[name] + b"\n" + OTHER), max_damaged=1, workers=count)
    assert found.titles == ["Mug"] * 3 + ["Café"]
    (row,) = found.quarantine
    assert (row["line"], row["offset"]) == (4, 3 * len(LINE))
    assert row["reason"]


VALID = ("UTF-8 of a surrogate", "an object as title", "an array of arrays as content", "null", "an array", "a string")
VALID += ("invalid UTF-8",)


@pytest.mark.parametrize("name", VALID)
def test_an_element_that_is_no_product_costs_itself_alone(tmp_path, name):
    content = b"[" + b",\n".join([LINE[:-1], DAMAGED[name], OTHER[:-1]]) + b"]"
    found = prepared(written(tmp_path, content), max_damaged=1)
    assert found.titles == ["Mug", "Café"]
    assert [(row["line"], row["offset"]) for row in found.quarantine] == [(2, len(LINE) + 2)]


N = len(LINE)
ARRAYS = {
    "cut short between two": (b"[" + LINE + b"," + OTHER, "the array is not closed", 2 + N + len(OTHER)),
    "cut short in one": (b"[" + LINE + b"," + OTHER[:-9], "the array is not closed", 2 + N + len(OTHER) - 9),
    "no comma": (b"[" + LINE + b"," + LINE + OTHER + b"]", "JSON is malformed: expected ',' or ']'", 2 + 2 * N),
    "a byte order mark": (codecs.BOM_UTF8 + b"[" + LINE + b",x]", "JSON is malformed: invalid character", 5 + N),
    "text after it": (b"[" + LINE + b"]\nhello", "JSON is malformed: trailing characters", 3 + N),
    "a comma too many": (b"[" + LINE + b",]", "JSON is malformed: trailing comma in array", 2 + N),
    "in gzip": (gzip.compress(b"[" + LINE + b",{]"), "JSON is malformed: expected '\"'", 3 + N),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_a_damaged_array_is_one_error_that_names_byte_and_line(tmp_path, name):
    content, reason, byte = ARRAYS[name]
    with pytest.raises(Tc3Error) as caught:
        titles(tmp_path, content)
    text = gzip.decompress(content) if name == "in gzip" else content
    line = text.count(b"\n", 0, byte) + 1
    assert f"trn.json is a damaged JSON array: {reason} at byte {byte:,}, in line {line}. Fix it" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["trn.json"]
    with pytest.raises(Tc3Error, match="is a damaged JSON array: nested too deeply"):
        titles(tmp_path, b"[" + LINE + b"," + b"[" * 100_000)


@pytest.mark.parametrize("first", [b"[broken", b"[1, 2", b"[1, 2]", b"[{", b"]", b"[]"])
def test_lines_after_a_first_one_that_looks_like_an_array_are_kept(tmp_path, first):
    assert titles(tmp_path, first + b"\n" + LINE * 5, max_damaged=1) == ["Mug"] * 5


def test_other_keys_are_skipped_without_being_built(tmp_path):
    """A number with 50,000 digits cannot be built within Python's limit for such conversions."""
    line = LINE.replace(b"}", b', "target_ind": [' + b"9" * 50_000 + b"]}")
    assert titles(tmp_path, line) == titles(tmp_path, b"[" + line + b"]") == ["Mug"]


def test_ranges_give_what_the_whole_file_gives_wherever_it_is_cut(tmp_path, monkeypatch):
    """Each line lies in the one range in which it begins, over-long ones too, for any size of block."""
    monkeypatch.setattr(json_rows, "LINE_BYTES", 20)
    draw = random.Random(0)
    for _ in range(300):
        start = draw.choice([0, 3])
        content = b"#" * start + b"".join(
            b"x" * draw.choice([0, 1, 5, 19, 20, 21, 22, 60]) + draw.choice([b"\n", b"\r\n", b"\n\n"])
            for _ in range(draw.randrange(1, 12))
        )
        content += b"y" * draw.choice([0, 0, 3, 20, 21])
        monkeypatch.setattr(json_rows, "BLOCK_BYTES", draw.choice([1, 2, 7, 19, 20]))
        plain, offset = [], start
        for line in io.BytesIO(content[start:]).readlines():
            plain.append((offset, b"" if len(line.removesuffix(b"\n")) > 20 else line))
            offset += len(line)

        def lines(begin, end, content=content, start=start):
            for offset, block in json_rows.blocks(io.BytesIO(content), max(begin, start), end, skip=begin > start):
                yield from ((offset, line) for _, offset, line in json_rows.numbered(block, 1, offset))

        assert list(lines(0, None)) == plain
        cuts = sorted({0, *(draw.randrange(1, len(content) + 1) for _ in range(draw.randrange(6)))})
        ranges = zip(cuts, [*cuts[1:], None], strict=True)
        assert [line for begin, end in ranges for line in lines(begin, end)] == plain


def test_a_range_within_one_long_line_reads_little_more_than_itself(monkeypatch):
    monkeypatch.setattr(json_rows, "BLOCK_BYTES", 10)
    file = io.BytesIO(b"{}\n" + b"x" * 10_000 + b"\n{}\n")
    assert list(json_rows.blocks(file, 500, 1000, skip=True)) == []
    assert file.tell() <= 1020
    assert list(json_rows.blocks(file, 9_990, None, skip=True)) == [(10_004, [b"{}\n"])]


@pytest.mark.parametrize(
    "line",
    [
        b'{"title": "a' + "\u0301".encode() * 250_000 + "\u0323".encode() * 250_000 + b'", "content": "b"}',
        b'{"title": "' + b"&#" + b"1" * 5000 + b';", "content": "b"}',
    ],
    ids=["marks", "digits"],
)
def test_what_would_take_quadratic_time_ends(tmp_path, line):
    """Each of these took minutes, or stopped the program, where time was not linear."""
    assert len(titles(tmp_path, LINE * 20 + line, max_damaged=1)) >= 20


def test_random_arrays_are_what_json_says(tmp_path):
    draw = random.Random(0)
    texts = ["plain", 'quo"te', "},{", "]", "[", "\\", "\n", "é😀", '"}, {"title": "x"']
    for layout in range(12):
        rows = [
            {
                "uid": str(number),
                "x": [{"y": draw.choice(texts)}, [], {}],
                "title": f"Mug {number}" if number % 50 else None if number else {},
                "content": draw.choice(texts) * draw.choice([1, 3, 2000]) + ".",
            }
            for number in range(300)
        ]
        text = json.dumps(rows, indent=[None, 1, 4][layout % 3], ensure_ascii=layout % 2 == 0)
        text = text.replace("\n", "\r\n") if layout % 4 == 3 else text
        content = codecs.BOM_UTF8 * (layout > 5) + text.encode()
        found = prepared(written(tmp_path, content), max_damaged=0.1)
        assert found.titles == [row["title"] for row in rows if row["title"]]
        (row,) = found.quarantine
        assert content[row["offset"] :].startswith(b"{")
        assert content.count(b"\n", 0, row["offset"]) + 1 == row["line"]
