"""Catalogues in CSV, Excel and Parquet, with columns of any name, and the errors for damaged ones."""

import csv
import datetime
import decimal
import gzip
import io
import json
import random
import re
import zipfile

import catalogues
import openpyxl
import pyarrow
import pytest
from catalogues import configured
from catalogues import rows as lines
from pyarrow import parquet

from tc3lib import catalogue
from tc3lib.catalogue import excel_rows, table_rows
from tc3lib.catalogue.rows import LINE_BYTES, TOO_LONG, Columns
from tc3lib.catalogue.source import opened, read
from tc3lib.errors import Tc3Error

HEADER = ("uid", "title", "content")
ROWS = [
    ("0713494914", "Café com leite", "Uma caneca;\nfeita de aço, com 10 cm."),
    ("B1", "1984", 'A "novel".'),
    ("B2", "", "A mug."),
    ("B3", "Mug", ""),
    ("B4", "", ""),
    ("B5", "NA", "null"),
    ("B6", "Mug", "&nbsp;"),
    ("B7", "Cup &amp; saucer", "A cup."),
]
KEPT = [("0713494914", "Café com leite"), ("B1", "1984"), ("B5", "NA"), ("B7", "Cup & saucer")]
DROPPED = {"blank_title": 1, "blank_content": 1, "blank_both": 1, "blank_after_cleaning": 1}


def in_csv(rows, delimiter=",", header=HEADER, **settings):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, **settings).writerows([header, *rows])
    return text.getvalue().encode()


def in_excel(path, *sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets, 1):
        sheet = book.create_sheet(f"Sheet {number}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def in_parquet(path, **columns):
    parquet.write_table(pyarrow.table(columns), path)
    return path


def named(columns):
    return {f"{field}_column": name for field, name in columns._asdict().items()}


def prepared(path, max_damaged=0, columns=Columns(), **changes):  # noqa: B008
    """Return the report and (uid, title) of what was kept."""
    found = catalogues.prepared(path, max_damaged, **named(columns), **changes)
    return found.report, found.kept


def shop(folder, content, name="shop.csv"):
    return catalogues.written(folder, content, name)


def quarantined(path):
    return [(row["line"], row["reason"]) for row in lines(path.with_name("quarantine.jsonl"))]


FILES = {
    "commas": ("shop.csv", in_csv(ROWS)),
    "semicolons, as spreadsheets in Brazil write them": ("shop.csv", in_csv(ROWS, ";")),
    "tabs": ("shop.tsv", in_csv(ROWS, "\t")),
    "bars": ("shop.csv", in_csv(ROWS, "|")),
    "all quoted": ("shop.csv", in_csv(ROWS, quoting=csv.QUOTE_ALL)),
    "a space before each quote": ("shop.csv", in_csv(ROWS, quoting=csv.QUOTE_ALL).replace(b'","', b'", "')),
    "spaces, as a line for Excel says": ("shop.csv", b"sep= \r\n" + in_csv(ROWS, " ")),
    "line feeds": ("shop.csv", in_csv(ROWS, lineterminator="\n")),
    "a byte order mark": ("shop.csv", b"\xef\xbb\xbf" + in_csv(ROWS)),
    "a line for Excel": ("shop.csv", b"sep=;\r\n" + in_csv(ROWS, ";")),
    "blank lines first": ("shop.csv", b"\r\n \r\n" + in_csv(ROWS)),
    "spaces around the names": ("shop.csv", in_csv(ROWS, header=(" uid", "title ", " content "))),
    "no last line end": ("shop.csv", in_csv(ROWS)[:-2]),
    "gzip": ("shop.csv.gz", gzip.compress(in_csv(ROWS))),
    "the name of JSON Lines": ("trn.json", in_csv(ROWS)),
    "no name": ("trn", in_csv(ROWS, ";")),
}


@pytest.mark.parametrize("name", FILES)
def test_every_csv_gives_the_same_rows(tmp_path, name):
    source = shop(tmp_path, FILES[name][1], FILES[name][0])
    report, kept = prepared(source)
    assert (report.read, report.dropped, kept) == (8, DROPPED, KEPT)
    assert lines(tmp_path / "trn_output.json")[0]["response"].endswith("Uma caneca; feita de aço, com 10 cm.")
    assert not (tmp_path / "quarantine.jsonl").exists()


def test_a_table_is_read_by_one_process_whatever_the_setting(tmp_path):
    assert prepared(shop(tmp_path, in_csv(ROWS)), workers=3)[1] == KEPT


@pytest.mark.parametrize("packing", ["plain", "gzip"])
def test_a_csv_in_zip_is_read(tmp_path, packing):
    content = in_csv(ROWS) if packing == "plain" else gzip.compress(in_csv(ROWS))
    with zipfile.ZipFile(tmp_path / "trn.json.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
        archive.writestr("shop/Produtos.CSV" + (".gz" if packing == "gzip" else ""), content)
    assert prepared(tmp_path / "trn.json.zip")[1] == KEPT


def test_excel_and_parquet_give_the_rows_of_the_csv(tmp_path):
    uid, title, content = zip(*ROWS, strict=True)
    sources = [
        in_excel(tmp_path / "shop.xlsx", [], [HEADER, *ROWS]),
        in_parquet(tmp_path / "shop.parquet", uid=uid, other=[{"a": 1}] * 8, title=title, content=content),
    ]
    for source in sources:
        report, kept = prepared(source)
        assert (report.read, report.dropped, kept) == (8, DROPPED, KEPT)
        changed = catalogue.before_and_after(configured(source), tmp_path)
        assert [row["uid"] for row in changed] == ["B6", "B7", "0713494914"]
        assert changed[1] == {"uid": "B7", "before": "Cup &amp; saucer", "after": "Cup & saucer"}


def test_what_cleaning_changes_is_shown_of_a_csv_with_names_of_its_own(tmp_path):
    source = shop(tmp_path, in_csv(ROWS, ";", ("sku", "nome", "descrição")))
    shown = catalogue.before_and_after(configured(source, **named(Columns("nome", "descrição", "sku"))), tmp_path)
    assert shown[1] == {"uid": "B7", "before": "Cup &amp; saucer", "after": "Cup & saucer"}


def test_json_lines_and_arrays_have_names_of_their_own_too(tmp_path):
    columns = Columns("name", "text", "sku")
    products = [{"sku": n, "name": f"Mug {n}", "text": "A mug.", "title": "x", "content": "y"} for n in range(20)]
    path = shop(tmp_path, catalogues.json_lines(products), "trn.json")
    for count in (1, 2):
        assert prepared(path, columns=columns, workers=count)[1] == [(n, f"Mug {n}") for n in range(20)]
    shop(tmp_path, json.dumps(products).encode(), "trn.json")
    assert prepared(path, columns=columns)[1][-1] == (19, "Mug 19")


def test_a_table_without_uid_has_null_ones(tmp_path):
    for source in (
        shop(tmp_path, in_csv([row[1:] for row in ROWS], header=HEADER[1:])),
        in_excel(tmp_path / "shop.xlsx", [HEADER[1:], *(row[1:] for row in ROWS)]),
        in_parquet(tmp_path / "shop.parquet", title=[row[1] for row in ROWS], content=[row[2] for row in ROWS]),
    ):
        assert prepared(source)[1] == [(None, title) for _, title in KEPT]


def test_numbers_days_and_empty_cells_of_excel_read_as_a_person_reads_them(tmp_path):
    day, moment = datetime.datetime(2024, 5, 1), datetime.datetime(2024, 5, 1, 13, 30)
    titles = [1984, 1984.0, 0.5, True, day, moment, "007", "a_x000D_\nb", "#N/A would be an error"]
    source = in_excel(tmp_path / "shop.xlsx", [HEADER, *([n, title, "x"] for n, title in enumerate(titles))])
    report, kept = prepared(source)
    assert kept == [*enumerate(["1984", "1984", "0.5", "TRUE", "2024-05-01", "2024-05-01 13:30:00", "007", "a b",
                                "#N/A would be an error"])]  # fmt: skip
    rows = [HEADER, [None, None, None], ["a", None, "x"], [], ["b", "Mug", None], ["c", "Cup", 7], [None, "", " "]]
    report, kept = prepared(in_excel(tmp_path / "shop.xlsx", rows))
    assert kept == [("c", "Cup")]
    assert report.dropped == {"blank_title": 1, "blank_content": 1, "blank_both": 1, "empty_line": 2}


def test_values_of_parquet_read_as_a_person_reads_them(tmp_path):
    columns = {
        "float": [1984.0, float("nan"), 0.25, 1e300, float("inf")],
        "int": [1984, None, -1, 2**63 - 1, 0],
        "decimal": [decimal.Decimal("19.90"), None, decimal.Decimal("-1.00"), decimal.Decimal("0.05"), None],
        "day": [datetime.date(2024, 5, 1), None, datetime.date(1, 1, 1), None, None],
        "dictionary": pyarrow.array(["Mug", None, "Mug", "Cup", ""]).dictionary_encode(),
        "nanoseconds": pyarrow.array([0, None, 1, None, None], pyarrow.timestamp("ns")),
        "bytes": [b"Mug", None, "Café".encode(), b"", b"\0"],
    }
    expected = {
        "float": ["1984", "0.25", "1e+300", "inf"],
        "int": ["1984", "-1", str(2**63 - 1), "0"],
        "decimal": ["19.90", "-1.00", "0.05"],
        "day": ["2024-05-01", "0001-01-01"],
        "dictionary": ["Mug", "Mug", "Cup"],
        "nanoseconds": ["1970-01-01", "1970-01-01 00:00:00.000000001"],
        "bytes": ["Mug", "Café"],
    }
    for name, titles in columns.items():
        source = in_parquet(tmp_path / "shop.parquet", title=titles, content=["x"] * 5, uid=range(5))
        report, kept = prepared(source, max_damaged=0.5)
        assert [title for _, title in kept] == expected[name]
        assert sum(report.dropped.values()) == 5 - len(kept)
    assert quarantined(source) == [(5, "a NUL character")]


def test_a_parquet_with_values_that_are_no_text_is_refused(tmp_path):
    source = in_parquet(tmp_path / "shop.parquet", title=[{"a": 1}, None, {"a": 2}], content=["x"] * 3)
    with pytest.raises(Tc3Error, match=r"has no row .* a row with both below the header of a Parquet file.*got `dict`"):
        prepared(source)
    spoilt = pyarrow.StringArray.from_buffers(1, pyarrow.py_buffer(b"\0\0\0\0\3\0\0\0"), pyarrow.py_buffer(b"b\xe7b"))
    late = pyarrow.array([2**60], pyarrow.timestamp("us"))
    for title in (spoilt, late):
        with pytest.raises(Tc3Error, match=r"is a damaged Parquet file \(.*Copy or download it again"):
            prepared(in_parquet(tmp_path / "shop.parquet", title=title, content=["x"]))


def test_a_parquet_of_many_row_groups_keeps_its_order(tmp_path):
    table = pyarrow.table({"title": [f"Mug {n}" for n in range(2500)], "content": ["x"] * 2500, "a.b": range(2500)})
    parquet.write_table(table, tmp_path / "shop.parquet", row_group_size=700)
    _, kept = prepared(tmp_path / "shop.parquet", columns=Columns(uid="a.b"))
    assert kept == [(n, f"Mug {n}") for n in range(2500)]


def test_errors_of_excel_and_formulas_that_were_never_computed(tmp_path):
    path = in_excel(tmp_path / "shop.xlsx", [HEADER, ["a", "=NA()", "x"], ["b", "Mug", "x"], ["c", "#REF!", "x"]])
    report, kept = prepared(path, max_damaged=0.5)
    assert kept == [("b", "Mug")]
    assert quarantined(path) == [(4, "the cell holds the error #REF!")]
    assert report.dropped == {"blank_title": 1, "damaged": 1}


def test_the_rows_of_excel_have_excels_numbers(tmp_path):
    book = openpyxl.Workbook()
    for cell, value in {"B3": "title", "C3": "content", "B9": "Mug", "C9": "x", "B12": "#N/A", "C12": "x"}.items():
        book.active[cell] = value
    book.save(tmp_path / "shop.xlsx")
    report, _ = prepared(tmp_path / "shop.xlsx", max_damaged=0.9)
    assert (report.read, report.dropped) == (9, {"empty_line": 7, "damaged": 1})
    assert quarantined(tmp_path / "shop.xlsx") == [(12, "the cell holds the error #N/A")]


def remade(path, **changes):
    """Rewrite members of an Excel file with some text replaced: member's last word -> (old, new)."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            for part, (old, new) in changes.items():
                if part in name:
                    assert old in content
                    content = content.replace(old, new)
            archive.writestr(name, content)
    return path


def test_a_sheet_with_a_wrong_size_in_it_is_read_whole(tmp_path):
    path = in_excel(tmp_path / "shop.xlsx", [HEADER, *ROWS])
    remade(path, sheet1=(b'<dimension ref="A1:C9"', b'<dimension ref="A1"'))
    assert prepared(path)[1] == KEPT


def test_of_several_sheets_the_one_with_the_columns_is_read_and_two_are_refused(tmp_path):
    path = in_excel(tmp_path / "shop.xlsx", [["Notes"], ["x"]], [HEADER, *ROWS])
    assert prepared(path)[1] == KEPT
    in_excel(path, [HEADER, *ROWS], [["a"]], [HEADER, *ROWS])
    with pytest.raises(Tc3Error, match=r"has the columns in 2 sheets \('Sheet 1', 'Sheet 3'\): put the products into"):
        prepared(path)
    in_excel(
        path, [["How to fill in"], ["item_name is the title"]], [("sku", "item_name", "text"), *ROWS], [["x", "y"]]
    )
    with pytest.raises(Tc3Error, match=r"its columns are 'sku', 'item_name', 'text'\."):
        prepared(path)
    with pytest.raises(Tc3Error, match=r"has no sheet with anything in it"):
        prepared(in_excel(path, [], [[None, ""]]))


WRONG = {
    "another case": (("uid", "TITLE", "content"), Columns(), "no column 'title'. Did you mean 'TITLE'? Set title_colu"),
    "a typing error": (
        HEADER,
        Columns("titel"),
        "no column 'titel'. Did you mean 'title'? Set title_column to the name",
    ),
    "nothing near": (
        ("a", "b", "content"),
        Columns(),
        "no column 'title'. Set title_column to the name of the right o",
    ),
    "two": (
        ("x", "y", "z"),
        Columns(),
        "'title'. Set title_column to the name of the right one; no column 'content'. ",
    ),
    "all named": (HEADER, Columns("nome"), "its columns are 'uid', 'title', 'content'."),
    "a uid asked for": (HEADER, Columns(uid="sku"), "no column 'sku'. Set uid_column to the name of the right one"),
    "a name twice": (("title", "title", "content"), Columns(), "has 2 columns 'title': rename all but one."),
    "the uid twice": (("uid", "title", "content", "uid"), Columns(), "has 2 columns 'uid': rename all but one."),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_column_is_an_error_that_lists_the_columns(tmp_path, name):
    header, columns, message = WRONG[name]
    row = ["Mug"] * len(header)
    sources = [
        shop(tmp_path, in_csv([row], header=header)),
        shop(tmp_path, in_csv([row], ";", header=header), "shop2.csv"),
        in_excel(tmp_path / "shop.xlsx", [header, row]),
    ]
    table = pyarrow.Table.from_arrays([pyarrow.array(["Mug"])] * len(header), names=list(header))
    parquet.write_table(table, tmp_path / "shop.parquet")
    for source in [*sources, tmp_path / "shop.parquet"]:
        with pytest.raises(Tc3Error, match=re.escape(message)) as caught:
            prepared(source, columns=columns)
        assert str(caught.value).startswith(f"{source} has ") and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop.csv", "shop.parquet", "shop.xlsx", "shop2.csv"]


def test_a_wrong_key_of_json_lines_is_an_error_that_lists_the_keys(tmp_path):
    source = shop(tmp_path, b'\nx\n{"Title": "a", "content": "b"}\n', "trn.json")
    expected = r"no column 'title'\. Did you mean 'Title'\? .*the keys of its first line are 'Title', 'content'\."
    with pytest.raises(Tc3Error, match=rf"has no row with a title .*{expected}"):
        prepared(source)
    shop(tmp_path, b'[{"Title": "a", "content": "b"}]', "trn.json")
    with pytest.raises(Tc3Error, match=expected):
        prepared(source)
    shop(tmp_path, b'{"title": "", "content": "b"}\n', "trn.json")
    with pytest.raises(Tc3Error, match=r"has no row with a title and a content in 1 lines; .*\.$") as caught:
        prepared(source)
    assert "no column" not in str(caught.value)
    with pytest.raises(Tc3Error, match=r'expected JSON Lines such as {"nome": "...", "content": "..."}'):
        prepared(source, columns=Columns("nome"))


@pytest.mark.parametrize("first", ["PK", "PARENT_SKU", "SQLite", "%PDF", "Rar!"])
def test_a_header_may_begin_as_other_kinds_of_files_do(tmp_path, first):
    rows = [(f"{n}", title, content) for n, (_, title, content) in enumerate(ROWS)]
    found = prepared(shop(tmp_path, in_csv(rows, header=(first, "title", "content"))), columns=Columns(uid=first))
    assert [title for _, title in found[1]] == [title for _, title in KEPT]


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("shop.txt", b"name\ttext\nMug\tA mug.\n", "'name', 'text'"),
        ("shop.csv", b"title;price\nMug;1,5\n", "'title', 'price'"),
        ("shop.csv", b"nome;preco\nMug;1,5\nPan;2,5\n", "'nome', 'preco'"),
    ],
)
def test_a_table_without_the_columns_is_told_those_of_its_first_line(tmp_path, name, content, names):
    with pytest.raises(Tc3Error, match=rf"no column .*: its columns are {names}\."):
        prepared(shop(tmp_path, content, name))


@pytest.mark.parametrize("columns", [Columns("a", "a"), Columns(uid="title")])
def test_title_content_and_uid_must_be_three_columns(tmp_path, columns):
    with pytest.raises(Tc3Error, match=r"title_column='\w+', content_column='\w+', .*must be three columns"):
        prepared(shop(tmp_path, in_csv(ROWS)), columns=columns)


HEAD = b"title,content,uid\n"
GOOD = b"Mug,A mug.,m\n"
QUOTE, OPEN = 'a quote (") in a quoted cell must be doubled ("")', 'the quote (") that a cell begins with is not closed'
CELLS = "{} cells, but the header has 3: quote a cell that holds ','"
DAMAGED = {
    "a quote that is not doubled": (b'"Pan 5"" x 5" wide",A pan.,p\n', QUOTE),
    "a quote escaped with a backslash": (b'"A \\"pan\\"",A pan.,p\n', QUOTE),
    "a cell that only begins with a quote": (b'"Pan" of iron,A pan.,p\n', QUOTE),
    "a comma that is not quoted": (b"Pan,A pan, of iron.,p\n", CELLS.format(4)),
    "Latin-1": ("Panela,Feita de aço.,p\n".encode("cp1252"), "not UTF-8 (byte 0xe7): save the file again with the en"),
    "cut in a character": (b"Pan,A pan \xc3,p\n", "not UTF-8 (byte 0xc3)"),
    "NUL": (b"Pan,A \0pan.,p\n", "a NUL character"),
    "a carriage return alone": (b"Pan,A pan.\rof iron,p\n", "a carriage return without a line feed after it"),
    "too long": (b"Pan," + b"x" * LINE_BYTES + b",p\n", TOO_LONG),
    "too long in quotes": (b'Pan,"' + b"x" * LINE_BYTES + b'",p\n', TOO_LONG),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("place", ["first", "between", "last"])
def test_a_damaged_row_costs_itself_alone(tmp_path, name, place):
    row, reason = DAMAGED[name]
    before = {"first": 0, "between": 2, "last": 4}[place]
    content = HEAD + GOOD * before + row + b"Cup,A cup.,c\n" * (4 - before)
    source = shop(tmp_path, content)
    report, kept = prepared(source, max_damaged=0.2)
    assert (report.read, report.dropped) == (5, {"damaged": 1})
    assert kept == [("m", "Mug")] * before + [("c", "Cup")] * (4 - before)
    found = lines(tmp_path / "quarantine.jsonl")
    assert [(row["line"], row["offset"]) for row in found] == [(before + 2, len(HEAD + GOOD * before))]
    assert found[0]["reason"].startswith(reason)


def test_lines_and_offsets_count_quoted_line_breaks_and_blank_lines(tmp_path):
    content = HEAD + b'Mug,"A\nmug\n",m\n\n\r\nPan,A,pan,p,x\nCup,"A \xc3\xa7\n\ncup",c\n"Pot"x,A pot.,p\n'
    source = shop(tmp_path, content)
    report, kept = prepared(source, max_damaged=0.5)
    assert (report.read, report.dropped, kept) == (6, {"damaged": 2, "empty_line": 2}, [("m", "Mug"), ("c", "Cup")])
    found = lines(tmp_path / "quarantine.jsonl")
    assert [row["line"] for row in found] == [7, 11]
    assert [content[row["offset"] :][:3] for row in found] == [b"Pan", b'"Po']


def test_a_quote_that_is_open_in_the_last_line_costs_that_line_alone(tmp_path):
    source = shop(tmp_path, HEAD + GOOD * 4 + b'"Pan,A pan.,p\n')
    assert prepared(source, max_damaged=0.2)[1] == [("m", "Mug")] * 4
    assert quarantined(source) == [(6, OPEN)]


OPENED = {
    "to the end": (GOOD * 3, OPEN),
    "to a quoted cell": (GOOD + b'Cup,"A ""big"" cup,\nof tin",c\n' + GOOD, QUOTE),
    "further than a cell may be long": (GOOD * (LINE_BYTES // len(GOOD) + 9), TOO_LONG),
    "to another open one, and so on": (b'Pan","A pan.\n' * 5000 + b'"Cup","A cup.","c"\n' + GOOD, QUOTE),
}


@pytest.mark.parametrize("name", OPENED)
def test_an_open_quote_is_one_error_that_names_its_line(tmp_path, name):
    rest, reason = OPENED[name]
    source = shop(tmp_path, HEAD + GOOD + b'Pan,"12 inch,p\n' + rest)
    with pytest.raises(Tc3Error, match=r"shop\.csv, line 3: .*: ") as caught:
        prepared(source, max_damaged=1)
    assert f": {reason}. " in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["shop.csv"]


def test_what_is_left_of_a_damaged_cell_of_several_lines_is_not_taken_for_a_short_row(tmp_path):
    source = shop(tmp_path, HEAD + b'Pan,"A \\"pan\\",\nof iron, black\nor not",p\nPot,A pot.,,,\nCup,A cup.\n')
    _, kept = prepared(source, max_damaged=0.9)
    assert kept == [(None, "Pot"), (None, "Cup")]
    assert quarantined(source) == [(2, QUOTE), (3, CELLS.format(2)), (4, CELLS.format(2))]


def test_a_file_in_latin_1_is_refused_with_file_line_and_what_to_do(tmp_path):
    rows = [(n, "Café", "Uma caneca.") for n in range(9)]
    source = shop(tmp_path, in_csv(rows).decode().encode("cp1252"))
    with pytest.raises(Tc3Error, match=r'shop\.csv has no row .*"line":2,.*not UTF-8 \(byte 0xe9\): save the file'):
        prepared(source)
    source = shop(tmp_path, in_csv([*rows, (9, "Mug", "x")]).decode().encode("cp1252"))
    with pytest.raises(Tc3Error, match=r'shop\.csv: 9 of 10 lines are damaged.*"line":2,.*\(in Excel: CSV UTF-8\)'):
        prepared(source)
    source = shop(tmp_path, "título;descrição\na;b\n".encode("cp1252"))
    with pytest.raises(Tc3Error, match=r"shop\.csv, line 1: not UTF-8 \(byte 0xed\): save the file again"):
        prepared(source, columns=Columns("título", "descrição"))


UNREADABLE = {
    "a header alone": (
        HEAD,
        "has no row with a title and a content in 0 lines; expected a row with both below the head",
    ),
    "blank lines alone": (b"\n\n", "its columns are none"),
    "a header with an open quote": (b'"title,content\nMug,x\n', "shop.csv, line 1: the header is damaged: the quote"),
    "carriage returns alone": (b"title,content\rMug,x\r", "line 1: the header is damaged: a carriage return without"),
    "UTF-16": (in_csv(ROWS, "\t").decode().encode("utf-16"), "is UTF-16 text; expected UTF-8"),
    "old Excel": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 999,
        "is an old Excel file (.xls), or one with a passw",
    ),
    "encrypted Parquet": (b"PARE" + b"\0" * 99, "is an encrypted Parquet file: write it without"),
    "Parquet in gzip": (gzip.compress(b"PAR1" + b"\0" * 99), "is a Parquet file in gzip, which cannot be read in piec"),
    "Parquet cut short": (b"PAR1" + b"\0" * 99, "is a damaged Parquet file ("),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named(tmp_path, name):
    content, message = UNREADABLE[name]
    with pytest.raises(Tc3Error, match=rf"shop\.csv.*{re.escape(message.removeprefix('shop.csv'))}") as caught:
        prepared(shop(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("member", "kind"), [("xl/workbook.bin", "a binary Excel file (.xlsb)"), ("content.xml", "an OpenDocument file")]
)
def test_spreadsheets_of_another_kind_are_named(tmp_path, member, kind):
    with zipfile.ZipFile(tmp_path / "shop.ods", "w") as archive:
        archive.writestr(member, "x")
    with pytest.raises(Tc3Error, match=rf"is {re.escape(kind)}.*: save it as \.xlsx or as CSV UTF-8"):
        prepared(tmp_path / "shop.ods")


def test_json_lines_stay_json_lines_whatever_their_name_and_first_line(tmp_path):
    line = b'{"title": "Mug", "content": "x"}\n'
    for name, content in {
        "shop.csv": line,
        "trn.json": b"spoilt, title\n" + line * 200,
        "a.csv": b"[" + line + b"]",
        "a.txt": b"spoilt\n" + line * 200,
    }.items():
        assert {title for _, title in prepared(shop(tmp_path, content, name), max_damaged=0.01)[1]} == {"Mug"}


@pytest.mark.parametrize("kind", ["xlsx", "parquet"])
def test_flipped_bytes_end_in_a_report_or_in_a_message(tmp_path, kind):
    uid, title, content = zip(*ROWS * 20, strict=True)
    if kind == "xlsx":
        path = in_excel(tmp_path / "shop.xlsx", [HEADER, *ROWS * 20])
    else:
        path = in_parquet(tmp_path / "shop.parquet", uid=uid, title=title, content=content)
    whole, random_state, ends = path.read_bytes(), random.Random(7), set()
    for _ in range(150):
        spoilt = bytearray(whole)
        for _ in range(random_state.choice((1, 3, 30))):
            spoilt[random_state.randrange(4, len(spoilt))] = random_state.randrange(256)
        path.write_bytes(spoilt[: random_state.choice((None, None, len(spoilt) // 2))])
        try:
            prepared(path, max_damaged=1)
            ends.add("report")
        except Tc3Error as error:
            assert str(path) in str(error) and "\n" not in str(error)
            ends.add("message")
    assert ends == {"report", "message"}


@pytest.mark.parametrize("kind", ["xlsx", "parquet"])
def test_rows_are_handed_on_before_the_rows_after_them_are_read(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(table_rows, "BATCH", 10)
    monkeypatch.setattr(excel_rows, "BATCH", 10)
    uid, title, content = zip(*ROWS * 20, strict=True)
    if kind == "xlsx":
        path = in_excel(tmp_path / "shop.xlsx", [HEADER, *ROWS * 20])
    else:
        path = in_parquet(tmp_path / "shop.parquet", uid=uid, title=title, content=content)
    with opened(path, Columns()) as source:
        shares = [source.position() / path.stat().st_size for _ in read(source)]
    assert shares == sorted(shares)
    assert len(shares) == 16 and shares[0] < 0.1 and 0.4 < shares[8] < 0.6
