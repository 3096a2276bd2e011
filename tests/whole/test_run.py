"""The main job, whole: the four notebooks by `make run`, then as plain scripts, then once more under nbmake.

Each runs in a process of its own on the embedded catalogue and model, as a person would run it, with a token in the
environment. Takes some minutes.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from planted import found_in
from runs import losses

from tc3lib import model_loading, settings, training
from tc3lib.__main__ import summary
from tc3lib.errors import Tc3Error
from tc3lib.evaluation import comparison, questions
from tc3lib.files import read_rows, write_rows
from tc3lib.prompts import description, format_record
from tc3lib.runtime.workspace import STAGES
from tc3lib.training.losses import read_losses

ROOT = Path(__file__).parents[2]
CONFIG = settings.get("tiny")
MADE = [name for name in sorted(STAGES) if name != "05_export"]
"""By `make run`; the export is optional."""
TOKEN = "hf_plantedInTheEnvironment012345"
BARS = {
    "01_prepare": ["trn.json"],
    "02_pretest": ["Loading weights", "losses", "answers"],
    "03_train": ["Loading weights", "training"],
    "04_posttest": ["Loading weights", "losses", *["answers"] * 3],
}


def call(command, work):
    """Run a command to its good end, and keep what it says in a log beside the work folder."""
    environment = {"TC3_PRESET": "tiny", "TC3_HOME": str(work), "HF_HUB_OFFLINE": "1", "HF_TOKEN": TOKEN}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    with open(log(work), "a") as file:
        file.write(done.stdout + done.stderr)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def log(work):
    return work.with_name(f"{work.name}.log")


def run_notebooks(work):
    notebooks = [f"notebooks/{name}.ipynb" for name in sorted(STAGES)]
    options = ["-p", "no:cacheprovider", "--nbmake", "--nbmake-kernel=python3", "--nbmake-timeout=3600"]
    assert "5 passed" in call([sys.executable, "-m", "pytest", *options, *notebooks], work)


def results(work):
    """Everything a run is judged by: adapter, losses, answers, report, rows."""
    names = ["lora_model/adapter_model.safetensors", "train.jsonl", "eval.jsonl", "questions.jsonl", "trn_output.json"]
    tests = {name: read_rows(work / f"{name}.jsonl") for name in ("pretest", "posttest")}
    for row in [row for rows in tests.values() for row in rows]:
        del row["seconds"]
    report = json.loads((work / "report.json").read_text())
    return (
        {name: (work / name).read_bytes() for name in names}
        | tests
        | {name: report[name] for name in ("verdict", "rows", "metrics", "answers", "data")}
        | {"losses": losses(read_losses(work / "loss.jsonl"))}
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("notebooks")
    relative = os.path.relpath(work, ROOT)  # as it is by default
    call(["make", "run", f"RUN={relative}", f"BIN={Path(sys.executable).parent}", "READY=", "BROWSER="], work)
    return work


@pytest.fixture(scope="module")
def report(work):
    return json.loads((work / "report.json").read_text())


def test_the_base_model_cannot_do_it_and_the_fine_tuned_one_can(report):
    assert report["rows"] == {"eval": 60, "train": 60, "demo": 3}
    held_out = {name: metric["parts"]["eval"] for name, metric in report["metrics"].items()}
    assert held_out["rougeL"]["before"] <= 0.25
    assert held_out["rougeL"]["after"] >= 0.55
    assert held_out["eos_rate"]["after"] >= 0.95
    assert held_out["loss"]["after"] <= 0.6 * held_out["loss"]["before"]
    assert {held_out[name]["says"] for name in ("loss", "perplexity", "rougeL", "chrf", "own", "opening")} == {"better"}
    assert report["verdict"]["better"] is True
    assert report["verdict"]["learned"].startswith("The lower loss carries over to held-out products")


def test_the_page_and_the_card_carry_the_same_numbers(work, report):
    page, card = ((work / name).read_text() for name in ("report.html", "lora_model/README.md"))
    rouge = report["metrics"]["rougeL"]["parts"]["eval"]
    for value in (rouge["before"], rouge["after"]):
        assert f"{value:.4f}" in page and f"{value:.4f}" in card
    assert "data:image/png;base64," in page
    assert report["answers"]["worst"][0]["uid"] in page


def test_what_was_asked_was_not_trained_on(work):
    trained = [json.loads(line) for line in (work / "train.jsonl").read_text().splitlines()]
    asked = [json.loads(line) for line in (work / "posttest.jsonl").read_text().splitlines()]
    held_out = [row for row in asked if row["part"] == "eval"]
    assert not {row["input_text"] for row in trained} & {row["title"] for row in held_out}
    assert not {row["response"] for row in trained} & {row["reference"] for row in held_out}
    assert len({row["title"] for row in held_out}) == len(held_out)
    assert all(row["uid"] for row in asked)
    known = [row for row in asked if row["part"] == "train"]
    assert {row["reference"] for row in known} <= {row["response"] for row in trained}


def test_a_run_leaves_these_files_and_no_others(work):
    written = {name.rstrip("/") for stage in MADE for name in STAGES[stage].writes}
    assert {path.name for path in work.iterdir()} == written | {f"{name}.ipynb" for name in MADE}
    assert (work / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", MADE)
def test_who_merely_looks_at_an_executed_notebook_sees_the_bars_as_they_ended(work, name):
    """GitHub and nbconvert draw no widgets. What a live Jupyter shows is in tests/browser."""
    notebook = json.loads((work / f"{name}.ipynb").read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    texts = ["".join(output.get("text") or output["data"].get("text/plain", "")) for output in outputs]
    assert not [text for text in texts if re.search(r"^.*: +0%\|", text, re.M)]
    assert re.findall(r"^(.+): 100%\|█{10}\|", "\n".join(texts), re.M) == BARS[name]
    assert "application/vnd.jupyter.widget" not in json.dumps(notebook)


def test_no_result_executed_notebook_or_log_holds_the_token(work):
    assert len(list(work.glob("*.ipynb"))) == 4
    assert "Better than before" in log(work).read_text()
    assert found_in(TOKEN, work, log(work)) == []


def test_the_summary_says_what_was_made_and_how_it_came_out(work, report):
    text = summary(work)
    for stage in MADE:
        assert all(f"{name} (" in text for name in STAGES[stage].writes)
    rouge = report["metrics"]["rougeL"]["parts"]["eval"]
    assert f"{rouge['before']:.4f} -> {rouge['after']:.4f}" in text
    assert report["verdict"]["sentence"] in text
    assert "not run yet" not in text


@pytest.fixture
def fewer(work, tmp_path):
    """The same run without its posttest, and with every other held-out question alone."""
    for name in ("train.jsonl", "eval.jsonl", "prepare_report.json", "run.json", "pretest.made_by.json"):
        shutil.copy(work / name, tmp_path)
    for name in ("questions", "pretest"):
        rows = [row for row in read_rows(work / f"{name}.jsonl") if row["part"] == "eval"]
        write_rows(tmp_path / f"{name}.jsonl", rows[::2])
    return tmp_path


def judge(model, tokenizer, work):
    questions.answer(model, tokenizer, CONFIG, work, "posttest")
    return comparison.compare(work, CONFIG)["verdict"]


@pytest.mark.slow
def test_the_run_is_better_by_fewer_questions_too(work, fewer):
    assert judge(*model_loading.load_adapter(work / "lora_model", CONFIG.model), fewer)["better"] is True


def test_a_run_whose_adapter_is_not_applied_is_not_better(work, fewer):
    model, tokenizer = model_loading.load_adapter(work / "lora_model", CONFIG.model)
    with model.disable_adapter():
        found = judge(model, tokenizer, fewer)
    assert found["better"] is False
    assert "no difference shown" in found["sentence"]


@pytest.mark.slow
def test_a_run_with_another_models_tokenizer_is_not_compared(work, fewer, tmp_path):
    """One of the same words and special tokens, which numbers its words the other way round."""
    model, tokenizer = model_loading.load_adapter(work / "lora_model", CONFIG.model)
    path = tmp_path / "other" / "tokenizer.json"
    tokenizer.save_pretrained(path.parent)
    content = json.loads(path.read_text())
    vocabulary, special = content["model"]["vocab"], {token["content"] for token in content["added_tokens"]}
    words = [word for word in vocabulary if word not in special]
    vocabulary |= dict(zip(words, [vocabulary[word] for word in reversed(words)], strict=True))
    path.write_text(json.dumps(content))
    other = type(tokenizer).from_pretrained(path.parent)
    assert other("A mug of steel.").input_ids != tokenizer("A mug of steel.").input_ids
    with pytest.raises(Tc3Error, match=r"pretest\.jsonl comes from another set-up: another tokenizer"):
        judge(model, other, fewer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shuffle",
    [lambda rows: random.Random(1).sample(rows, len(rows)), lambda rows: rows[7:] + rows[:7]],
    ids=["at random", "moved by seven"],
)
def test_a_run_on_shuffled_descriptions_is_not_better(work, fewer, shuffle):
    """It learns the style, so that the loss falls, and nothing of what a title has to do with its description."""
    rows = read_rows(work / "train.jsonl")
    pairs = zip(rows, shuffle(rows), strict=True)
    shuffled = [row | format_record(row["input_text"], description(other)) for row, other in pairs]
    config = CONFIG.change(max_steps=100, eval_strategy="no", save_strategy="no")
    write_rows(fewer / "train.jsonl", shuffled)
    trainer = training.build_trainer(training.Run(config.change(resume_from_checkpoint=False), fewer))
    trainer.train()
    write_rows(fewer / "train.jsonl", rows)
    found = judge(trainer.model, trainer.processing_class, fewer)
    assert found["better"] is False
    assert comparison.compare(fewer, CONFIG)["metrics"]["loss"]["parts"]["eval"]["says"] == "better"


@pytest.mark.slow
def test_the_scripts_do_what_the_notebooks_do_to_the_bit(work, tmp_path):
    for name in MADE:
        call([sys.executable, f"notebooks/{name}.py"], tmp_path)
    assert results(tmp_path) == results(work)
    assert found_in(TOKEN, tmp_path, log(tmp_path)) == []


@pytest.mark.slow
def test_restart_and_run_all_again_changes_nothing_and_the_fifth_notebook_exports_it(work):
    before = results(work)
    run_notebooks(work)
    assert results(work) == before
    exported = json.loads((work / "export.json").read_text())
    assert exported["formats"]["merged"]["failed"] == []
    assert exported["adapter"]["loss"] == pytest.approx(exported["in_4bit"]["loss"], abs=0.05)
    assert found_in(TOKEN, work, log(work)) == []
