"""`prepare` under attack: the public corpora, files cut at every byte, flipped bytes.

The corpora are not in the repository: JSONTestSuite (https://github.com/nst/JSONTestSuite) and the Big List of Naughty
Strings (https://github.com/minimaxir/big-list-of-naughty-strings), in `$TC3_CORPORA` as `JSONTestSuite/test_parsing`
and `naughty-strings/blns.json`. Without them the tests' names say so.

`make attack` sets `TC3_FUZZ`, the number of flipped bytes to try.
"""

import json
import os
import random
from pathlib import Path

import pytest
from catalogues import prepared, written

from tc3lib.errors import Tc3Error
from tc3lib.prompts import encode, format_record

CORPORA = Path(os.environ.get("TC3_CORPORA") or "no TC3_CORPORA")
SUITE, NAUGHTY = CORPORA / "JSONTestSuite" / "test_parsing", CORPORA / "naughty-strings" / "blns.json"
FLIPS = int(os.environ.get("TC3_FUZZ", "3000"))

# What JSONTestSuite leaves to the reader. Text that we do not read may be anything that is between quotes; a number may
# have any size; what Python's text cannot hold (lone surrogates) and what is not UTF-8 JSON is refused.
TAKEN = {
    "i_number_double_huge_neg_exp", "i_number_huge_exp", "i_number_neg_int_huge_exp", "i_number_pos_double_huge_exp",
    "i_number_real_neg_overflow", "i_number_real_pos_overflow", "i_number_real_underflow", "i_number_too_big_neg_int",
    "i_number_too_big_pos_int", "i_number_very_big_negative_int", "i_string_UTF-8_invalid_sequence",
    "i_string_UTF8_surrogate_U+D800", "i_string_invalid_utf-8", "i_string_iso_latin_1",
    "i_string_lone_utf8_continuation_byte", "i_string_not_in_unicode_range", "i_string_overlong_sequence_2_bytes",
    "i_string_overlong_sequence_6_bytes", "i_string_overlong_sequence_6_bytes_null", "i_string_truncated-utf-8",
    "i_structure_500_nested_arrays",
}  # fmt: skip

here = [pytest.param(True, id="corpora-present")] if SUITE.is_dir() and NAUGHTY.is_file() else []
absent = [pytest.param(False, id="corpora-ABSENT", marks=pytest.mark.skip(f"no corpora in {CORPORA}"))]
with_corpora = pytest.mark.parametrize("corpora", here or absent)

GOOD = b'{"uid": "g", "title": "Good", "content": "A good row."}\n'


def prepare(folder, content, **changes):
    """Return the kept records and the report."""
    found = prepared(written(folder, content), max_damaged=1, **changes)
    return found.records, found.report


def suite(prefix):
    return {path.stem: path.read_bytes() for path in sorted(SUITE.glob(f"{prefix}_*.json"))}


def as_value(content):
    """A row in which a file of the suite is the value of a key that we do not read."""
    return b'{"title": "t", "x": ' + content + b', "content": "c"}'


def survives(folder, name, content):
    """Tell whether the row is kept as a line; the good rows around it must be."""
    kept, report = prepare(folder, GOOD + as_value(content) + b"\n" + GOOD)
    assert [record["input_text"] for record in kept if record["input_text"] != "t"] == ["Good", "Good"], name
    return report.kept == 3


@with_corpora
def test_every_valid_file_of_the_suite_is_skipped_and_its_row_kept(tmp_path, corpora):
    files = suite("y")
    assert len(files) == 95
    for content in files.values():
        assert prepare(tmp_path, b"[" + GOOD + b"," + as_value(content) + b",\n" + GOOD + b"]")[1].kept == 3
    in_lines = {name: content.replace(b"\n", b" ") for name, content in files.items()}
    assert [name for name in files if not survives(tmp_path, name, in_lines[name])] == []


@with_corpora
def test_no_row_with_an_invalid_file_of_the_suite_is_kept_as_a_line(tmp_path, corpora):
    files = suite("n")
    assert len(files) == 188
    assert [name for name in files if survives(tmp_path, name, files[name])] == []


@with_corpora
def test_what_the_suite_leaves_open_is_as_listed(tmp_path, corpora):
    files = suite("i")
    assert len(files) == 35
    assert {name for name in files if survives(tmp_path, name, files[name])} == TAKEN


@with_corpora
@pytest.mark.parametrize("ascii_only", [True, False])
def test_naughty_strings_come_through_as_strip_left_them(tmp_path, corpora, tokenizer, ascii_only):
    strings = json.loads(NAUGHTY.read_text(encoding="utf-8"))
    assert len(strings) == 515
    rows = [{"uid": str(n), "title": text, "content": text} for n, text in enumerate(strings)]
    lines = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    kept, report = prepare(tmp_path, lines.encode(), clean=False)
    expected = [text.strip() for text in strings if text.strip()]
    assert len(expected) == 513
    assert kept == [format_record(text, text) for text in expected]
    assert report.dropped == {"blank_both": 2}
    for record in kept:
        row = encode(tokenizer, record)
        ids = [token for token, learned in zip(row["input_ids"], row["completion_mask"], strict=True) if learned]
        assert tokenizer.decode(ids[:-1]) == record["response"]


def test_a_file_cut_at_any_byte_keeps_every_whole_row(tmp_path):
    rows = [
        {
            "uid": "B0",
            "title": "Café",
            "content": 'A "pão" \\ de\nqueijo 😀.',
            "target_ind": [1, 2],
            "target_rel": [1.0],
        },
        {"uid": "B1", "title": "", "content": "x"},
        {"uid": "B2", "title": "Mug", "content": "A mug &amp; more.", "x": {"y": [{}, None, True]}},
    ]
    for ascii_only in (True, False):
        lines = [json.dumps(row, ensure_ascii=ascii_only).encode() + b"\n" for row in rows]
        whole = b"".join(lines)
        ends = [len(lines[0]) - 1, len(whole) - 1]  # of the two usable rows, without their newlines
        for cut in range(1, len(whole) + 1):
            count = sum(end <= cut for end in ends)
            if not count:
                with pytest.raises(Tc3Error, match="has no row with a title and a content"):
                    prepare(tmp_path, whole[:cut])
                continue
            assert [record["input_text"] for record in prepare(tmp_path, whole[:cut])[0]] == ["Café", "Mug"][:count]


def flip(draw, content):
    """Return the bytes with one of them changed."""
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ draw.randrange(1, 256)]) + content[at + 1 :]


def test_a_flipped_byte_costs_no_other_line(tmp_path):
    """`TC3_FUZZ` flips, 50 a file: in every other row one byte is changed; the rows between must come through."""
    draw = random.Random(0)
    row = {"uid": "B1", "title": "Mug", "content": 'A "mug" é 😀 &amp; so.', "x": [1, {"y": 2.5e3}, None]}
    victims = [json.dumps(row, ensure_ascii=ascii_only).encode() for ascii_only in (True, False)]
    for _ in range(max(1, FLIPS // 50)):
        lines = []
        for number in range(50):
            good = json.dumps({"uid": str(number), "title": f"Good {number}", "content": "A good row."}).encode()
            lines += [flip(draw, draw.choice(victims)), good]
        kept, report = prepare(tmp_path, b"\n".join(lines))
        good = [record["input_text"] for record in kept if record["input_text"].startswith("Good ")]
        assert good == [f"Good {number}" for number in range(50)]
        assert report.read in range(100, 151)


@pytest.mark.parametrize("kind", ["lines", "array", "gzip", "zip"])
def test_a_byte_flipped_anywhere_in_a_file_gives_rows_or_our_error(tmp_path, kind):
    import gzip
    import io
    import zipfile

    draw = random.Random(1)
    lines = [GOOD.replace(b"Good", b"Good %d" % n)[:-1] for n in range(20)]
    content = b"[" + b",\n".join(lines) + b"]" if kind == "array" else b"\n".join(lines)
    if kind == "gzip":
        content = gzip.compress(content, mtime=0)
    if kind == "zip":
        with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("trn.json", content)
        content = buffer.getvalue()
    errors = 0
    for _ in range(max(100, FLIPS // 40)):
        try:
            kept, _ = prepare(tmp_path, flip(draw, content))
            if kind == "lines":
                assert len(kept) >= 18
        except Tc3Error:
            errors += 1
    assert errors or kind == "lines"
