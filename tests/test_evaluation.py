import math

import pytest

from tc3lib import evaluation
from tc3lib.errors import Tc3Error
from tc3lib.prompts import encode


def row(uid="a", part="eval", reference="The mug is blue.", answer="The mug is blue.", eos=True, loss=2.0, tokens=4):
    return {
        "uid": uid, "part": part, "title": "Mug", "reference": reference, "answer": answer, "tokens": 5, "eos": eos,
        "loss_sum": loss, "loss_tokens": tokens,
    }  # fmt: skip


def test_perfect_answers_get_full_marks():
    assert evaluation.evaluate([row(), row()]) == {"rougeL": 1.0, "chrf": 100.0, "eos_rate": 1.0, "loss": 0.5}


def test_rouge_l_is_the_longest_common_subsequence():
    # 3 of 4 words in order on one side, 3 of 5 on the other: F1 = 2 * 3 / 9
    scores = evaluation.evaluate([row(reference="the mug is blue", answer="the old mug was blue")])
    assert scores["rougeL"] == round(2 / 3, 4)


def test_loss_is_weighted_by_tokens_and_eos_is_counted():
    scores = evaluation.evaluate([row(loss=1.0, tokens=1), row(loss=0.0, tokens=3, eos=False)])
    assert (scores["loss"], scores["eos_rate"]) == (0.25, 0.5)


def test_nothing_to_score_is_an_error():
    for rows in ([], [row(part="demo")]):
        with pytest.raises(Tc3Error, match="there are no held-out rows to score"):
            evaluation.evaluate(rows)


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [("Кружка синяя.", "Кружка синяя", 1.0), ("avaliação boa", "situação boa", 0.5), ("It's Blue", "it s blue", 1.0)],
)
def test_words_of_any_alphabet_count_whole(reference, answer, expected):
    assert evaluation.evaluate([row(reference=reference, answer=answer)])["rougeL"] == expected


def test_only_held_out_rows_are_compared():
    before = [row("d", part="demo", answer="x"), row("a", answer="nothing like it")]
    after = [row("d", part="demo", answer="x"), row("a")]
    report = evaluation.compare(before, after)
    assert report.keys() == {"baseline", "finetuned", "n"}
    assert report["n"] == 1
    assert report["finetuned"]["rougeL"] == 1.0 > report["baseline"]["rougeL"]


@pytest.mark.parametrize("after", [[row("b")], [row("a"), row("b")], [], [row("a", reference="It is red.")]])
def test_tests_of_different_questions_are_not_compared(after):
    with pytest.raises(Tc3Error, match="did not ask the same rows: run 02_pretest and 04_posttest again"):
        evaluation.compare([row("a")], after)


def test_pairs_hold_both_answers():
    assert evaluation.pairs([row(answer="x")], [row(answer="y")]) == [
        {"uid": "a", "part": "eval", "title": "Mug", "reference": "The mug is blue.", "before": "x", "after": "y"}
    ]


def test_completion_losses_are_those_of_the_models_own_loss(base, rows):
    """Against the model's loss on one row at a time, prompt masked: nothing padded, nothing batched."""
    import torch

    model, tokenizer = base
    rows = [rows[0], rows[1] | {"response": rows[1]["response"] * 5}, rows[2]]
    model.train()
    measured = evaluation.completion_losses(model, tokenizer, rows, max_length=512, batch_size=2)
    assert model.training
    model.eval()
    for record, (loss, tokens) in zip(rows, measured, strict=True):
        encoded = encode(tokenizer, record)
        ids = torch.tensor([encoded["input_ids"]])
        labels = ids.masked_fill(torch.tensor([encoded["completion_mask"]]) == 0, -100)
        with torch.inference_mode():
            expected = model(input_ids=ids, labels=labels).loss.item()
        assert tokens == sum(encoded["completion_mask"])
        assert math.isclose(loss / tokens, expected, rel_tol=0.02)  # the base computes in bfloat16


def test_a_row_that_does_not_fit_is_told_before_the_answers_cost_time(base, config, rows, monkeypatch):
    monkeypatch.setattr(evaluation, "generate", lambda *_: pytest.fail("generated first"))
    with pytest.raises(Tc3Error, match="raise max_seq_length"):
        evaluation.answer(*base, rows[:2], config.change(max_seq_length=20))


def test_answering_gives_a_row_for_every_question(base, config, rows):
    model, tokenizer = base
    found = evaluation.answer(model, tokenizer, rows[:3], config)
    assert [(r["uid"], r["part"], r["title"], r["reference"]) for r in found] == [
        (r["uid"], "train", r["input_text"], r["response"]) for r in rows[:3]
    ]
    assert all(r["loss_tokens"] > 0 and r["tokens"] <= 24 for r in found)
