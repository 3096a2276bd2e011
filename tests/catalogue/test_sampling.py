import json
import random
import re

import pytest
from catalogues import json_lines, rows, written
from rapidfuzz import fuzz

from tc3lib import catalogue, settings
from tc3lib.errors import Tc3Error
from tc3lib.prompts import description, encode_prompt, format_record, load_tokenizer


def words(number, count=12):
    """A text that is like no other's."""
    draw = random.Random(number)
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(count))


@pytest.fixture(scope="module")
def products():
    """600 products: every tenth repeats a description under another title, every 20th repeats a title."""
    rows = [{"uid": f"u{n}", "title": f"Mug {n}", "content": words(n)} for n in range(600)]
    for n in range(0, 600, 10):
        rows[n]["content"] = rows[(n + 5) % 600]["content"]
    for n in range(0, 600, 20):
        rows[n]["title"] = rows[(n + 7) % 600]["title"]
    return rows


def configured(**changes):
    small = {"eval_rows": 30, "eval_share": 0.2, "train_rows": 200, "demo_titles": ("Mug 3", "None")}
    return settings.get("tiny").change(**(small | changes))


def draw(folder, products, **changes):
    """Prepare products and select rows; return the report and what was drawn."""
    folder.mkdir(exist_ok=True)
    written(folder, json_lines(products))
    config = configured(**changes)
    catalogue.prepare(config, folder)
    report = catalogue.select(config, folder)
    return report, *(rows(folder / f"{name}.jsonl") for name in ("train", "eval", "questions"))


def test_no_description_and_no_title_is_on_both_sides(tmp_path, products):
    report, train, held_out, questions = draw(tmp_path / "a", products)
    assert (report.rows, len(train), len(held_out), len(questions)) == (600, 200, 30, 2 + 30 + 60)
    assert (report.train, report.eval, report.questions) == (200, 30, 92)
    assert not {description(row) for row in train} & {description(row) for row in held_out}
    assert not {row["input_text"] for row in train} & {row["input_text"] for row in held_out}


def test_rows_carry_their_uid_and_part(tmp_path, products):
    _, train, held_out, questions = draw(tmp_path / "a", products)
    by_uid = {row["uid"]: row for row in products}
    for part, drawn in (("train", train), ("eval", held_out), ("demo", questions[:1])):
        for row in drawn:
            product = by_uid[row.pop("uid")]
            assert row.pop("part") == part
            assert row == format_record(product["title"], product["content"])


def test_the_questions_are_the_demo_titles_then_held_out_then_trained_rows(tmp_path, products):
    _, train, held_out, questions = draw(tmp_path / "a", products, question_rows=20)
    assert [row["input_text"] for row in questions[:2]] == ["Mug 3", "None"]
    assert {name: questions[1][name] for name in ("uid", "part", "response")} == {
        "uid": None, "part": "demo", "response": None,
    }  # fmt: skip
    assert questions[2:] == held_out[:20] + train[:20]


def test_the_draw_does_not_depend_on_the_files_order(tmp_path, products):
    shuffled = random.Random(1).sample(products, len(products))
    assert draw(tmp_path / "a", products)[1:] == draw(tmp_path / "b", shuffled)[1:]


def test_added_rows_move_no_row_to_the_other_side(tmp_path, products):
    more = [{"uid": f"v{n}", "title": f"Pan {n}", "content": words(-n)} for n in range(600)]
    _, train, held_out, _ = draw(tmp_path / "a", products)
    _, train_more, held_out_more, _ = draw(tmp_path / "b", products + more)
    assert not {description(row) for row in train} & {description(row) for row in held_out_more}
    assert not {description(row) for row in held_out} & {description(row) for row in train_more}


def test_exact_duplicates_are_taken_once(tmp_path, products):
    assert draw(tmp_path / "a", products)[1:] == draw(tmp_path / "b", products + products)[1:]


def test_held_out_titles_are_asked_once(tmp_path):
    products = [{"uid": f"u{n}", "title": f"Mug {n % 40}", "content": words(n)} for n in range(400)]
    titles = [row["input_text"] for row in draw(tmp_path, products, eval_share=0.5, train_rows=5)[2]]
    assert len(titles) > 10
    assert len(titles) == len(set(titles))


def test_held_out_descriptions_are_asked_once(tmp_path):
    """Questions with one answer are no independent evidence: the intervals would be too narrow."""
    many = [{"uid": f"u{n}", "title": f"Mug {n}", "content": words(n % 60)} for n in range(600)]
    _, train, held_out, _ = draw(tmp_path, many)
    found = [description(row) for row in held_out]
    assert len(found) == len(set(found)) > 4
    assert not {*found} & {description(row) for row in train}


def test_the_setting_train_rows_wins_over_what_the_steps_need(tmp_path, products):
    steps = {"max_steps": 3, "per_device_train_batch_size": 5, "gradient_accumulation_steps": 2}
    assert len(draw(tmp_path, products, train_rows=50, **steps)[1]) == 50
    assert len(draw(tmp_path, products, train_rows=None, **steps)[1]) == 30
    assert len(draw(tmp_path, products, train_rows=None, max_steps=-1)[1]) > 400


def test_the_report_of_01_gets_what_was_drawn(tmp_path, products):
    selected = draw(tmp_path, products)[0]
    report = json.loads((tmp_path / "prepare_report.json").read_text())
    assert report["read"] == 600
    assert report["selected"] == vars(selected)
    assert report["settings"]["train_rows"] >= selected.train


def test_files_that_do_not_belong_together_are_reported(tmp_path, products):
    draw(tmp_path, products)
    uids = (tmp_path / "trn_output.uid.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "trn_output.uid.jsonl").write_text("".join(uids[:-1]))
    with pytest.raises(Tc3Error, match=r"trn_output\.uid\.jsonl has 599 lines, .*trn_output\.json 600: run 01_prepare"):
        catalogue.select(configured(), tmp_path)


def test_another_seed_draws_others_from_the_whole_file(tmp_path, products):
    one, other = draw(tmp_path / "a", products)[1], draw(tmp_path / "b", products, sample_seed=1)[1]
    assert one != other
    numbers = [int(row["uid"][1:]) for row in one]
    assert sum(number < 300 for number in numbers) in range(70, 131)


def test_too_few_rows_are_reported(tmp_path, products):
    with pytest.raises(Tc3Error, match=r"trn_output\.json: run 01_prepare first"):
        catalogue.select(configured(), tmp_path)
    with pytest.raises(Tc3Error, match=r"has 1 rows: .*both need at least one"):
        draw(tmp_path, products[:1])


def test_of_equal_rows_the_smallest_uid_is_taken_wherever_it_stands(tmp_path, products):
    twins = [{**row, "uid": f"a{row['uid']}"} for row in products]
    _, train, held_out, questions = draw(tmp_path / "a", products + twins)
    asked = [row for row in questions if row["input_text"] != "None"]
    assert all(row["uid"].startswith("au") for row in train + held_out + asked)
    assert draw(tmp_path / "b", twins + products)[1:] == (train, held_out, questions)


def test_the_report_counts_what_is_repeated(tmp_path):
    texts = [("Mug", "One."), ("Mug", "One."), ("Mug", "Two."), ("Pan", "Two."), ("Pot", "Three."), ("Jug", "Four.")]
    products = [{"uid": str(n), "title": title, "content": content} for n, (title, content) in enumerate(texts)]
    report = draw(tmp_path, products, eval_rows=1, eval_share=0.5)[0]
    assert (report.rows, report.duplicates, report.repeated_titles, report.repeated_descriptions) == (6, 1, 2, 2)


AWKWARD = [
    'say "x"',
    "back\\slash",
    '","response":"The \'',
    "x' is y",
    "The 'x' is y",
    "tab\there",
    "é 😀",
    "a\u2028b",
    "{}",
    "\x00",
]


def test_titles_and_descriptions_of_any_text_are_cut_where_they_end(tmp_path):
    """The hashes are taken from the written line: its parts must be those of the record, whatever they hold."""
    texts = [(title, content) for title in AWKWARD for content in AWKWARD]
    texts += [(f"Mug {n}", f"A mug, number {n}.") for n in range(50)]
    products = [{"uid": str(n), "title": title, "content": content} for n, (title, content) in enumerate(texts)]
    options = {"clean": False, "eval_rows": 2, "eval_share": 0.3, "demo_titles": tuple(AWKWARD)}
    found, train, held_out, questions = draw(tmp_path, products, **options)
    assert (found.rows, found.repeated_titles, found.repeated_descriptions, found.duplicates) == (150, 90, 90, 0)
    assert [row["input_text"] for row in questions if row["part"] == "demo"] == AWKWARD
    for row in train + held_out + questions:
        title, content = texts[int(row["uid"])]
        record = format_record(title.strip(), content.strip())
        assert {name: row[name] for name in record} == record


def test_each_side_is_a_uniform_sample(tmp_path):
    """Over many seeds each row is trained on as often as any other, wherever it stands in the file."""
    written(tmp_path, json_lines({"uid": str(n), "title": f"Mug {n}", "content": f"Mug {n}."} for n in range(200)))
    catalogue.prepare(configured(), tmp_path)
    counts = [0] * 200
    for seed in range(200):
        catalogue.select(configured(eval_rows=5, sample_seed=seed, train_rows=40), tmp_path)
        for row in rows(tmp_path / "train.jsonl"):
            counts[int(row["uid"])] += 1
    assert sum(counts) == 200 * 40
    chi_square = sum((count - 40) ** 2 / (40 * 0.8) for count in counts)
    assert 130 < chi_square < 285  # 199 degrees of freedom, both tails about 1 in 10,000


COLOURS = ["red", "blue", "green", "black", "white"]


def families(count, colours):
    """Products with a description of their own, each in several colours."""
    return [
        {"uid": f"f{n}{colour}", "title": f"Towel {n} {colour}", "content": f"{words(n, 20)} in {colour}, {n + 30} cm."}
        for n in range(count)
        for colour in colours
    ]


def similar(held_out, train):
    """Return how many held-out descriptions have one trained on that is 90 % alike, of all pairs."""
    texts, others = ([re.sub(r"\d", "", description(row)) for row in side] for side in (held_out, train))
    return sum(any(fuzz.ratio(text, other) >= 90 for other in others) for text in texts)


def test_held_out_rows_with_a_near_twin_that_is_trained_on_are_replaced(tmp_path, products):
    alone = [{"uid": f"a{n}", "title": f"Pan {n}", "content": words(-n)} for n in range(1, 400)]
    report, train, held_out, questions = draw(tmp_path, families(80, COLOURS) + alone, train_rows=400)
    assert similar(held_out, train) == 0 < report.near_twins
    assert (len(held_out), report.eval, report.near_twins_kept) == (30, 30, 0)
    assert [row for row in questions if row["part"] == "eval"] == held_out
    again = draw(tmp_path, families(80, COLOURS) + alone, train_rows=400, eval_rows=len(held_out) + report.near_twins)
    assert [row for row in again[2] if row in held_out] == held_out  # others came in for those, in the same order


def test_where_almost_all_have_a_near_twin_four_are_kept_and_it_is_said(tmp_path, capsys):
    report, train, held_out, _ = draw(tmp_path, families(60, COLOURS), train_rows=None, max_steps=-1)
    assert len(held_out) == 4
    assert report.near_twins_kept == similar(held_out, train) > 0
    assert (
        f"{report.near_twins + report.near_twins_kept} held-out rows are near copies of training rows (another colour "
        f"or size): 4 rows are held out instead of 30, {report.near_twins_kept} of them near copies."
    ) in capsys.readouterr().out


def test_rows_without_near_twins_are_drawn_as_if_nobody_had_looked(tmp_path, products, monkeypatch):
    found = draw(tmp_path / "a", products)
    monkeypatch.setattr("tc3lib.catalogue.near_twins.Trained.near_twin", lambda self, text: False)
    assert draw(tmp_path / "b", products) == found


@pytest.mark.parametrize("rows", [20, 35, 70])
@pytest.mark.parametrize("share", [0.0001, 0.05])
def test_a_small_catalogue_has_four_rows_held_out_whatever_the_share(tmp_path, rows, share):
    products = [{"uid": str(n), "title": f"Mug {n}", "content": words(n)} for n in range(rows)]
    report, train, held_out, _ = draw(tmp_path, products, eval_share=share, train_rows=None, max_steps=-1)
    assert report.eval == len(held_out) >= 4
    assert len(train) + len(held_out) == rows


def test_a_small_catalogue_of_repeated_texts_keeps_them_on_one_side(tmp_path):
    products = [{"uid": str(n), "title": f"Mug {n}", "content": words(n % 8)} for n in range(24)]
    _, train, held_out, _ = draw(tmp_path, products, eval_share=0.001)
    assert len(held_out) >= 4
    assert not {description(row) for row in train} & {description(row) for row in held_out}


@pytest.mark.parametrize("letter", ["a", "é", '"'])
def test_a_title_that_fills_max_seq_length_is_not_drawn_and_counted(tmp_path, products, letter):
    long = [{"uid": f"l{n}", "title": letter * 300 + f" {n}", "content": words(-n)} for n in range(1, 40)]
    report, train, held_out, _ = draw(tmp_path, products + long, max_seq_length=120, train_rows=None, max_steps=-1)
    tokenizer = load_tokenizer(configured().model.model_name)
    fit = [len(encode_prompt(tokenizer, product["title"])) < 120 for product in long]
    assert report.long_titles == fit.count(False) > 0
    drawn = {row["uid"] for row in train + held_out}
    assert {row["uid"] for row in long} & drawn <= {row["uid"] for row, fits in zip(long, fit, strict=True) if fits}


def test_without_a_tokenizer_long_titles_stay_and_it_is_said(tmp_path, products, capsys):
    long = [{"uid": "l", "title": "a" * 3000, "content": "A mug."}]
    report = draw(tmp_path, products + long, model_name=str(tmp_path / "none"))[0]
    assert report.long_titles == 0
    assert "titles that fill max_seq_length are not looked for: cannot load the tokenizer" in capsys.readouterr().out


def test_no_tokenizer_is_loaded_where_every_title_is_short(tmp_path, products, monkeypatch):
    monkeypatch.setattr("tc3lib.catalogue.sampling.load_tokenizer", None)
    assert draw(tmp_path, products)[0].long_titles == 0


def test_a_line_that_is_no_record_is_named(tmp_path, products):
    draw(tmp_path, products)
    path = tmp_path / "trn_output.json"
    lines = path.read_bytes().splitlines(keepends=True)
    for spoilt in (b"spoilt\n", lines[7].replace(b'"response"', b'"answer"'), lines[7][:-3] + b"\n"):
        path.write_bytes(b"".join([*lines[:7], spoilt, *lines[8:]]))
        with pytest.raises(Tc3Error, match=r"trn_output\.json, line 8 is not a record: run 01_prepare again"):
            catalogue.select(configured(), tmp_path)


@pytest.mark.parametrize("response", ["{content}", "{title}: {content} ({title})"])
def test_another_prompt_moves_no_description_to_the_other_side(tmp_path, products, response):
    config = configured(response=response)
    _, train, held_out, _ = draw(tmp_path / "a", products)
    report, *others = draw(tmp_path / "b", products, instruction='Descreva "o" produto', response=response)
    assert (report.train, report.eval, report.questions) == (200, 30, 92)
    by_uid = {row["uid"]: row for row in products}
    for row in [row for rows_of in others for row in rows_of if row["uid"] is not None]:
        title, content = by_uid[row["uid"]]["title"], by_uid[row["uid"]]["content"]
        assert row["instruction"] == 'Descreva "o" produto'
        assert row["response"] == response.replace("{title}", title).replace("{content}", content)
        assert description(row, config.prompting) == content
    sides = [{description(row) for row in train}, {description(row) for row in held_out}]
    others = [{description(row, config.prompting) for row in rows_of} for rows_of in others[:2]]
    assert not sides[0] & others[1]
    assert not sides[1] & others[0]
    catalogue.prepare(configured(), tmp_path / "b")
    with pytest.raises(Tc3Error, match="line 1 is not a record: run 01_prepare again from the top"):
        catalogue.select(config.change(instruction="Another"), tmp_path / "b")
