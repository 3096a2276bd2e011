"""A run that is broken off, whatever the reason, goes on as if it had not been."""

import itertools
import json
import os
import re
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from test_run import adapter, at_step, run

from tc3lib import files, models
from tc3lib.checkpoints import saver as saving
from tc3lib.checkpoints import store
from tc3lib.errors import Tc3Error
from tc3lib.runtime import processes
from tc3lib.training import run as training
from tc3lib.training.progress import read_losses

STEPS = 7


@pytest.fixture(scope="module")
def config(config):
    """Dropout draws random numbers, and an epoch ends after 4 of 7 steps."""
    return config.change(
        lora_dropout=0.1, max_steps=STEPS, save_steps=1, save_total_limit=None, eval_steps=3, logging_steps=2
    )


@pytest.fixture(scope="module")
def whole(config, rows, tmp_path_factory):
    """An uninterrupted run that saved every step."""
    work = tmp_path_factory.mktemp("whole")
    run(config, rows, work)
    return work


@pytest.fixture(autouse=True)
def own_disk(tmp_path, monkeypatch):
    """What the machine's own disk would hold."""
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(saving.tempfile, "gettempdir", lambda: str(tmp_path / "disk"))
    monkeypatch.setattr(saving.Saver, "RETRY_SECONDS", (0, 0))
    return tmp_path / "disk"


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def until(step, whole, work):
    """Make `work` what `whole` was after a step; its loss file knows more."""
    shutil.copytree(whole, work, dirs_exist_ok=True)
    shutil.rmtree(work / "lora_model")
    for folder in store.checkpoints(work / "outputs"):
        if store.step(folder) > step:
            shutil.rmtree(folder)
    return work


def newest(work):
    return store.checkpoints(work / "outputs")[0]


def state(work):
    """Every tensor and number of a finished run."""
    last = newest(work)
    found = {name: torch.load(last / name, weights_only=True) for name in ("optimizer.pt", "scheduler.pt")}
    with torch.serialization.safe_globals(_numpy_state()):
        found["rng"] = torch.load(last / "rng_state.pth", weights_only=True)
    found |= {"step": store.step(last), "adapter": load_file(last / "adapter_model.safetensors")}
    return found | {"saved": load_file(work / "lora_model" / "adapter_model.safetensors"), "losses": losses(work)}


def _numpy_state():
    import numpy

    kinds = [type(numpy.dtype(numpy.uint32))]
    return [numpy._core.multiarray._reconstruct, numpy.ndarray, numpy.dtype, *kinds]


def losses(work):
    return read_losses(work / "loss.jsonl"), json.loads((newest(work) / "losses.json").read_text())


def assert_same(one, other):
    """To the bit, through all that lies in each other."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert (one == other) is True or (one == other).all()


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_run_continued_from_any_step_is_the_uninterrupted_one(config, rows, whole, work, step, capsys):
    run(config, rows, until(step, whole, work))
    assert f"continuing after step {step}: " in capsys.readouterr().out
    assert_same(state(work), state(whole))


def test_the_mean_loss_after_a_resume_is_that_of_all_steps(config, rows, whole, work, capsys):
    config = config.change(logging_steps=1)
    run(config, rows, work, stop_after=4)
    run(config, rows, work)
    result = json.loads((work / "run.json").read_text())["result"]
    rows = [row["loss"] for row in read_losses(work / "loss.jsonl") if "loss" in row]
    assert len(rows) == STEPS
    assert result["mean_train_loss"] == pytest.approx(sum(rows) / STEPS, rel=1e-12)
    assert f"mean of all steps {sum(rows) / STEPS:.4f}, held-out" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [0, 120])
def test_losses_that_never_arrived_come_from_the_checkpoint(config, rows, whole, work, kept):
    until(5, whole, work)
    (work / "loss.jsonl").write_bytes((work / "loss.jsonl").read_bytes()[:kept])
    run(config, rows, work)
    assert losses(work) == losses(whole)


def test_other_micro_batches_keep_the_order_of_the_rows(config, rows, tmp_path, monkeypatch):
    """The planner may choose others after a resume; the rows of each step, and their order, stay."""
    config = config.change(lora_dropout=0.0)
    seen = {}

    def steps(name, max_tokens, work, **how):
        order = seen.setdefault(name, [])
        build = training.build_trainer

        def spied(*arguments):
            trainer = build(*arguments)
            trainer.max_tokens = max_tokens
            make = trainer.training_step

            def step(model, inputs, *rest):
                order.append(inputs["input_ids"].tolist())
                return make(model, inputs, *rest)

            trainer.training_step = step
            return trainer

        monkeypatch.setattr(training, "build_trainer", spied)
        run(config, rows, work, **how)
        monkeypatch.setattr(training, "build_trainer", build)

    steps("one", 10**6, tmp_path / "one")
    steps("two", 10**6, tmp_path / "two", stop_after=3)
    steps("two", 150, tmp_path / "two")
    assert len(seen["one"]) == STEPS
    assert seen["two"] == seen["one"]
    one, two = ([row["loss"] for row in losses(tmp_path / name)[0] if "loss" in row] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-2)  # the embedded model computes in bfloat16


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_it_and_ends(config, rows, whole, work, name, capsys, base):
    before = signal.getsignal(name)
    trainer = prepared(config.change(save_steps=100), rows, work, base)
    trainer.add_callback(at_step(3, lambda: signal.raise_signal(name)))
    with pytest.raises(Tc3Error, match=f"stopped by {name.name} after step 3 of {STEPS}: run it again"):
        training.train(trainer, config.change(save_steps=100), work)
    output = capsys.readouterr().out
    assert "stopping after this step, which will be saved" in output
    assert output.splitlines()[-1] == f"safe to disconnect: step 3 is in {newest(work)}"
    assert signal.getsignal(name) is before
    run(config, rows, work)
    assert_same(state(work), state(whole))


def prepared(config, rows, work, base):
    for name in ("train", "eval"):
        files.write_rows(work / f"{name}.jsonl", rows if name == "train" else rows[:4])
    model, tokenizer = base
    model = models.add_lora(model, config.lora)
    return training.build_trainer(model, tokenizer, rows, rows[:4], config, work)


def test_the_second_signal_stops_at_once():
    with saving.stop_asked() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_time_saves_too(config, rows, work, base, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    config = config.change(save_steps=100, save_minutes=10)
    trainer = prepared(config, rows, work, base)
    for step in range(1, STEPS + 1):
        trainer.add_callback(at_step(step, lambda: now.__setitem__(0, now[0] + 200)))
    training.train(trainer, config, work)
    assert [store.step(folder) for folder in store.checkpoints(work / "outputs")] == [7, 6, 3]


def test_the_last_ones_and_the_best_are_kept(config, rows, work, base, monkeypatch):
    config = config.change(save_total_limit=2, eval_steps=1)
    trainer = prepared(config, rows, work, base)
    held_out = itertools.chain([9.0, 5.0, 3.0, 4.0, 5.0, 6.0, 7.0], itertools.repeat(8.0))

    def evaluate(*_, **__):
        trainer.log(metrics := {"eval_loss": next(held_out)})
        return metrics

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    training.train(trainer, config, work)
    assert [store.step(folder) for folder in store.checkpoints(work / "outputs")] == [7, 6, 2]


FAILURES = {
    "gone": lambda work, away: work.rename(away),
    "a shadow in its place": lambda work, away: (work.rename(away), (work / "outputs").mkdir(parents=True)),
    "no more writing": lambda work, away: _refuse(work),
}
_real_mkdir = os.mkdir


def _refuse(work):
    def mkdir(path, *arguments, **named):
        if str(path).startswith(str(work)):
            raise OSError(28, os.strerror(28), str(path))
        return _real_mkdir(path, *arguments, **named)

    os.mkdir = mkdir


@pytest.mark.parametrize("what", FAILURES)
@pytest.mark.parametrize("back", [True, False])
def test_training_goes_on_when_the_work_folder_fails(config, rows, whole, work, what, back, base, capsys, own_disk):
    away = work.with_name("away")
    trainer = prepared(config, rows, work, base)

    def fail():
        FAILURES[what](work, away)

    def repair():
        os.mkdir = _real_mkdir
        if away.exists():
            shutil.rmtree(work, ignore_errors=True)
            away.rename(work)

    trainer.add_callback(at_step(3, fail))
    if back:
        trainer.add_callback(at_step(6, repair))
    try:
        training.train(trainer, config, work)
    finally:
        shadow = sorted(path.name for path in work.rglob("*")) if what.startswith("a shadow") and not back else None
        repair()
    output = capsys.readouterr().out
    assert "WARNING: step 3 is NOT safe" in output
    assert "step 2 is, in" in output
    last = output.splitlines()[-1]
    if back:
        assert "can be written again: step 6 is safe" in output
        assert last == f"safe to disconnect: step 7 is in {newest(work)}"
        assert losses(work) == losses(whole)
        assert list(own_disk.iterdir()) == []
    else:
        assert any(
            line.startswith("NOT safe to disconnect: step 2 is in") and "step 7 is only in" in line
            for line in output.splitlines()
        )
        assert store.step(newest(work)) == 2
        assert shadow in (None, ["outputs"])
    capsys.readouterr()
    run(config, rows, work)  # where it is not safe the checkpoint is still on this machine
    assert "continuing after step 7" in capsys.readouterr().out
    assert_same(state(work), state(whole))


@pytest.fixture
def full_disk(monkeypatch):
    """The machine's own disk takes no checkpoint of steps 4 and 5."""
    save = torch.save

    def full(what, path, *arguments, **named):
        if "checkpoint-4" in str(path) or "checkpoint-5" in str(path):
            raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")
        return save(what, path, *arguments, **named)

    monkeypatch.setattr(torch, "save", full)


def test_a_machine_whose_own_disk_is_full_goes_on_and_says_so(config, rows, whole, work, base, full_disk, capsys):
    trainer = prepared(config, rows, work, base)
    training.train(trainer, config, work)
    output = capsys.readouterr().out
    assert "step 4 is NOT safe" in output
    assert "this machine's disk does not take it (PytorchStreamWriter" in output
    assert [store.step(folder) for folder in store.checkpoints(work / "outputs")] == [7, 6, 3, 2, 1]
    assert output.splitlines()[-1].startswith("safe to disconnect: step 7 is in")


def test_where_the_model_is_sharded_a_full_disk_ends_the_run(config, rows, work, base, full_disk, monkeypatch, capsys):
    """The other processes wait for the rest of the checkpoint: the launcher ends them."""
    trainer = prepared(config, rows, work, base)
    monkeypatch.setattr(processes, "is_sharded", lambda model: True)
    with pytest.raises(Tc3Error, match="cannot save step 4 of a sharded model: PytorchStreamWriter failed"):
        training.train(trainer, config, work)
    assert "safe to disconnect: step 3 is in" in capsys.readouterr().out


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "one bit flipped": flip,
    "missing": os.unlink,
    "cut": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "adapter_model.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(config, rows, whole, work, name, damage, capsys):
    until(4, whole, work)
    DAMAGE[damage](newest(work) / name)
    saver = quiet_saver(work, rows, config)
    target = saver.resume()
    output = capsys.readouterr().out
    assert f"{newest(work).name} in {work / 'outputs'} is passed over: {name}" in output
    assert "continuing after step 3" in output
    assert "after 1 damaged" in output
    assert (target / "adapter_model.safetensors").exists()


def quiet_saver(work, rows, config):
    """A saver as `train` makes it, without a model."""

    class Trainer:
        def is_world_process_zero(self):
            return True

    losses = saving.LossLogger(work / "loss.jsonl", Trainer(), lambda *_, **__: None)
    record = json.loads((work / "run.json").read_text())
    return saving.Saver(Trainer(), losses, work, work / "outputs", record, None, None, saving.Stop())


def test_none_whole_is_an_error_and_never_a_fresh_start(config, rows, whole, work):
    until(2, whole, work)
    for folder in store.checkpoints(work / "outputs"):
        flip(folder / "scheduler.pt")
    with pytest.raises(
        Tc3Error, match=r"none of the checkpoints that were saved in .* is there and whole \(checkpoint-"
    ):
        run(config, rows, work)
    shutil.rmtree(work / "outputs")
    with pytest.raises(Tc3Error, match="To start anew, set resume_from_checkpoint=False"):
        run(config, rows, work)


def test_checkpoints_of_another_maker_are_left_alone(config, rows, whole, work, capsys):
    (work / "outputs" / "checkpoint-60").mkdir(parents=True)
    (work / "outputs" / "checkpoint-60" / "optimizer.pt").write_bytes(b"theirs")
    run(config, rows, work)
    assert f"{work / 'outputs' / 'checkpoint-60'} is left alone: it was not saved here" in capsys.readouterr().out
    assert (work / "outputs" / "checkpoint-60" / "optimizer.pt").read_bytes() == b"theirs"
    assert adapter(work) == adapter(whole)


def test_a_second_run_in_the_folder_is_refused(config, rows, work, base):
    trainer = prepared(config, rows, work, base)
    named = f"another run \\(process {os.getpid()}\\) is writing to {work}"
    with files.alone(work), pytest.raises(Tc3Error, match=named):
        training.train(trainer, config, work)


def test_an_adapter_that_was_trained_already_does_not_start_a_run(config, rows, work, base):
    trainer = prepared(config, rows, work, base)
    training.train(trainer, config, work)
    again = training.build_trainer(trainer.model, base[1], rows, rows[:4], config, work)
    with pytest.raises(Tc3Error, match="the adapter in memory has been trained already"):
        training.train(again, config.change(resume_from_checkpoint=False), work)


class Evil:
    """A pickle that makes a file when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


PICKLED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "adapter_model.bin",
           "pytorch_model.bin", "optimizer.bin", "rng_state_0.pth", "scaler.pt")  # fmt: skip


def plant(folder, mark):
    for name in PICKLED:
        torch.save(Evil(mark), folder / name)


def test_a_planted_pickle_does_run_where_it_is_trusted(tmp_path):
    plant(tmp_path, tmp_path / "mark")
    torch.load(tmp_path / "optimizer.pt", weights_only=False)
    assert (tmp_path / "mark").exists()


def test_a_pickle_planted_in_a_checkpoint_does_not_run(config, rows, whole, work, tmp_path, capsys):
    until(4, whole, work)
    plant(newest(work), tmp_path / "mark")
    run(config, rows, work)
    assert "is passed over: optimizer.pt" in capsys.readouterr().out
    assert not (tmp_path / "mark").exists()
    assert adapter(work) == adapter(whole)


def test_not_even_one_that_a_manifest_vouches_for(config, rows, whole, work, tmp_path):
    until(4, whole, work)
    folder = newest(work)
    manifest = store.read_manifest(folder)
    plant(folder, tmp_path / "mark")
    (folder / "manifest.json").unlink()
    store.seal(folder, manifest.run, manifest.step, None)
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        run(config, rows, work)
    assert not (tmp_path / "mark").exists()


def test_a_pickle_planted_beside_the_adapter_does_not_run(config, rows, whole, work, tmp_path):
    shutil.copytree(whole, work, dirs_exist_ok=True)
    plant(work / "lora_model", tmp_path / "mark")
    models.load_adapter(work / "lora_model", config.model)
    (work / "lora_model" / "adapter_model.safetensors").unlink()
    with pytest.raises(Tc3Error, match=r"adapter_model\.safetensors is missing"):
        models.load_adapter(work / "lora_model", config.model)
    assert not (tmp_path / "mark").exists()


CELL = """
import os
import re
from pathlib import Path
import unsloth
from tc3lib import files, models, settings
from tc3lib.training import run as training
from tc3lib.prompts import format_record
config = settings.tiny().change(max_steps=500, per_device_train_batch_size=4, eval_rows=4, max_seq_length=256)
rows = [{"uid": "a", "part": "train", **format_record(f"Mug No. {n}", f"A mug, {n} cm high.")} for n in range(16)]
work = Path(os.environ["TC3_HOME"])
for name in ("train", "eval"):
    files.write_rows(work / f"{name}.jsonl", rows)
model, tokenizer = models.load_base_model(config.model)
model = models.add_lora(model, config.lora)
trainer = training.build_trainer(model, tokenizer, rows, rows[:4], config, work)
training.train(trainer, config, work)
"""


def test_the_stop_button_of_a_notebook_saves_and_leaves_the_kernel_alive(work):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(env={**os.environ, "TC3_HOME": str(work), "OMP_NUM_THREADS": "1"})
    try:
        client.execute(CELL)
        told, error = "", ""
        while not error:
            content = client.get_iopub_msg(timeout=120)["content"]
            assert content.get("execution_state") != "idle" or "left, evaluations" not in told, "it ran to its end"
            told += content.get("text", "")
            if "left, evaluations" in content.get("text", ""):
                manager.interrupt_kernel()
            error = content.get("evalue", "")
        stopped = re.fullmatch(r"stopped by SIGINT after step (\d+) of 500: run it again\.", error)
        assert stopped, error
        assert f"safe to disconnect: step {stopped[1]} is in {newest(work)}" in told
        client.wait_for_ready(timeout=30)
        assert client.execute_interactive("assert model.training", timeout=30)["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
