"""The verdict: on a run that learned, and on runs that are broken in ways that happen."""

import random

import pytest

from tc3lib import files, settings
from tc3lib.errors import Tc3Error
from tc3lib.evaluation import comparison, report

WORDS = [f"word{n}" for n in range(400)]


MADE = {
    "model": "/here/base", "revision": None, "dtype": "bfloat16", "in_4bit": True, "weights": "a", "tokenizer": "b",
    "prompt": "Describe {title}", "max_seq_length": 2048, "max_new_tokens": 128, "do_sample": False, "eos_token_id": 2,
}  # fmt: skip


def answered(number, part, answer, loss, uid=None):
    reference = f"The 'Mug {number}' is {text(number)}"
    return {
        "uid": uid or f"u{number}", "part": part, "title": f"Mug {number}", "reference": reference, "answer": answer,
        "tokens": 9, "eos": True, "loss_sum": loss * 10, "loss_tokens": 10, "seconds": 0.5,
    }  # fmt: skip


def text(number):
    return " ".join(random.Random(number).sample(WORDS, 12))


def write(work, before, after, train=(), held_out=30):
    """Each of the two is a function of a row's number: its answer and its loss."""
    for name, made in (("pretest", before), ("posttest", after)):
        parts = [("eval", n) for n in range(held_out)] + [("train", n) for n in range(30, 60)] + [("demo", 99)]
        files.write_rows(work / f"{name}.jsonl", [answered(n, part, *made(n)) for part, n in parts])
        files.write_json(work / f"{name}.made_by.json", MADE)
    files.write_rows(work / "train.jsonl", list(train))
    return comparison.compare(work, settings.get("tiny"))


def base(number):
    return text(number + 1000), 3.0 + number % 3 / 10


def good(number):
    return f"The 'Mug {number}' is {text(number)}", 1.0 + number % 3 / 10


def test_a_run_that_learned_is_better(tmp_path):
    found = write(tmp_path, base, good)
    assert found["verdict"]["better"] is True
    assert found["verdict"]["sentence"].startswith(
        "Better than before on products that it was not trained on: loss 3.1"
    )
    assert found["rows"] == {"eval": 30, "train": 30, "demo": 1}
    assert found["verdict"]["learned"].startswith(
        "The lower loss carries over to held-out products; no memorisation is shown: "
    )
    assert found["time"]["02_pretest: answers"] == 30.5
    report.write(found, tmp_path)
    assert files.read_json(tmp_path / "report.json")["metrics"] == found["metrics"]
    assert found["verdict"]["learned"] in (tmp_path / "report.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {
        "train.jsonl", "pretest.jsonl", "posttest.jsonl", "report.json", "report.html",
        "pretest.made_by.json", "posttest.made_by.json",
    }  # fmt: skip
    (tmp_path / "lora_model").mkdir()
    report.write(found, tmp_path)
    assert found["verdict"]["learned"] in (tmp_path / "lora_model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("after", "sentence", "learned"),
    [
        pytest.param(base, "no difference shown", "No learning is shown", id="adapter-not-applied"),
        pytest.param(lambda n: ("qx zv " * 9, 11.0), "worse", "", id="another-tokenizer"),
        pytest.param(
            lambda n: good(n) if n >= 30 else base(n),
            "",
            "Training descriptions were memorised; no gain on held-out products is shown",
            id="by-heart",
        ),
    ],
)
def test_a_run_that_did_not_learn_is_not_better(tmp_path, after, sentence, learned):
    found = write(tmp_path, base, after)["verdict"]
    assert found["better"] is False
    assert sentence in found["sentence"]
    assert found["learned"].startswith(learned)


def test_a_loss_that_rose_is_called_so_and_nothing_was_memorised(tmp_path):
    worse = write(tmp_path, base, lambda n: (base(n)[0], base(n)[1] + (0.1 if n >= 30 else 0.2)))["verdict"]
    assert worse["learned"].startswith("No learning is shown: the loss rose by 0.1000 on products that it was trained")


def test_answers_in_the_right_style_to_other_titles_are_not_better(tmp_path):
    """As after training on shuffled labels: likelier texts, right opening, but of any product."""
    found = write(tmp_path, base, lambda n: (f"The 'Mug {n}' is {text(n + 7)}", 2.0 + n % 3 / 10))
    held_out = {name: metric["parts"]["eval"]["says"] for name, metric in found["metrics"].items()}
    assert (held_out["loss"], held_out["opening"]) == ("better", "better")
    assert found["verdict"]["better"] is False


def test_a_model_that_no_longer_ends_is_not_better(tmp_path):
    write(tmp_path, base, good)
    rows = [row | {"eos": False, "tokens": 512} for row in files.read_rows(tmp_path / "posttest.jsonl")]
    files.write_rows(tmp_path / "posttest.jsonl", rows)
    found = comparison.compare(tmp_path, settings.get("tiny"))
    assert found["verdict"]["better"] is False
    assert "ended by itself 1.0000 to 0.0000, worse" in found["verdict"]["sentence"]


def test_best_worst_and_most_changed_are_held_out_rows_and_none_is_shown_twice(tmp_path):
    found = write(tmp_path, base, lambda n: good(n) if n in (4, 5, 6) else base(n))
    shown = found["answers"]
    assert {row["title"] for row in shown["best"]} == {"Mug 4", "Mug 5", "Mug 6"}
    both = comparison.joined(*(files.read_rows(tmp_path / f"{name}.jsonl") for name in ("pretest", "posttest")))
    lowest = sorted(row["rougeL_after"] for row in both if row["part"] == "eval")
    assert [row["rougeL_after"] for row in shown["worst"]] == lowest[:3]
    moved = [abs(row["rougeL_after"] - row["rougeL_before"]) for row in shown["most_changed"]]
    assert moved == sorted(moved, reverse=True)
    held_out = [row for kind in ("best", "worst", "most_changed") for row in shown[kind]]
    assert len({row["title"] for row in held_out}) == 9
    assert {row["part"] for row in held_out} == {"eval"}
    assert [row["chosen"] for row in held_out[::3]] == ["best", "worst", "most changed"]
    assert [row["title"] for row in shown["demo"]] == ["Mug 99"]


def test_few_questions_and_near_twins_that_were_kept_are_said(tmp_path):
    selected = {"train": 16, "eval": 4, "near_twins": 2, "near_twins_kept": 3}
    files.write_json(tmp_path / "prepare_report.json", {"read": 20, "selected": selected})
    found = write(tmp_path, base, good, held_out=4)
    assert found["verdict"]["better"] is False
    assert found["verdict"]["sentence"].startswith(
        "Whether it is better on products that it was not trained on (3 of them near twins of some that it was) cannot "
        "be said, with fewer than 10 questions: loss 3.0"
    )
    assert found["verdict"]["learned"].endswith("cannot be said from fewer than 10 questions.")
    assert {metric["parts"]["eval"]["says"] for metric in found["metrics"].values()} <= {
        "too few questions", "not measured",
    }  # fmt: skip
    assert found["data"]["held out with a near twin trained on"] == 3
    report.write(found, tmp_path)
    assert "too few questions" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("change", [{"uid": "x"}, {"reference": "It is red."}, {"part": "train"}, None])
def test_tests_of_different_questions_are_not_compared(tmp_path, change):
    write(tmp_path, base, good)
    rows = files.read_rows(tmp_path / "posttest.jsonl")
    files.write_rows(tmp_path / "posttest.jsonl", [rows[0] | change, *rows[1:]] if change else rows[1:])
    with pytest.raises(Tc3Error, match="did not ask the same questions: run 02_pretest and 04_posttest again"):
        comparison.compare(tmp_path, settings.get("tiny"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"model": "/there/other", "weights": "c", "tokenizer": "d"},
            "model was '/here/base' and is now '/there/other'",
        ),
        ({"weights": "c"}, "other weights"),
        ({"weights": "c", "dtype": "float16"}, "dtype was 'bfloat16' and is now 'float16'"),
        ({"tokenizer": "c"}, "another tokenizer"),
        ({"prompt": "Sell {title}"}, "another prompt"),
        ({"max_new_tokens": 64}, "max_new_tokens was 128 and is now 64"),
        ({"max_seq_length": 64}, "max_seq_length was 2048 and is now 64"),
    ],
)
def test_a_pretest_that_was_made_otherwise_is_not_compared_and_the_difference_is_named(tmp_path, change, said):
    write(tmp_path, base, good)
    files.write_json(tmp_path / "posttest.made_by.json", MADE | change)
    with pytest.raises(Tc3Error, match=f"pretest.jsonl comes from another set-up: {said}. Run 02_pretest again"):
        comparison.compare(tmp_path, settings.get("tiny"))


def test_the_same_base_model_may_have_moved_and_the_report_names_where_it_is_now(tmp_path):
    write(tmp_path, base, good)
    files.write_json(tmp_path / "posttest.made_by.json", MADE | {"model": "/there/base", "revision": "1f"})
    assert comparison.compare(tmp_path, settings.get("tiny"))["model_name"] == "/there/base"
    (tmp_path / "pretest.made_by.json").unlink()
    with pytest.raises(
        Tc3Error, match=r"what made .*pretest.jsonl is not known \(pretest.made_by.json\): run 02_pretest"
    ):
        comparison.compare(tmp_path, settings.get("tiny"))


def test_losses_that_are_not_numbers_give_no_verdict_and_are_counted(tmp_path):
    found = write(tmp_path, base, lambda n: (good(n)[0], float("nan") if n == 3 else good(n)[1]))
    assert found["metrics"]["rougeL"]["parts"]["eval"]["says"] == "better"
    assert found["verdict"]["better"] is False
    assert "the loss of 0 held-out descriptions before training, and of 1 after" in found["verdict"]["sentence"]
    assert found["verdict"]["learned"].endswith("some losses are not numbers.")
    report.write(found, tmp_path)
    assert found["verdict"]["sentence"] in (tmp_path / "report.html").read_text()
