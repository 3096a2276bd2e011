import json
import shutil
from pathlib import Path

import pytest

from tc3lib import files
from tc3lib.checkpoints import run_record, store
from tc3lib.errors import Tc3Error


@pytest.fixture
def work(tmp_path):
    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_text('{"uid": "a"}\n')
    return tmp_path


def checkpoint(work, step, **files):
    """Commit a checkpoint of the run in `work`."""
    folder = work / "local"
    folder.mkdir()
    for name, content in {"run.json": (work / "run.json").read_text(), **files}.items():
        (folder / name).write_text(content)
    store.seal(folder, json.loads((work / "run.json").read_text())["run"], step, None)
    committed = store.commit(folder, work / "outputs")
    store.remove(folder)
    return committed


def test_a_record_says_what_the_run_is(config, work):
    found = run_record.describe(config, work)
    assert found["settings"]["training"]["max_steps"] == 4
    assert found["layout"] == 2
    assert found["data"]["train.jsonl"] == found["data"]["eval.jsonl"]
    assert found["versions"]["unsloth"] == "2026.10.9"
    assert found["device"].startswith(("CPU, ", "NVIDIA"))
    json.dumps(found)


def test_a_fresh_folder_starts_and_is_recorded(config, work):
    new = run_record.describe(config, work)
    assert run_record.open_run(work, new, resume=True) == []
    recorded = json.loads((work / "run.json").read_text())
    assert recorded["data"] == new["data"]
    assert len(recorded["run"]) == 8


def test_a_run_that_goes_on_keeps_its_identity_and_another_gets_its_own(config, work):
    first = run_record.describe(config, work)
    run_record.open_run(work, first, resume=True)
    checkpoint(work, 10)
    again = run_record.describe(config, work)
    run_record.open_run(work, again, resume=True)
    assert again["run"] == first["run"]
    anew = run_record.describe(config, work)
    run_record.open_run(work, anew, resume=False)
    assert anew["run"] != first["run"]


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"max_steps": 8}, "max_steps was 4 and is now 8"),
        ({"r": 8}, "r was 16 and is now 8"),
        ({"lora_dropout": 0.1}, r"lora_dropout was 0\.0 and is now 0\.1"),
        (
            {"gradient_accumulation_steps": 4},
            r"effective batch \(per_device_train_batch_size x gradient_accumulation_steps\) was 8 and is now 16",
        ),
        ({"seed": 1}, "seed was 3407 and is now 1"),
        ({"max_steps": -1}, "max_steps was 4 and is now -1"),
        ({"plan": "recipe"}, "plan was 'auto' and is now 'recipe'"),
    ],
)
def test_another_run_is_refused_with_the_exact_difference(config, work, settings, difference):
    run_record.open_run(work, run_record.describe(config, work), resume=True)
    checkpoint(work, 2)
    with pytest.raises(Tc3Error, match=f"another run: {difference}. To start anew, set resume_from_checkpoint=False"):
        run_record.open_run(work, run_record.describe(config.change(**settings), work), resume=True)


def test_a_setting_that_an_older_version_lacked_counts_as_its_default(config, work):
    old = run_record.describe(config, work)
    for part, name in (("training", "max_steps"), ("training", "lr_scheduler_kwargs"), ("planning", "plan")):
        del old["settings"][part][name]
    run_record.open_run(work, old, resume=True)
    checkpoint(work, 2)
    new = run_record.describe(config.change(max_steps=60), work)  # the recipe's
    run_record.open_run(work, new, resume=True)
    assert new["run"] == old["run"]
    (work / "run.json").write_text(json.dumps(old))
    with pytest.raises(Tc3Error, match=r"max_steps was 60 and is now 4"):
        run_record.open_run(work, run_record.describe(config, work), resume=True)


def test_what_may_differ_is_listed(config, work):
    old = run_record.describe(config, work) | {"plan": {"max_tokens": 9000, "steps": 4}}
    run_record.open_run(work, old, resume=True)
    checkpoint(work, 2)
    other = config.change(
        save_steps=1, logging_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=4, memory_gib=16.0,
        num_train_epochs=9, use_gradient_checkpointing="unsloth",
    )  # fmt: skip
    new = run_record.describe(other, work) | {"device": "Another", "plan": {"max_tokens": 2000, "steps": 4}}
    new["versions"] = old["versions"] | {"torch": "9.9"}
    assert sorted(run_record.open_run(work, new, resume=True)) == sorted(
        [
            "save_steps 2 -> 1",
            "logging_steps 1 -> 2",
            "per_device_train_batch_size 4 -> 2",
            "gradient_accumulation_steps 2 -> 4",
            "memory_gib None -> 16.0",
            "num_train_epochs 4.0 -> 9.0",
            "use_gradient_checkpointing False -> unsloth",
            "max_tokens 9000 -> 2000",
            f"torch {old['versions']['torch']} -> 9.9",
            f"{old['device']} -> Another",
        ]
    )


def test_the_same_batch_in_another_shape_is_another_run_of_the_recipe(config, work):
    recipe = config.change(plan="recipe")
    run_record.open_run(work, run_record.describe(recipe, work), resume=True)
    checkpoint(work, 2)
    other = recipe.change(per_device_train_batch_size=2, gradient_accumulation_steps=4)
    with pytest.raises(Tc3Error, match="per_device_train_batch_size was 4 and is now 2"):
        run_record.open_run(work, run_record.describe(other, work), resume=True)


@pytest.mark.parametrize("what", ["tokenizer", "order"])
def test_another_tokenizer_or_order_is_refused(config, work, what):
    run_record.open_run(work, run_record.describe(config, work) | {what: "a"}, resume=True)
    checkpoint(work, 2)
    with pytest.raises(Tc3Error, match=f"the {what}.* has changed since. To start anew, set resume_from_check"):
        run_record.open_run(work, run_record.describe(config, work) | {what: "b"}, resume=True)


def test_other_data_or_another_template_is_refused(config, work, monkeypatch):
    old = run_record.describe(config, work)
    run_record.open_run(work, old, resume=True)
    checkpoint(work, 2)
    (work / "train.jsonl").write_text('{"uid": "b"}\n')
    with pytest.raises(Tc3Error, match=r"train\.jsonl has changed since"):
        run_record.open_run(work, run_record.describe(config, work), resume=True)
    with pytest.raises(Tc3Error, match="the prompt template has changed since"):
        run_record.open_run(work, old | {"template": "x"}, resume=True)


@pytest.mark.parametrize("record", [None, "", "[1]", '{"settings": null, "data": {}}', '{"settings": {}}'])
def test_a_lost_record_is_read_from_the_checkpoints(config, work, record):
    new = run_record.describe(config, work)
    run_record.open_run(work, new, resume=True)
    last = checkpoint(work, 2)
    (work / "run.json").unlink()
    if record is not None:
        (work / "run.json").write_text(record)
    again = run_record.describe(config, work)
    run_record.open_run(work, again, resume=True)
    assert again["run"] == new["run"]
    with pytest.raises(Tc3Error, match="r was 16 and is now 8"):
        run_record.open_run(work, run_record.describe(config.change(r=8), work), resume=True)
    for path in (work / "run.json", last / "run.json"):
        path.write_text(record or "")
    with pytest.raises(Tc3Error, match=r"holds checkpoints, but run\.json is missing or damaged\. To start anew"):
        run_record.open_run(work, again, resume=True)


@pytest.mark.parametrize("left", ["the journal", "the folder alone", "nothing"])
def test_checkpoints_that_are_gone_are_missed(config, work, left):
    new = run_record.describe(config, work)
    run_record.open_run(work, new, resume=True)
    store.remove(checkpoint(work, 2))
    missed = "holds the checkpoints of another run: r was 16 and is now 8"
    if left != "the journal":
        missed = "outputs is missing or empty, although a run was begun there.*To start anew"
        (work / "outputs" / store.JOURNAL).unlink()
        with pytest.raises(Tc3Error, match=missed):
            run_record.open_run(work, new, resume=True)
    if left == "nothing":
        (work / "outputs").rmdir()
    with pytest.raises(Tc3Error, match=missed):
        run_record.open_run(work, run_record.describe(config.change(r=8), work), resume=True)
    assert (work / "outputs").exists() == (left != "nothing")


def test_another_output_dir_names_the_one_of_the_run(config, work):
    run_record.open_run(work, run_record.describe(config.change(output_dir="mine"), work), resume=True)
    checkpoints = work / "mine" / store.JOURNAL
    other = run_record.describe(config, work)
    with pytest.raises(Tc3Error, match=r"has its checkpoints in mine: set output_dir='mine'\. To start anew"):
        run_record.open_run(work, other, resume=True)
    assert checkpoints.is_file()
    run_record.open_run(work, other, resume=False)
    assert (work / "run-1" / "mine" / store.JOURNAL).is_file()
    assert not checkpoints.exists()


def test_a_lost_journal_costs_nothing(config, work):
    new = run_record.describe(config, work)
    run_record.open_run(work, new, resume=True)
    last = checkpoint(work, 2)
    (work / "outputs" / store.JOURNAL).unlink()
    again = run_record.describe(config, work)
    run_record.open_run(work, again, resume=True)
    assert again["run"] == new["run"]
    assert store.committed(work / "outputs") == [last]


@pytest.mark.parametrize("record", ["whole", "lost"])
def test_a_run_of_an_earlier_version_is_refused_and_nothing_of_it_removed(config, work, record):
    """It had no layout and no journal, and may have left a checkpoint that is not whole."""
    old = run_record.describe(config, work) | {"run": "0123abcd"}
    del old["layout"]
    files.write_json(work / "run.json", old)
    store.begin(work / "outputs")
    checkpoint(work, 2)
    (work / "outputs" / store.JOURNAL).unlink()
    (work / "outputs" / "checkpoint-3-0123abcd").mkdir()
    if record == "lost":
        (work / "run.json").unlink()
    before = sorted(work.rglob("*"))
    new = run_record.describe(config, work)
    with pytest.raises(
        Tc3Error, match=r"was begun with an earlier version of tc3lib\. To start anew, set resume_from_"
    ):
        run_record.open_run(work, new, resume=True)
    assert sorted(work.rglob("*")) == before
    run_record.open_run(work, new, resume=False)
    aside = {path.relative_to(work / "run-1") for path in (work / "run-1").rglob("*")}
    assert aside == {path.relative_to(work) for path in before} - {Path("train.jsonl"), Path("eval.jsonl")}


def test_an_adapter_of_other_rows_is_refused(config, work):
    run_record.open_run(work, run_record.describe(config, work), resume=True)
    run_record.check_adapter(work)
    (work / "eval.jsonl").write_text('{"uid": "b"}\n')
    with pytest.raises(Tc3Error, match="have changed since the adapter was trained: run 03_train again"):
        run_record.check_adapter(work)


@pytest.mark.parametrize(
    ("adapter", "result", "said"),
    [
        (
            {"run": "1"},
            {"steps": 60},
            "it has saved no adapter. Run 03_train again; or, to test the adapter of step",
        ),
        ({"run": "1"}, None, "it has not ended"),
        ({"run": "1"}, {"steps": 9, "error": "Stopped."}, "Stopped. Run 03_train again; or, to test the adapter"),
        ({"result": {"steps": 37}}, None, "it has not ended. .* adapter of step 37 of run 2"),
        (None, {"steps": 9, "error": "Stopped."}, "Stopped. Run 03_train again.$"),
    ],
)
def test_an_adapter_that_is_not_the_last_runs_result_is_refused(config, work, adapter, result, said):
    new = run_record.describe(config, work) | {"run": "2", "result": result}
    files.write_json(work / "run.json", new)
    (work / "lora_model").mkdir()
    if adapter:  # an earlier version saved none
        files.write_json(work / "lora_model" / "run.json", new | {"result": {"steps": 60}} | adapter)
    with pytest.raises(Tc3Error, match=f"lora_model is not the result of the last run in .*, 2: {said}"):
        run_record.check_adapter(work)
    if adapter:
        shutil.copy(work / "lora_model" / "run.json", work / "run.json")  # as it says
        run_record.check_adapter(work)


def test_an_adapter_of_a_run_that_was_stopped_says_so(config, work, capsys):
    (work / "lora_model").mkdir()
    for folder in (work, work / "lora_model"):
        new = run_record.describe(config, work) | {"run": "2", "plan": {"steps": 60}, "result": {"steps": 37}}
        files.write_json(folder / "run.json", new)
    run_record.check_adapter(work)
    assert capsys.readouterr().out == "the adapter is of step 37 of 60: its run was stopped there\n"


def test_a_base_model_may_move_but_not_change(config, work):
    new = run_record.describe(config, work) | {"base": "a"}
    run_record.open_run(work, new, resume=True)
    checkpoint(work, 2)
    moved = run_record.describe(config.change(model_name="/elsewhere/base_model"), work) | {"base": "a"}
    said = f"model_name {config.model.model_name} -> /elsewhere/base_model"
    assert run_record.open_run(work, moved, resume=True) == [said]
    assert moved["run"] == new["run"]
    assert run_record.as_trained(config, work) == config  # there is nothing in that folder
    with pytest.raises(Tc3Error, match="another run: the base model has changed since"):
        run_record.open_run(work, moved | {"base": "b"}, resume=True)


def test_a_work_folder_that_went_away_is_reported_in_a_line(config, work):
    (work / "eval.jsonl").unlink()
    with pytest.raises(Tc3Error, match=r"cannot read .*eval\.jsonl: No such file.*Run the settings cell again"):
        run_record.describe(config, work)


def test_starting_anew_sets_every_earlier_run_aside_whole(config, work):
    new = run_record.describe(config, work)
    for number in (1, 2):
        run_record.open_run(work, new, resume=True)
        checkpoint(work, 2)
        (work / "loss.jsonl").write_text(str(number))
        assert run_record.open_run(work, new, resume=False) == []
        aside = work / f"run-{number}"
        assert sorted(path.name for path in aside.iterdir()) == ["loss.jsonl", "outputs", "run.json"]
        assert (aside / "loss.jsonl").read_text() == str(number)
    assert [path.name for path in (work / "outputs").iterdir()] == [store.JOURNAL]


def test_an_adapter_is_loaded_on_the_model_as_it_was_trained(config, work):
    settings = {"model": {"load_in_4bit": False, "gone": 1}, "training": {"max_steps": 7}}
    (work / "run.json").write_text(json.dumps({"run": "1", "data": {}, "settings": settings}))
    assert run_record.as_trained(config, work) == config.change(load_in_4bit=False)
    (work / "run.json").write_text("{")
    assert run_record.as_trained(config, work) == config


def test_the_default_prompt_is_known_by_the_hash_that_older_versions_recorded(config, work):
    hashed = "eeb8322de1a94a0669ce4f475a6b7b0a47e039aef5d837aa1b6804cc2ad9bf91"
    assert run_record.describe(config, work)["template"] == hashed
    for change in ({"instruction": "Descreva"}, {"response": "{content}"}, {"prompt": "chat"}):
        assert run_record.describe(config.change(**change), work)["template"] != hashed


def test_the_prompt_is_part_of_what_a_run_is_and_an_adapter_is_asked_with_its_own(config, work):
    old = run_record.describe(config, work)
    del old["settings"]["prompting"]  # of an older version, which had no other prompt
    run_record.open_run(work, old, resume=True)
    checkpoint(work, 2)
    chat = config.change(prompt="chat")
    with pytest.raises(Tc3Error, match="prompt was 'alpaca' and is now 'chat'"):
        run_record.open_run(work, run_record.describe(chat, work), resume=True)
    run_record.open_run(work, run_record.describe(config, work), resume=True)
    assert run_record.as_trained(chat, work).prompting == config.prompting
    with pytest.raises(Tc3Error, match="the prompt has changed since"):
        new = run_record.describe(config, work)
        run_record.open_run(work, {**old, "prompt": "a"}, resume=True)
        run_record.open_run(work, {**new, "prompt": "b"}, resume=True)
    run_record.open_run(work, run_record.describe(chat, work), resume=False)
    assert run_record.as_trained(config, work).prompting == chat.prompting
