"""Every format gives the same rows for the same products, whatever their values; headers, shapes and files."""

import csv
import datetime
import io
import json
import unicodedata
import zipfile

import openpyxl
import pyarrow
import pytest
from catalogues import configured, json_lines, prepared, written
from pyarrow import parquet

from tc3lib import catalogue, settings
from tc3lib.catalogue import source
from tc3lib.errors import Tc3Error

HEADER = ("uid", "title", "content")
NAN, DAY = float("nan"), datetime.date(2024, 5, 1)
TEXTS = [(str(number), f"Café {number}", f'A "mug", {number};\n<3 & {{so}}\ton.') for number in range(30)]
VALUES = [
    ("a", 1984, "x"), ("b", 1984.0, "x"), ("c", 0.5, "x"), ("d", 2**53, "x"), ("e", True, "x"), ("f", "Mug", False),
    ("g", None, "x"), ("h", "Mug", None), ("i", NAN, "x"), ("j", "Mug", NAN), ("k", " ", "x"), (None, "No uid", "x"),
    ("l", "Infinite", float("inf")),
]  # fmt: skip
READ = [
    ("a", "1984", "x"), ("b", "1984", "x"), ("c", "0.5", "x"), ("d", str(2**53), "x"), ("e", "TRUE", "x"),
    ("f", "Mug", "FALSE"), (None, "No uid", "x"), ("l", "Infinite", "inf"),
]  # fmt: skip


def objects(rows, missing=True):
    """Return rows as objects. A value of None is a missing key, or null if `missing` is false."""
    return [{k: v for k, v in zip(HEADER, row, strict=True) if v is not None or not missing} for row in rows]


def in_csv(rows, delimiter=",", header=HEADER):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([header, *rows])
    return text.getvalue().encode()


def in_excel(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def excel_bytes(folder, rows):
    path = in_excel(folder / "made.xlsx", rows)
    content = path.read_bytes()
    path.unlink()
    return content


def in_html(rows, header=HEADER):
    cells = ["".join(f"<td>{str(cell).replace('&', '&amp;').replace('<', '&lt;')}" for cell in row) for row in rows]
    names = "".join(f"<th>{name}" for name in header)
    return f'<html><meta charset="utf-8"><table><tr>{names}<tr>{"<tr>".join(cells)}</table>'.encode()


def kept(path, **changes):
    found = prepared(path, **changes)
    contents = [r["response"].removeprefix(f"The '{r['input_text']}' is ") for r in found.records]
    return list(zip(found.uids, found.titles, contents, strict=True))


JSON = {
    "lines": lambda rows: json_lines(rows),
    "lines that end in a comma": lambda rows: b"".join(line + b",\n" for line in json_lines(rows).splitlines()),
    "array": lambda rows: json.dumps(rows).encode(),
    "array, one a line": lambda rows: b"[" + b",\n".join(json_lines(rows).splitlines()) + b"]",
    "one object around the list": lambda rows: json.dumps({"count": 2, "tags": ["a"], "products": rows}).encode(),
    "the same, indented": lambda rows: json.dumps({"data": {"products": rows}, "x": [{"y": 1}]}, indent=1).encode(),
    "the same, one a line": lambda rows: b'{"products": [\n' + b",\n".join(json_lines(rows).splitlines()) + b"\n]}\n",
    "a product by each key": lambda rows: json.dumps({f"B{n}": row for n, row in enumerate(rows)}, indent=4).encode(),
    "indented, one after another": lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows).encode(),
    "the same with commas": lambda rows: ",\r\n".join(json.dumps(row, indent=2) for row in rows).encode(),
    "all on one line": lambda rows: b", ".join(json_lines(rows).splitlines()),
    "columns of pandas": lambda rows: json.dumps(
        {name: {str(n): row.get(name) for n, row in enumerate(rows)} for name in HEADER}
    ).encode(),
    "columns that are lists": lambda rows: json.dumps(
        {name: [row.get(name) for row in rows] for name in HEADER}
    ).encode(),
    "split, as pandas writes it": lambda rows: json.dumps(
        {"columns": HEADER, "index": [*range(len(rows))], "data": [[row.get(name) for name in HEADER] for row in rows]}
    ).encode(),
    "the same split, indented": lambda rows: json.dumps(
        {"columns": HEADER, "index": [*range(len(rows))], "data": [[row.get(name) for name in HEADER] for row in rows]},
        indent=2,
    ).encode(),
    "Python's notation, one a line": lambda rows: "".join(f"{row}\n" for row in rows).encode(),
    "Python's list": lambda rows: str(rows).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON)
def test_json_of_every_shape_gives_the_same_rows(tmp_path, name):
    read = [("B11" if uid is None and name == "a product by each key" else uid, *texts) for uid, *texts in READ]
    for rows in (TEXTS, TEXTS * 40):  # in one block and in several
        assert kept(written(tmp_path, JSON[name](objects(rows))), clean=False) == rows
    assert kept(written(tmp_path, JSON[name](objects(VALUES)))) == read
    assert kept(written(tmp_path, JSON[name](objects(VALUES, missing=False)))) == read


def test_tables_give_the_rows_of_json(tmp_path):
    book = in_excel(tmp_path / "a.xlsx", [HEADER, *TEXTS])
    columns = dict(zip(HEADER, map(list, zip(*TEXTS, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    paths = [book, tmp_path / "a.parquet", written(tmp_path, in_html(TEXTS), "a.xls")]
    paths += [written(tmp_path, in_csv(TEXTS, mark), f"{ord(mark)}.csv") for mark in ",;\t|~^"]
    for path in paths:
        assert kept(path, clean=False) == TEXTS
    assert kept(in_excel(tmp_path / "b.xlsx", [HEADER, *VALUES[:8], VALUES[11]])) == READ[:7]
    for name, values in {"number": VALUES[:4], "truth": VALUES[4:5], "blank": VALUES[7:12]}.items():
        columns = {"uid": pyarrow.array([row[0] for row in values])}
        if name == "blank":
            titles = [row[1] for row in values]
            columns["title"] = pyarrow.array([None if title is NAN else title for title in titles])
            columns["content"] = pyarrow.array(["x"] * 5)
        else:
            columns |= {
                "title": pyarrow.array([row[1] for row in values]),
                "content": pyarrow.array(["x"] * len(values)),
            }
        parquet.write_table(pyarrow.table(columns), tmp_path / "b.parquet")
        read = [(uid, title) for uid, title, _ in kept(tmp_path / "b.parquet")]
        expected = [("h", "Mug"), ("j", "Mug"), (None, "No uid")] if name == "blank" else None
        assert read == (expected or [row[:2] for row in READ if row[0] in [value[0] for value in values]])
    as_text = [[READ[0][0], "1984", "x"], ["", "No uid", "x"], ["h", "Mug", ""]]
    assert kept(written(tmp_path, in_csv(as_text), "b.csv")) == [READ[0], READ[6]]


def test_a_list_of_texts_is_joined_in_json_and_parquet(tmp_path):
    rows = [{"title": ["Mug"], "content": ["Of steel.", "", None, "Holds", 2, "l."]}, {"title": [], "content": "x"}]
    assert kept(written(tmp_path, json_lines(rows))) == [(None, "Mug", "Of steel. Holds 2 l.")]
    columns = {"title": [["Mug"], []], "content": [["Of steel.", "", None, "Holds"], ["x"]]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert kept(tmp_path / "a.parquet") == [(None, "Mug", "Of steel. Holds")]


def test_a_day_is_written_alike_in_excel_parquet_and_text(tmp_path):
    expected = [("a", "2024-05-01", "x")]
    parquet.write_table(pyarrow.table({"uid": ["a"], "title": [DAY], "content": ["x"]}), tmp_path / "a.parquet")
    for path in (
        in_excel(tmp_path / "a.xlsx", [HEADER, ("a", DAY, "x")]),
        tmp_path / "a.parquet",
        written(tmp_path, in_csv([("a", DAY, "x")]), "a.csv"),
        written(tmp_path, json_lines([{"uid": "a", "title": str(DAY), "content": "x"}])),
    ):
        assert kept(path) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"mugs": objects(TEXTS), "cups": objects(TEXTS)}).encode(), r"2 lists of objects \('mugs', 'c"),
        (b'{\n "products": [\n  {"title": "a"},\n  {"title" "b"}\n ]\n}', r"damaged JSON file: .* in line 4\."),
        (b'{\n "products": [\n  {"title": "a"},\n\n\n', "damaged JSON file: an object is not closed at byte"),
        (b'{"name": "Mug", "parts": [1]}', r"has no row .* keys of its first line are 'name', 'parts'"),
        (b'{"products": [{"name": "Mug"}]}', r"has no row .* keys of its first line are 'name'"),
    ],
)  # fmt: skip
def test_json_that_is_not_certain_is_named(tmp_path, content, message):
    with pytest.raises(Tc3Error, match=message) as caught:
        prepared(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_any_uid_comes_through(tmp_path):
    uids = ["", 5, 2**70, 7.5, True, None, [1, "a"], {"$oid": "5f"}, "ü"]
    rows = [{"uid": uid, "title": f"Mug {n}", "content": "x"} for n, uid in enumerate(uids)]
    found = prepared(written(tmp_path, json_lines(rows))).uids
    assert found == prepared(written(tmp_path, json.dumps(rows).encode())).uids
    assert found == uids
    work = tmp_path
    numbered = [{"sku": uid, "title": f"Mug {n}", "content": f"A mug {n}."} for n, uid in enumerate(uids * 20)]
    config = configured(written(work, json_lines(numbered)), uid_column="sku", eval_rows=4)
    catalogue.prepare(config, work)
    catalogue.select(config, work)
    from tc3lib.catalogue.lookup import Catalogue

    looked_up = Catalogue(work)
    shown = [looked_up.find(f"Mug {n}").matches[0].uid for n in range(len(uids))]
    assert shown == ["", "5", str(2**70), "7.5", "true", "", '[1,"a"]', '{"$oid":"5f"}', "ü"]


BANNER = [["Products of our shop", "", ""], ["", "", ""], ["", "made on", "2024-05-01"]]


@pytest.mark.parametrize("kind", ["csv", "xlsx", "xls"])
def test_the_header_is_the_first_row_with_the_columns(tmp_path, kind):
    def file(header, rows, above=BANNER):
        if kind == "xlsx":
            return in_excel(tmp_path / "a.xlsx", [*above, header, *rows])
        return written(tmp_path, in_html([*above[1:], header, *rows], above[0]) if kind == "xls" else
                       in_csv([*above[1:], header, *rows], header=above[0]), f"a.{kind}")  # fmt: skip

    assert kept(file(HEADER, TEXTS), clean=False) == TEXTS
    composed, decomposed = "título", unicodedata.normalize("NFD", "título")
    assert kept(file(("uid", decomposed, "content"), TEXTS), clean=False, title_column=composed) == TEXTS
    flat = [["TemplateType=x", "Version=2024", ""], ["SKU", "Product Name", "Product Description"]]
    machine = ("item_sku", "item_name", "product_description")
    names = dict(zip(("uid_column", "title_column", "content_column"), machine, strict=True))
    assert kept(file(machine, TEXTS, flat), clean=False, **names) == TEXTS
    names = dict(zip(("uid_column", "title_column", "content_column"), flat[1], strict=True))
    found = prepared(file(flat[1], [("z", "usb_cable", "charging_cable"), *TEXTS, flat[1]], flat[:1]), **names)
    assert found.report.dropped == {"header": 1}
    assert found.titles == ["usb_cable", *(title for _, title, _ in TEXTS)]
    twice = file(HEADER, TEXTS, [HEADER, ("a", "Mug", "Old."), ("", "", "")])
    assert len(kept(twice)) == 31
    assert kept(twice, clean=False, header_row=4) == TEXTS
    with pytest.raises(Tc3Error, match=r"has no column 'title'"):
        prepared(twice, header_row=2)


def test_a_wrong_name_below_a_banner_is_told_with_the_columns_of_the_header(tmp_path):
    rows = [*BANNER, ("sku", "name", "text"), *TEXTS]
    for path in (in_excel(tmp_path / "a.xlsx", rows), written(tmp_path, in_csv(rows[1:], header=rows[0]), "a.csv")):
        with pytest.raises(Tc3Error, match=r"its columns are 'sku', 'name', 'text'\."):
            prepared(path)


def test_woocommerces_two_characters_are_line_breaks_in_its_files_alone(tmp_path):
    header = ("SKU", "Name", "Short description", "Visibility in catalog", "Description")
    rows = [("a", "Mug", "", "visible", "Of steel\\nHolds 2 l")]
    names = {"uid_column": "SKU", "title_column": "Name", "content_column": "Description"}
    path = written(tmp_path, in_csv(rows, header=header), "a.csv")
    assert kept(path, **names) == [("a", "Mug", "Of steel. Holds 2 l")]
    assert catalogue.before_and_after(configured(path, **names), tmp_path)[0]["after"] == "Of steel. Holds 2 l"
    assert kept(path, clean=False, **names) == [("a", "Mug", "Of steel\\nHolds 2 l")]
    path = written(
        tmp_path, in_csv([(a, b, e) for a, b, _, _, e in rows], header=("SKU", "Name", "Description")), "b.csv"
    )
    assert kept(path, **names) == [("a", "Mug", "Of steel\\nHolds 2 l")]


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_", ".", 1), content)
    return path


def test_a_zip_of_a_mac_and_a_zip_of_a_workbook_are_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("shop/trn.json", json_lines(objects(TEXTS)))
        archive.writestr("__MACOSX/shop/._trn.json", b"\0\5\26\7")
        archive.writestr("shop/.DS_Store", b"x")
    assert kept(tmp_path / "a.zip", clean=False) == TEXTS
    for name, content in {
        "shop.xlsx": excel_bytes(tmp_path, [HEADER, *TEXTS]),
        "shop.xls": in_html(TEXTS),
        "shop.txt": in_csv(TEXTS, "\t"),
    }.items():  # fmt: skip
        with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"shop/{name}", content)
            archive.writestr("README.txt", "x")
        assert kept(tmp_path / "b.zip", clean=False) == TEXTS


def test_accents_of_a_mac_in_names_are_the_same_name(tmp_path):
    decomposed = unicodedata.normalize("NFD", "catálogo.json")
    rows = [{unicodedata.normalize("NFD", "título"): title, "content": content} for _, title, content in TEXTS]
    for content in (json_lines(rows), json.dumps(rows).encode(), json.dumps({"rows": rows}, indent=1).encode()):
        written(tmp_path, content, decomposed)
        config = settings.get("tiny").change(source="catálogo.json", title_column="título", workers=2)
        assert source.find(config, tmp_path) == tmp_path / decomposed
        assert catalogue.prepare(config, tmp_path).kept == len(TEXTS)


@pytest.mark.parametrize("name", ["products.csv.gsheet", "products.gsheet"])
@pytest.mark.parametrize(
    "link",
    [
        '{"url": "https://docs.google.com/open?id=x", "doc_id": "x"}',
        '{"":"WARNING! DO NOT EDIT THIS FILE! ANY CHANGES MADE WILL BE LOST!","doc_id":"x","resource_key":""}',
    ],
)
def test_a_link_to_google_sheets_is_named(tmp_path, link, name):
    (tmp_path / name).write_text(link)
    for called in ("products.csv", name):
        with pytest.raises(Tc3Error, match=rf"{name} is a link to a document on Google Drive.*File, Download"):
            catalogue.prepare(settings.get("tiny").change(source=called), tmp_path)
    (tmp_path / name).rename(tmp_path / "trn.json")
    with pytest.raises(Tc3Error, match=r"trn\.json is a link to a document on Google Drive"):
        catalogue.prepare(settings.get("tiny"), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'<?xml version="1.0"?><Workbook xmlns="urn:schemas-microsoft-com:office:spreadsheet">', "file of 2003"),
        (b'<?xml version="1.0"?><rss><item/></rss>', "is an XML file: export the products as JSON Lines"),
        (in_html(TEXTS, ("a", "b", "c")), r"a\.xls has no column 'title'.*its columns are 'a', 'b', 'c'"),
        (in_csv(TEXTS).decode().encode("utf-16-le"), r"is UTF-16 text; .* \(in Excel: CSV UTF-8\)"),
        (b"<table><tr><td>caf\xe9</table>", r"a\.xls: not UTF-8 \(byte 0xe9\): save the file again"),
        ('{"title": "Café", "content": "x"}\n'.encode("cp1252") * 9, r'"line":1,.*not UTF-8 \(byte 0xe9\): save the'),
    ],
)  # fmt: skip
def test_other_files_are_named(tmp_path, content, message):
    with pytest.raises(Tc3Error, match=message):
        prepared(written(tmp_path, content, "a.xls"))


@pytest.mark.parametrize("begin", [b"<div>", b"<!-- made by a shop -->", b"\n<center><p>Products</p>"])
def test_an_html_table_is_read_whatever_is_above_it(tmp_path, begin):
    assert kept(written(tmp_path, begin + in_html(TEXTS), "a.xls"), clean=False) == TEXTS


def test_a_row_of_html_without_the_cell_that_spans_into_it_is_damaged(tmp_path):
    content = in_html([("a", "Mug", "A mug."), ("b", "Pan", "A pan.")]).replace(b"<td>a", b"<td rowspan=2>a")
    content = content.replace(b"<td>b", b"").replace(b"</table>", b"<tr><td><tr><td>c<td>Cup<td>A cup.</table>")
    found = prepared(written(tmp_path, content, "a.xls"), max_damaged=0.5)
    assert found.titles == ["Mug", "Cup"]
    reason = "2 cells, but the header has 3: split the cells that span several rows (rowspan)"
    assert (found.damaged, found.report.dropped) == ([(3, reason)], {"damaged": 1, "blank_both": 1})


def test_an_html_table_in_the_encoding_that_it_names_is_read(tmp_path):
    content = in_html(TEXTS).replace(b"utf-8", b"windows-1252").decode().encode("cp1252")
    assert kept(written(tmp_path, content, "a.xls"), clean=False) == TEXTS
