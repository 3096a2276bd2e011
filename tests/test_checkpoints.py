import json

import numpy
import pytest
import torch
from safetensors.numpy import save_file

from tc3lib import checkpoints
from tc3lib.errors import Tc3Error


@pytest.fixture
def work(tmp_path):
    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_text('{"uid": "a"}\n')
    return tmp_path


def checkpoint(work, step, missing=None, cut=None, share=0.0):
    folder = work / "outputs" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    save_file({"w": numpy.arange(100)}, folder / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"w": torch.arange(100)}, folder / name)
    if missing:
        (folder / missing).unlink()
    if cut:
        content = (folder / cut).read_bytes()
        (folder / cut).write_bytes(content[: int(len(content) * share)])
    return folder


def test_a_manifest_says_what_the_run_is(config, work):
    found = checkpoints.manifest(config, work)
    assert found["settings"]["training"]["max_steps"] == 4
    assert found["data"]["train.jsonl"] == found["data"]["eval.jsonl"]
    assert found["versions"]["unsloth"] == "2026.10.9"
    assert found["device"].startswith(("CPU, ", "NVIDIA"))
    json.dumps(found)


def test_a_fresh_folder_starts_and_is_recorded(config, work):
    new = checkpoints.manifest(config, work)
    assert checkpoints.open_run(work, new, resume=True) is None
    assert json.loads((work / "run.json").read_text())["data"] == new["data"]


def test_the_newest_complete_checkpoint_is_chosen_by_step_not_by_name(config, work):
    new = checkpoints.manifest(config, work)
    checkpoints.open_run(work, new, resume=True)
    checkpoint(work, 90)
    newest = checkpoint(work, 100)
    assert checkpoints.open_run(work, new, resume=True) == newest


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_an_incomplete_checkpoint_is_passed_over(config, work, name):
    good = checkpoint(work, 10)
    checkpoint(work, 20, missing=name)
    assert checkpoints.latest_complete(work / "outputs") == good
    for number, share in enumerate((0.0, 0.5, 0.97)):
        checkpoint(work, 30 + number, cut=name, share=share)
        assert checkpoints.latest_complete(work / "outputs") == good


def test_a_folder_that_drive_duplicated_is_not_a_checkpoint(work):
    good = checkpoint(work, 10)
    good.rename(good.with_name("checkpoint-10 (1)"))
    assert checkpoints.latest_complete(work / "outputs") is None


def test_none_complete_is_an_error_not_a_fresh_start(config, work):
    new = checkpoints.manifest(config, work)
    checkpoints.open_run(work, new, resume=True)
    checkpoint(work, 10, missing="optimizer.pt")
    with pytest.raises(Tc3Error, match=r"none of the 1 checkpoints in .*outputs is complete\. To start anew"):
        checkpoints.open_run(work, new, resume=True)


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"max_steps": 8}, "max_steps was 4 and is now 8"),
        ({"r": 8}, "r was 16 and is now 8"),
        ({"lora_dropout": 0.1}, r"lora_dropout was 0\.0 and is now 0\.1"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps was 2 and is now 4"),
        ({"plan": "recipe"}, "plan was 'auto' and is now 'recipe'"),
    ],
)
def test_another_run_is_refused_with_the_exact_difference(config, work, settings, difference):
    checkpoints.open_run(work, checkpoints.manifest(config, work), resume=True)
    checkpoint(work, 2)
    with pytest.raises(Tc3Error, match=f"another run: {difference}. To start anew, set resume_from_checkpoint=False"):
        checkpoints.open_run(work, checkpoints.manifest(config.change(**settings), work), resume=True)


def test_how_often_it_saves_and_evaluates_may_differ(config, work):
    checkpoints.open_run(work, checkpoints.manifest(config, work), resume=True)
    last = checkpoint(work, 2)
    other = checkpoints.manifest(config.change(save_steps=1, eval_steps=1, logging_steps=2), work)
    assert checkpoints.open_run(work, other, resume=True) == last


def test_other_data_or_another_template_is_refused(config, work, monkeypatch):
    old = checkpoints.manifest(config, work)
    checkpoints.open_run(work, old, resume=True)
    checkpoint(work, 2)
    (work / "train.jsonl").write_text('{"uid": "b"}\n')
    with pytest.raises(Tc3Error, match=r"train\.jsonl has changed since"):
        checkpoints.open_run(work, checkpoints.manifest(config, work), resume=True)
    with pytest.raises(Tc3Error, match="the prompt template has changed since"):
        checkpoints.open_run(work, old | {"template": "x"}, resume=True)


@pytest.mark.parametrize("record", [None, "", "[1]", '{"settings": null, "data": {}}', '{"settings": {}}'])
def test_checkpoints_without_their_record_are_refused(config, work, record):
    checkpoint(work, 2)
    if record is not None:
        (work / "run.json").write_text(record)
    with pytest.raises(Tc3Error, match=r"run\.json is missing or damaged"):
        checkpoints.open_run(work, checkpoints.manifest(config, work), resume=True)


def test_an_adapter_of_other_rows_is_refused(config, work):
    checkpoints.open_run(work, checkpoints.manifest(config, work), resume=True)
    checkpoints.check_adapter(work)
    (work / "eval.jsonl").write_text('{"uid": "b"}\n')
    with pytest.raises(Tc3Error, match="have changed since the adapter was trained: run 03_train again"):
        checkpoints.check_adapter(work)


def test_starting_anew_sets_every_earlier_run_aside_whole(config, work):
    new = checkpoints.manifest(config, work)
    for number in (1, 2):
        checkpoints.open_run(work, new, resume=True)
        checkpoint(work, 2)
        (work / "loss.jsonl").write_text(str(number))
        assert checkpoints.open_run(work, new, resume=False) is None
        aside = work / f"run-{number}"
        assert sorted(path.name for path in aside.iterdir()) == ["loss.jsonl", "outputs", "run.json"]
        assert (aside / "loss.jsonl").read_text() == str(number)
    assert not (work / "outputs").exists()
