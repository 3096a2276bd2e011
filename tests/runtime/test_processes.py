"""Two processes under `accelerate launch` are one run: the same steps, files and messages as in one process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest

from tc3lib import files, settings, training
from tc3lib.errors import Tc3Error
from tc3lib.runtime import processes
from tc3lib.training import batches
from tc3lib.training.losses import read_losses

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "helpers" / "process_runs.py"
TOLERANCE = 1e-5
EPOCH = (8, 8, 8, 1)
LAUNCH = [
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no",
    "--dynamo_backend=no", "--main_process_port=0",
]  # fmt: skip


def start(arguments, **environment):
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    if "--multi_gpu" in command:
        environment |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_TORCH_DEVICE": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def end(process, seconds=600):
    """Return the exit status and what was printed; a process that hangs is ended, and fails the test."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        pytest.fail(f"it hangs: {process.communicate()[1][-3000:]}")
    return process.returncode, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `process_runs` leaves: in `one` of one process, in `two` of two."""
    folder = tmp_path_factory.mktemp("runs")
    for name, before, runs in (
        ("one", [], ["whole", "recipe"]),
        ("two", LAUNCH, ["whole", "cut", "memory", "recipe", "resumed", "minutes"]),
    ):
        (folder / name).mkdir()
        status, out, err = end(start([*before, RUNS, folder / name, *runs]))
        assert status == 0, (out + err)[-6000:]
    return folder


def read(folder, name, process=0):
    return json.loads((folder / f"{name}.{process}.json").read_text())


def saved(folder, name):
    return {int(path.name.split("-")[1]) for path in (folder / "two" / name / "outputs").glob("checkpoint-*")}


@pytest.fixture
def launched(monkeypatch):
    """The environment of the first of two processes."""
    for name, value in (("LOCAL_RANK", "0"), ("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture(scope="module")
def alone(folder):
    return read(folder / "one", "whole")


@pytest.mark.parametrize("name", ["whole", "cut", "memory"])
@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(folder, alone, name):
    """Also where one cuts its rows otherwise, or runs out of memory and makes its part again."""
    found, other = read(folder / "two", name), read(folder / "two", name, 1)
    assert (alone["processes"], found["processes"]) == (1, 2)
    assert len(alone["losses"]) == 2 * len(EPOCH)
    for what in ("losses", "norms", "eval_losses"):
        assert found[what] == pytest.approx(alone[what], rel=TOLERANCE), what
    assert found["adapter"] == other["adapter"]
    assert not found["refused"]
    assert bool(other["refused"]) == (name == "memory")


@pytest.mark.slow
def test_with_the_recipe_two_processes_make_the_steps_of_one_too(folder):
    """TRL's own trainer; micro-batches are dealt out by accelerate."""
    alone, *both = read(folder / "one", "recipe"), *(read(folder / "two", "recipe", process) for process in (0, 1))
    assert len(alone["losses"]) == 6
    for found in both:
        for what in ("losses", "norms", "eval_losses"):
            assert found[what] == pytest.approx(alone[what], rel=TOLERANCE), what
    for step, rows in alone["seen"].items():
        assert Counter(map(str, rows)) == Counter(map(str, both[0]["seen"][step] + both[1]["seen"][step]))


@pytest.mark.parametrize("name", ["whole", "cut", "memory"])
@pytest.mark.slow
def test_every_row_is_seen_once_an_epoch_in_the_step_of_one_process(folder, alone, name):
    parts = [read(folder / "two", name, process)["seen"] for process in (0, 1)]
    steps = range(1, 2 * len(EPOCH) + 1)
    whole = {step: Counter(map(str, parts[0][str(step)] + parts[1][str(step)])) for step in steps}
    assert whole == {step: Counter(map(str, alone["seen"][str(step)])) for step in steps}
    for epoch in (0, 1):
        rows = [whole[step] for step in steps[epoch * len(EPOCH) :][: len(EPOCH)]]
        assert tuple(map(Counter.total, rows)) == EPOCH
        assert set(sum(rows, Counter()).values()) == {1}
    sizes = [[len(part[str(step)]) for step in steps] for part in parts]
    assert sizes == [[4, 4, 4, 1] * 2, [4, 4, 4, 0] * 2]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step_and_both_continue_exactly(folder):
    whole, resumed = (read(folder / "two", name) for name in ("undisturbed", "resumed"))
    assert saved(folder, "stopped") == {3, 4, 6, 8}
    for process in (0, 1):
        # One that is stopped in its last step is finished.
        assert read(folder / "two", "stopped", process) == {
            "stopped": "stopped by SIGTERM after step 4 of 8: run it again."
        }
    assert list(resumed["seen"]) == ["5", "6", "7", "8"]
    for what in ("losses", "norms", "eval_losses", "adapter"):
        assert resumed[what] == whole[what]


@pytest.mark.slow
def test_where_one_process_finds_it_is_time_to_save_all_save(folder):
    assert saved(folder, "minutes") == set(range(1, 9))


@pytest.mark.slow
def test_another_number_of_processes_is_another_run(folder, monkeypatch):
    runs = [files.read_json(folder / name / "whole" / "run.json") for name in ("one", "two")]
    assert runs[0]["order"] == runs[1]["order"]
    for name, was, now in (("two", 2, 1), ("one", 1, 2)):
        run = files.read_json(folder / name / "whole" / "run.json")
        same = settings.get("tiny").change(
            **{key: value for part in run["settings"].values() for key, value in part.items()}
        )
        monkeypatch.setattr(processes, "count", lambda now=now: now)
        with pytest.raises(Tc3Error, match=rf"--num_processes \(of accelerate launch\) was {was} and is now {now}"):
            training.Run(same, folder / name / "whole")
        monkeypatch.setattr(processes, "count", lambda was=was: was)
        assert training.Run(same, folder / name / "whole").plan.steps == 8


@pytest.mark.slow
def test_an_error_in_one_process_ends_the_run_with_its_message(tmp_path):
    status, _, err = end(start([*LAUNCH, RUNS, tmp_path, "failed"]), seconds=300)
    assert status != 0
    assert "Tc3Error: there is something wrong here." in err


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """Notebook 03 as a script, stopped by SIGTERM to the launcher, and run again: where it wrote, what it printed."""
    work = tmp_path_factory.mktemp("notebook")
    rows = files.read_rows(make_rows(work))
    files.write_rows(work / "train.jsonl", rows[:40])
    files.write_rows(work / "eval.jsonl", rows[40:])
    files.write_json(work / "settings.json", {"preset": "tiny"})
    text = (ROOT / "notebooks" / "03_train.py").read_text()
    old = "# max_steps=120, learning_rate=1e-4,"
    assert text.count(old) == 1
    script = tmp_path_factory.mktemp("script") / "03_train.py"
    changes = "max_steps=40, save_steps=20, eval_steps=20, warmup_steps=0, save_total_limit=None, dtype='float32',"
    script.write_text(text.replace(old, changes + "load_in_4bit=False"))
    environment = {"TC3_PRESET": "tiny", "TC3_HOME": str(work), "TMPDIR": str(script.parent)}
    process = start([*LAUNCH, script], **environment)
    while process.poll() is None and not any("loss" in row for row in read_losses(work / "loss.jsonl")):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    return work, script.parent, end(process), end(start([*LAUNCH, script], **environment))


def make_rows(work):
    from steps import ROWS

    files.write_rows(work / "rows.jsonl", ROWS[:50])
    return work / "rows.jsonl"


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_the_step_and_ends_the_run(notebook):
    _, _, (status, out, err), _ = notebook
    assert status != 0
    assert "safe to disconnect: step" in out, err[-6000:]
    assert "Tc3Error: stopped by SIGTERM after step" in err


@pytest.mark.slow
def test_the_notebook_in_two_processes_continues_and_speaks_once(notebook):
    work, _, _, (status, out, err) = notebook
    assert status == 0, (out + err)[-6000:]
    assert "continuing after step" in out
    lines = [line for line in out.splitlines() if line]
    assert [line for line, times in Counter(lines).items() if times > 1] == []
    assert "in each of 2 processes" in out
    assert err.count("training: 100%") == err.count("40/40") > 0
    assert "training:   0%" not in err  # a second bar would begin anew
    steps = [row["step"] for row in read_losses(work / "loss.jsonl") if "loss" in row]
    assert steps == list(range(1, 41))


@pytest.mark.slow
def test_files_are_written_once_and_nothing_is_left_over(notebook):
    work, temporary, _, _ = notebook
    run = files.read_json(work / "run.json")
    assert run["processes"] == 2
    assert run["result"]["steps"] == 40
    assert {path.name for path in work.iterdir()} == {
        "rows.jsonl", "train.jsonl", "eval.jsonl", "settings.json", "loss.jsonl", "loss.png", "run.json", "outputs",
        "lora_model",
    }  # fmt: skip
    last = work / "outputs" / f"checkpoint-40-{run['run']}"
    assert {path.name for path in last.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert (last / "adapter_model.safetensors").stat().st_size > 0
    assert (work / "lora_model" / "adapter_model.safetensors").exists()
    assert [path.name for path in temporary.glob("tc3-*")] == [f"tc3-tokens-{os.getuid()}"]


def row(length, learned=9):
    ids = numpy.arange(length)
    return {"input_ids": numpy.where(ids < 2, ids, learned), "completion_mask": ids >= 2}


def test_rows_are_dealt_out_evenly_and_a_process_without_any_gets_one_without_labels():
    rows = [row(length, label) for label, length in enumerate([9, 5, 7, 8, 6])]
    parts = [batches.shard(batches.collate, rows, index, 3) for index in range(3)]
    assert [sorted(set(part["labels"].flatten().tolist()) - {-100}) for part in parts] == [[0], [1, 3], [2, 4]]
    assert [part["labelled"] for part in parts] == [9 + 5 + 7 + 8 + 6 - 5 * 2] * 3
    none = batches.shard(batches.collate, rows[:2], 2, 3)
    assert set(none["labels"].flatten().tolist()) == {-100}
    assert none["lengths"] == batches.collate(rows[:1])["lengths"]
    assert none["labelled"] == 9 + 5 - 2 * 2


def test_one_long_row_does_not_make_a_process_wait_for_the_other():
    lengths = [600, 90, 80, 80, 70, 60, 50, 50]
    parts = [batches.shard(batches.collate, [row(length) for length in lengths], index, 2) for index in range(2)]
    assert [len(part["lengths"]) - 1 for part in parts] == [4, 4]
    shared = 1  # the token that all rows begin with is there once for four of them
    assert sorted(sum(part["lengths"]) + 3 * shared for part in parts) == [320, 760]


@pytest.mark.parametrize(
    ("joined", "device", "message"),
    [
        (1, "cpu", "started 2 processes without a GPU for each: .*ACCELERATE_USE_CPU=true"),
        (2, "cpu:0", "ACCELERATE_TORCH_DEVICE=cpu"),
        (2, "cpu", None),
        (2, "cuda:1", None),
    ],
)
def test_processes_that_do_not_know_of_each_other_are_an_error(launched, joined, device, message):
    accelerator = SimpleNamespace(num_processes=joined, device=device)
    launched.setattr("accelerate.PartialState", lambda cpu: SimpleNamespace(num_processes=1))
    with pytest.raises(Tc3Error, match="started 2 processes without a GPU for each"):
        processes.gather(1)
    if message is None:
        processes.check(accelerator)
        return
    with pytest.raises(Tc3Error, match=message):
        processes.check(accelerator)
