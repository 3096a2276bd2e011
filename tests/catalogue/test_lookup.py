import json

import pytest

from tc3lib.catalogue import lookup
from tc3lib.catalogue.lookup import ABSENT, NOT_TRAINED, TRAINED, Catalogue
from tc3lib.errors import Tc3Error
from tc3lib.files import write_rows
from tc3lib.prompts import format_record

PRODUCTS = [
    ("B1", "Steel Mug No. 3", "A mug of steel, 3 cm high."),
    ("B2", "Tom & Jerry's Lamp", "A lamp."),
    ("B3", "Chemistry: A Concise Introduction, 6th Edition (Ashdown)", "A book."),
    ("B4", "Steel Mug No. 3", "Another mug of that name."),
    ("B5", "C++", "A language."),
    ("B6", "Camping", "A word."),
    ("B7", "What Is", "A title of nothing but a question's words."),
    ("B8", "Café “Zupe”", "A book about coffee.\nIn two lines."),
    ("B9", "Enamel Kettle", "A kettle."),
]
TRAINED_ON = ("B2", "B4")


@pytest.fixture
def work(tmp_path):
    records = [{"uid": uid, **format_record(title, content)} for uid, title, content in PRODUCTS]
    write_rows(tmp_path / "train.jsonl", [{"part": "train", **row} for row in records if row["uid"] in TRAINED_ON])
    write_rows(tmp_path / "trn_output.json", [{k: v for k, v in row.items() if k != "uid"} for row in records])
    (tmp_path / "trn_output.uid.jsonl").write_text("".join(json.dumps(uid) + "\n" for uid, _, _ in PRODUCTS))
    return tmp_path


def found(work, question, **options):
    result = Catalogue(work).find(question, **options)
    return result.how, [match.uid for match in result.matches]


def test_a_row_has_its_uid_title_description_and_mark(work):
    (match,) = Catalogue(work).find("Enamel Kettle").matches
    assert match == lookup.Match("B9", "Enamel Kettle", "A kettle.", NOT_TRAINED, 100.0, True)
    (match,) = Catalogue(work).find("Café “Zupe”").matches
    assert match.description == "A book about coffee.\nIn two lines."
    assert len(Catalogue(work)) == len(PRODUCTS)


@pytest.mark.parametrize("question", ["Tom & Jerry's Lamp", "  tom &amp; JERRY'S\u00a0\n lamp "])
def test_a_title_is_exact_whatever_its_case_white_space_and_entities(work, question):
    result = Catalogue(work).find(question)
    assert (result.how, result.mark, [m.uid for m in result.matches]) == ("exact", TRAINED, ["B2"])


def test_a_uid_may_be_a_number_or_missing(work):
    uids = [1, 2, 3, 4, 5, 6, 7, None, 9.5]
    (work / "trn_output.uid.jsonl").write_text("".join(json.dumps(uid) + "\n" for uid in uids))
    assert found(work, "Enamel Kettle") == ("exact", ["9.5"])
    assert found(work, "Café “Zupe”") == ("exact", [""])


def test_rows_of_one_title_are_all_shown_up_to_the_limit_those_trained_on_first(work):
    result = Catalogue(work).find("Steel Mug No. 3")
    assert [(m.uid, m.mark, m.exact) for m in result.matches] == [("B4", TRAINED, True), ("B1", NOT_TRAINED, True)]
    assert result.total == 2
    result = Catalogue(work).find("Steel Mug No. 3", limit=1)
    assert ([m.uid for m in result.matches], result.total) == (["B4"], 2)


@pytest.mark.parametrize(
    ("question", "score"),
    [
        ("What is the Steel Mug No. 3?", 100),
        ("O que é o «Steel Mug no 3»?", 100),
        ("steel mug, no. 3", 100),
        ("How heavy is the Steel Mug No. 3?", 68.8),
    ],
)
def test_a_question_finds_the_title_in_it(work, question, score):
    result = Catalogue(work).find(question)
    assert (result.how, [m.uid for m in result.matches]) == ("named", ["B4", "B1"])
    assert [m.score for m in result.matches] == [score] * 2
    assert not any(m.exact for m in result.matches)


def test_a_word_that_is_a_title_too_is_not_what_a_long_question_is_about(work):
    assert found(work, "Is the blue widget good for camping?") == ("none", [])
    assert found(work, "What about camping?") == ("named", ["B6"])


def test_words_that_frame_a_question_find_no_title_unless_they_are_it(work):
    assert found(work, "What is the zzyzx?") == ("none", [])
    assert found(work, "what is") == ("exact", ["B7"])


def test_the_beginning_of_a_title_finds_it(work):
    how, uids = found(work, "What is Chemistry: A Concise Introduction?")
    assert (how, uids) == ("part", ["B3"])
    assert found(work, "concise intro") == ("none", [])  # no whole words, and little of the title


@pytest.mark.parametrize(
    ("question", "uid"),
    [
        ("What is the Enamal Ketle?", "B9"),
        ("kettle, enamel", "B9"),
        ("Chemistri: A Concise Introduction 6th Editon (Ashdown)", "B3"),
    ],
)
def test_a_misspelt_or_turned_title_finds_the_closest(work, question, uid):
    result = Catalogue(work).find(question)
    assert (result.how, result.matches[0].uid) == ("close", uid)
    assert not result.matches[0].exact
    assert result.matches[0].score >= lookup.CLOSE


def test_a_closer_title_comes_before_a_shorter_one_in_the_question(work):
    """Of `camping panz`, `Camping` has two thirds of the letters; `Camping Pans` is misspelt, but whole."""
    with open(work / "trn_output.json", "a") as file, open(work / "trn_output.uid.jsonl", "a") as uids:
        file.write(json.dumps(format_record("Camping Pans", "Pans.")) + "\n")
        uids.write('"B10"\n')
    assert found(work, "camping panz") == ("close", ["B10"])


@pytest.mark.parametrize(
    "question", ["", "  \n", "&nbsp;", "!!!", "<script>", "\ud800", "C", "Quantum socks", "b " * 1000]
)
def test_what_no_title_is_like_is_not_in_the_catalogue(work, question):
    result = Catalogue(work).find(question)
    assert (result.how, result.matches, result.total, result.mark) == ("none", (), 0, ABSENT)


def test_signs_that_make_another_name_count(work):
    assert found(work, "c++") == ("exact", ["B5"])
    assert found(work, "What is C++?") == ("named", ["B5"])
    assert found(work, "C#") == ("none", [])


def test_a_description_trained_on_under_another_title_does_not_mark_a_row_trained(work):
    write_rows(work / "train.jsonl", [format_record("Another Kettle", "A kettle.")])
    assert Catalogue(work).find("Enamel Kettle").mark == NOT_TRAINED


@pytest.mark.parametrize("name", ["trn_output.json", "trn_output.uid.jsonl", "train.jsonl"])
def test_a_missing_file_is_named(work, name):
    with pytest.raises(Tc3Error, match=r"there is no folder .*gone\. Run the settings cell again"):
        Catalogue(work / "gone")
    (work / name).unlink()
    with pytest.raises(Tc3Error, match=rf"{name}: .*Run 01_prepare"):
        Catalogue(work)


def test_a_damaged_line_is_named(work):
    lines = (work / "trn_output.json").read_bytes().splitlines(True)
    (work / "trn_output.json").write_bytes(lines[0] + lines[1][:20] + b"\n" + b"".join(lines[2:]))
    with pytest.raises(Tc3Error, match=r"trn_output\.json, line 2: .*01_prepare"):
        Catalogue(work)


def test_uids_of_another_file_are_refused(work):
    (work / "trn_output.uid.jsonl").write_text('"B1"\n')
    with pytest.raises(Tc3Error, match=f"1 lines, .* {len(PRODUCTS)}: run 01_prepare"):
        Catalogue(work)


def test_a_file_that_has_changed_is_an_error_and_no_other_row_is_shown(work):
    catalogue = Catalogue(work)
    lines = (work / "trn_output.json").read_bytes().splitlines(True)
    (work / "trn_output.json").write_bytes(b"".join(reversed(lines)))
    with pytest.raises(Tc3Error, match="has changed since it was opened"):
        catalogue.find("Enamel Kettle")
    (work / "trn_output.json").unlink()
    with pytest.raises(Tc3Error, match=r"cannot read .*trn_output\.json: No such file"):
        catalogue.find("Enamel Kettle")
