import gzip
import html
import json
import random

import pytest

from tc3lib import data, files, presets
from tc3lib.errors import Tc3Error
from tc3lib.prompts import format_record


def write(path, products):
    path.write_text("".join(json.dumps(product, ensure_ascii=False) + "\n" for product in products), encoding="utf-8")
    return path


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recipe(source):
    """The user's own loop: strip, keep if both are there, format."""
    kept = []
    with open(source, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            title, content = row["title"].strip(), row["content"].strip()
            if title and content:
                response = f"The '{title}' is {content}"
                kept.append({"instruction": "Describe the product [input]", "input_text": title, "response": response})
    return kept


def test_without_cleaning_it_is_the_users_rule_record_for_record(tmp_path):
    source = presets.tiny().data.fallback_source
    report = data.prepare(source, tmp_path / "trn_output.json", clean=False)
    assert records(tmp_path / "trn_output.json") == recipe(source)
    assert report.kept == len(recipe(source))


def test_every_line_is_accounted_for(tmp_path):
    lines = [
        '{"uid": "a", "title": "Mug", "content": "A mug."}',
        '{"title": " ", "content": "A mug."}',
        '{"title": "Mug", "content": ""}',
        '{"title": "", "content": "  "}',
        '{"title": "Mug", "content": "&nbsp; &#xA0;"}',
        "",
        "not json",
        '{"title": 3, "content": "x"}',
        '{"title": "Mug"}',
        '{"title": "Pan", "content": "A pan.", "uid": 7.5, "other": [[{}]]}',
        '{"title": "Cup", "content": null}',
    ]
    (tmp_path / "trn.json").write_text("\n".join(lines))
    report = data.prepare(tmp_path / "trn.json", tmp_path / "out.json")
    assert (report.read, report.kept) == (11, 2)
    assert report.dropped == {"blank_title": 1, "blank_content": 3, "blank_both": 1, "empty_line": 1, "damaged": 3}
    assert report.read == report.kept + sum(report.dropped.values())
    assert records(tmp_path / "out.json") == [format_record("Mug", "A mug."), format_record("Pan", "A pan.")]
    assert records(tmp_path / "out.uid.jsonl") == ["a", 7.5]
    assert [row["line"] for row in records(tmp_path / "quarantine.jsonl")] == [7, 8, 9]
    assert "Expected `str | null`, got `int`" in records(tmp_path / "quarantine.jsonl")[1]["reason"]


def test_a_second_run_without_damage_leaves_no_old_quarantine(tmp_path):
    write(tmp_path / "trn.json", [{"title": "Mug", "content": "A mug."}])
    (tmp_path / "quarantine.jsonl").write_text("old")
    data.prepare(tmp_path / "trn.json", tmp_path / "out.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.uid.jsonl", "trn.json"]


def test_any_number_of_workers_writes_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "BLOCK_BYTES", 1000)
    rows = [{"uid": str(n), "title": f"Mug {n}", "content": f"A mug {n}." * (n % 7)} for n in range(500)]
    source = write(tmp_path / "trn.json", rows)
    with open(source, "a") as file:
        file.write("damaged\n")
    outputs = []
    for workers in (1, 2, 3):
        report = data.prepare(source, tmp_path / "out.json", workers=workers)
        files = [(tmp_path / name).read_bytes() for name in ("out.json", "out.uid.jsonl", "quarantine.jsonl")]
        outputs.append((report.read, report.kept, report.dropped, files))
    assert outputs[0] == outputs[1] == outputs[2]
    assert json.loads(outputs[0][3][2])["line"] == 501


LINE = b'{"uid": "a", "title": "Mug", "content": "A mug."}\n'


@pytest.mark.parametrize("name", ["trn.json.gz", "trn.json"])
def test_gzip_is_read_too_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(LINE * 3))
    assert data.prepare(tmp_path / name, tmp_path / "out.json").kept == 3


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-12], lambda b: b[:-6] + b"xxxxxx", lambda b: b[:40] + b"x" * 20 + b[60:]]
)
def test_damaged_gzip_is_told(tmp_path, damage):
    whole = gzip.compress(b"".join(LINE.replace(b"Mug", str(n).encode() * 9) for n in range(99)))
    (tmp_path / "trn.json.gz").write_bytes(damage(whole))
    with pytest.raises(Tc3Error, match=r"trn\.json\.gz is a damaged gzip file \(.*Copy or download it again"):
        data.prepare(tmp_path / "trn.json.gz", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_a_byte_order_mark_costs_no_row(tmp_path):
    (tmp_path / "trn.json").write_bytes(b"\xef\xbb\xbf" + LINE * 2)
    assert data.prepare(tmp_path / "trn.json", tmp_path / "out.json").kept == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tom &amp; Jerry&#8217;s &mdash; it&#x92;s", "Tom & Jerry’s — it’s"),
        ("&amp;lt;3", "&lt;3"),
        ("ages 2-8 years <3 a<b>c", "ages 2-8 years <3 a<b>c"),
        ("  two\u00a0 spaces&#xA0;\n here ", "two spaces here"),
        ("cafe\u0301", "café"),
        ("Good.--This text refers to theHardcoveredition.", "Good."),
        ("Good. --This text refers to the Paperback edition.", "Good."),
        ("Good.--This text refers to an out of print or unavailable edition of this title.", "Good."),
        (
            "He wrote--This text refers to the war. It ends well.",
            "He wrote--This text refers to the war. It ends well.",
        ),
        (
            "It says--This text refers to the first edition. It goes on with much more.",
            "It says--This text refers to the first edition. It goes on with much more.",
        ),
    ],
)
def test_cleaning_tidies_and_loses_nothing(text, expected):
    assert data.clean_text(text) == expected


def test_a_missing_file_and_one_without_usable_rows_are_named(tmp_path):
    with pytest.raises(Tc3Error, match=r"no file .*trn\.json: expected JSON Lines with `title` and `content`"):
        data.prepare(tmp_path / "trn.json", tmp_path / "out.json")
    (tmp_path / "trn.json").write_text('{"name": "Mug"}\n')
    with pytest.raises(Tc3Error, match=r"trn\.json has no row with a title and a content in 1 lines.*missing required"):
        data.prepare(tmp_path / "trn.json", tmp_path / "out.json")
    assert [path.name for path in tmp_path.iterdir()] == ["trn.json"]


def test_the_old_output_stays_when_the_new_one_fails(tmp_path):
    write(tmp_path / "trn.json", [{"title": "Mug", "content": ""}])
    (tmp_path / "out.json").write_text("old")
    with pytest.raises(Tc3Error):
        data.prepare(tmp_path / "trn.json", tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == "old"


@pytest.fixture(scope="module")
def products():
    """600 products: every tenth repeats a description under another title, every 20th repeats a title."""
    rows = [{"uid": f"u{n}", "title": f"Mug {n}", "content": f"Mug with picture {n}."} for n in range(600)]
    for n in range(0, 600, 10):
        rows[n]["content"] = rows[(n + 5) % 600]["content"]
    for n in range(0, 600, 20):
        rows[n]["title"] = rows[(n + 7) % 600]["title"]
    return rows


def draw(folder, rows, **settings):
    folder.mkdir()
    data.prepare(write(folder / "trn.json", rows), folder / "out.json")
    config = presets.tiny().change(eval_rows=30, eval_share=0.2, **settings).data
    report = data.select(folder / "out.json", folder, config, train_rows=200, demo_titles=("Mug 3", "None"))
    return report, *(files.read_rows(folder / f"{name}.jsonl") for name in ("train", "eval", "demo"))


def content(row):
    return row["response"].partition("' is ")[2]


def test_no_description_and_no_title_is_on_both_sides(tmp_path, products):
    report, train, held_out, demo = draw(tmp_path / "a", products)
    assert (report.rows, len(train), len(held_out), len(demo)) == (600, 200, 30, 1)
    assert (report.train, report.eval, report.demo) == (200, 30, 1)
    assert not {content(row) for row in train} & {content(row) for row in held_out}
    assert not {row["input_text"] for row in train} & {row["input_text"] for row in held_out}


def test_rows_carry_their_uid_and_part(tmp_path, products):
    _, train, held_out, demo = draw(tmp_path / "a", products)
    by_uid = {row["uid"]: row for row in products}
    for part, rows in (("train", train), ("eval", held_out), ("demo", demo)):
        for row in rows:
            product = by_uid[row.pop("uid")]
            assert row.pop("part") == part
            assert row == format_record(product["title"], product["content"])


def test_the_draw_does_not_depend_on_the_files_order(tmp_path, products):
    shuffled = random.Random(1).sample(products, len(products))
    assert draw(tmp_path / "a", products)[1:] == draw(tmp_path / "b", shuffled)[1:]


def test_added_rows_move_no_row_to_the_other_side(tmp_path, products):
    more = [{"uid": f"v{n}", "title": f"Pan {n}", "content": f"Pan {n}."} for n in range(600)]
    _, train, held_out, _ = draw(tmp_path / "a", products)
    _, train_more, held_out_more, _ = draw(tmp_path / "b", products + more)
    assert not {content(row) for row in train} & {content(row) for row in held_out_more}
    assert not {content(row) for row in held_out} & {content(row) for row in train_more}


def test_exact_duplicates_are_taken_once(tmp_path, products):
    assert draw(tmp_path / "a", products)[1:] == draw(tmp_path / "b", products + products)[1:]


def test_held_out_titles_are_asked_once(tmp_path):
    rows = [{"uid": f"u{n}", "title": f"Mug {n % 40}", "content": f"Mug with picture {n}."} for n in range(400)]
    (tmp_path / "a").mkdir()
    data.prepare(write(tmp_path / "a" / "trn.json", rows), tmp_path / "a" / "out.json")
    config = presets.tiny().change(eval_rows=30, eval_share=0.5).data
    data.select(tmp_path / "a" / "out.json", tmp_path / "a", config, train_rows=5)
    titles = [row["input_text"] for row in files.read_rows(tmp_path / "a" / "eval.jsonl")]
    assert len(titles) > 10
    assert len(titles) == len(set(titles))


def test_the_setting_train_rows_wins_over_what_the_plan_needs(tmp_path, products):
    assert len(draw(tmp_path / "a", products, train_rows=50)[1]) == 50


def test_files_that_do_not_belong_together_are_told(tmp_path, products):
    draw(tmp_path / "a", products)
    uids = (tmp_path / "a" / "out.uid.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a" / "out.uid.jsonl").write_text("".join(uids[:-1]))
    with pytest.raises(Tc3Error, match=r"out\.json, line 600: .*Run 01_prepare again"):
        data.select(tmp_path / "a" / "out.json", tmp_path / "a", presets.tiny().data)


def test_another_seed_draws_others_from_the_whole_file(tmp_path, products):
    one, other = draw(tmp_path / "a", products)[1], draw(tmp_path / "b", products, sample_seed=1)[1]
    assert one != other
    numbers = [int(row["uid"][1:]) for row in one]
    assert sum(number < 300 for number in numbers) in range(70, 131)


def test_too_few_rows_are_told(tmp_path, products):
    with pytest.raises(Tc3Error, match=r"has 1 rows: .*both need at least one"):
        draw(tmp_path / "a", products[:1])
    with pytest.raises(Tc3Error, match=r"out\.json: run 01_prepare first"):
        data.select(tmp_path / "out.json", tmp_path, presets.tiny().data)


def test_entities_are_unescaped_as_browsers_do():
    assert data.clean_text("&#145;x&#x99;") == html.unescape("&#145;x&#x99;") == "‘x™"
