import math

import pytest
import torch

from tc3lib import files, model_loading
from tc3lib.errors import Tc3Error
from tc3lib.evaluation import generation, questions
from tc3lib.prompts import encode, format_record


def row(uid="a", part="eval", reference="The mug is blue.", answer="The mug is blue.", eos=True, loss=2.0, tokens=4):
    return {
        "uid": uid, "part": part, "title": "Mug", "reference": reference, "answer": answer, "tokens": 5, "eos": eos,
        "loss_sum": loss, "loss_tokens": tokens,
    }  # fmt: skip


def write_questions(work, rows):
    files.write_rows(work / "questions.jsonl", rows)
    return work


def test_questions_whose_title_fills_max_seq_length_are_not_asked(tokenizer, config, rows, capsys):
    long = {"uid": "l", "part": "eval", **format_record("very " * 600, "A mug.")}
    demo = long | {"part": "demo", "response": None}
    assert questions._that_fit(tokenizer, [demo, rows[0], long, rows[1]], config) == [demo, *rows[:2]]
    assert capsys.readouterr().out == "1 questions are not asked: their title fills max_seq_length=512\n"


def test_nothing_to_score_is_an_error(tmp_path):
    files.write_rows(tmp_path / "train.jsonl", [])
    for rows in ([], [row(part="demo")]):
        with pytest.raises(Tc3Error, match="there are no held-out rows to score"):
            questions.scores(rows, tmp_path)


def test_held_out_and_trained_rows_are_scored_apart(tmp_path):
    files.write_rows(tmp_path / "train.jsonl", [])
    found = questions.scores([row(loss=2.0), row(part="train", loss=4.0), row(part="demo", loss=9.0)], tmp_path)
    assert {part: values["loss"] for part, values in found.items()} == {"held out": 0.5, "trained on": 1.0}


def test_completion_losses_are_those_of_the_models_own_loss(base, rows):
    """Compare with the model's loss on one row at a time, its prompt masked, without padding."""
    model, tokenizer = base
    rows = [rows[0], rows[1] | {"response": rows[1]["response"] * 5}, rows[2]]
    model.train()
    measured = questions.completion_losses(model, tokenizer, rows, max_length=512, batch_size=2)
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


def test_answering_gives_a_row_for_every_question_and_keeps_it(base, config, rows, tmp_path):
    unknown = {"uid": None, "part": "demo", "instruction": "", "input_text": "Lamp", "response": None}
    found = questions.answer(*base, config, write_questions(tmp_path, [unknown, *rows[:3]]), "pretest")
    assert [(r["uid"], r["part"], r["title"], r["reference"]) for r in found] == [(None, "demo", "Lamp", None)] + [
        (r["uid"], "train", r["input_text"], r["response"]) for r in rows[:3]
    ]
    assert (found[0]["loss_sum"], found[0]["loss_tokens"]) == (None, None)
    assert all(r["loss_tokens"] > 0 for r in found[1:])
    assert all(0 < r["tokens"] <= 24 and r["answer"] for r in found)
    assert files.read_rows(tmp_path / "pretest.jsonl") == found
    assert {path.name for path in tmp_path.iterdir()} == {"questions.jsonl", "pretest.jsonl", "pretest.made_by.json"}
    made = files.read_json(tmp_path / "pretest.made_by.json")
    assert (made["model"], made["dtype"], made["in_4bit"]) == (config.model.model_name, "bfloat16", True)
    assert (made["max_new_tokens"], made["do_sample"]) == (24, False)
    with pytest.raises(
        Tc3Error, match=r"comes from another set-up: max_new_tokens was 24 and is now 9\. Run 02_pretest again"
    ):
        questions.answer(*base, config.change(max_new_tokens=9), tmp_path, "posttest")
    tuned = model_loading.add_lora(base[0], config.lora)
    assert generation.made_by(tuned, base[1], config) == made
    files.write_json(tmp_path / "pretest.made_by.json", made | {"weights": "of another model"})
    with pytest.raises(Tc3Error, match="comes from another set-up: other weights"):
        questions.answer(tuned, base[1], config, tmp_path, "posttest")


def test_interrupted_answers_are_kept_until_all_are_there(base, config, rows, tmp_path, monkeypatch):
    work = write_questions(tmp_path, rows[:4])
    answer_batch, sizes = generation._answer_batch, []

    def stop(model, tokenizer, prompts, settings):
        sizes.append(len(prompts))
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return answer_batch(model, tokenizer, prompts, settings)

    monkeypatch.setattr(generation, "_answer_batch", stop)
    config = config.change(generation_batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        questions.answer(*base, config, work, "pretest")
    assert {path.name for path in work.iterdir()} == {"questions.jsonl", "pretest.partial.jsonl"}
    assert len(questions.answer(*base, config, work, "pretest")) == 4
    assert sizes == [2, 2, 2]
