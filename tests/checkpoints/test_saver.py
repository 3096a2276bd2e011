"""A run that is broken off, whatever the reason, continues as if it had not been."""

import json
import os
import re
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
import transformers
from runs import adapter, at_step, prepared, run
from runs import losses as without_speed
from safetensors.torch import load_file

from tc3lib import files, model_loading, training
from tc3lib.checkpoints import run_record, store
from tc3lib.checkpoints import saver as saving
from tc3lib.errors import Tc3Error
from tc3lib.training.losses import read_losses

STEPS = 7


@pytest.fixture(scope="module")
def config(config):
    """Dropout draws random numbers, and an epoch ends after 4 of 7 steps."""
    return config.change(lora_dropout=0.1, max_steps=STEPS, save_steps=1, save_total_limit=None, eval_steps=3)


@pytest.fixture(scope="module")
def whole(config, rows, tmp_path_factory):
    """An uninterrupted run that saved every step."""
    work = tmp_path_factory.mktemp("whole")
    run(config, rows, work)
    return work


@pytest.fixture(autouse=True)
def own_disk(tmp_path, monkeypatch):
    """The local disk."""
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(saving.tempfile, "gettempdir", lambda: str(tmp_path / "disk"))
    monkeypatch.setattr(saving.Saver, "RETRY_SECONDS", (0, 0))
    return tmp_path / "disk"


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def until(step, whole, work):
    """Make `work` what `whole` was after a step; its loss file and its journal know more."""
    shutil.copytree(whole, work, dirs_exist_ok=True)
    shutil.rmtree(work / "lora_model", ignore_errors=True)
    for folder in store.checkpoints(work / "outputs"):
        if store.step(folder) > step:
            shutil.rmtree(folder)
    return work


def newest(work):
    return store.checkpoints(work / "outputs")[0]


def saved(work):
    return [store.step(folder) for folder in store.checkpoints(work / "outputs")]


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
    """The losses of a run: those of its file, and those that its last checkpoint carries."""
    history = json.loads((newest(work) / "trainer_state.json").read_text())["log_history"]
    history = [{name: row.get(name) for name in ("step", "loss", "eval_loss", "grad_norm")} for row in history]
    return without_speed(read_losses(work / "loss.jsonl")), history


def assert_same(one, other):
    """To the bit, in every part of each."""
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


@pytest.mark.parametrize(
    "step", [1, *(pytest.param(step, marks=pytest.mark.slow) for step in range(2, STEPS - 1)), STEPS - 1]
)
def test_a_run_continued_from_any_step_is_the_uninterrupted_one(config, rows, whole, work, step, capsys):
    run(config, rows, until(step, whole, work))
    assert f"continuing after step {step}: " in capsys.readouterr().out
    assert_same(state(work), state(whole))


@pytest.mark.parametrize("kept", [0, 120])
def test_losses_that_never_arrived_come_from_the_checkpoint(config, rows, whole, work, kept):
    until(5, whole, work)
    (work / "loss.jsonl").write_bytes((work / "loss.jsonl").read_bytes()[:kept])
    run(config, rows, work)
    assert losses(work) == losses(whole)


def test_other_micro_batches_keep_the_order_of_the_rows(config, rows, tmp_path, monkeypatch):
    """The planner may choose others after a resume; the rows of each step, and their order, stay."""
    config = config.change(lora_dropout=0.0, max_steps=3, eval_strategy="no")
    seen, build = {}, training.build_trainer

    def steps(name, max_tokens, work, **how):
        order = seen.setdefault(name, [])

        def spied(made):
            trainer = build(made)
            trainer.max_tokens = max_tokens
            make = trainer.training_step

            def step(model, inputs, *rest):
                order.append(inputs["input_ids"].tolist())
                return make(model, inputs, *rest)

            trainer.training_step = step
            return trainer

        monkeypatch.setattr(training, "build_trainer", spied)
        run(config, rows, work, **how)

    steps("one", 10**6, tmp_path / "one")
    steps("two", 10**6, tmp_path / "two", stop_after=1)
    steps("two", 150, tmp_path / "two")
    assert len(seen["one"]) == 3
    assert seen["two"] == seen["one"]
    one, two = ([row["loss"] for row in losses(tmp_path / name)[0] if "loss" in row] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-2)  # the embedded model computes in bfloat16


def test_a_signal_ends_the_step_saves_it_and_ends(config, rows, whole, work, capsys):
    before = signal.getsignal(signal.SIGTERM)
    made = prepared(config.change(save_steps=100), rows, work)
    trainer = training.build_trainer(made)
    trainer.add_callback(at_step(3, lambda: signal.raise_signal(signal.SIGTERM)))
    with pytest.raises(Tc3Error, match=f"stopped by SIGTERM after step 3 of {STEPS}: run it again"):
        training.train(trainer, made)
    output = capsys.readouterr().out
    assert "stopping after this step, which will be saved" in output
    assert output.splitlines()[-1] == f"safe to disconnect: step 3 is in {newest(work)}"
    assert signal.getsignal(signal.SIGTERM) is before
    run(config, rows, work)
    assert_same(state(work), state(whole))
    result = json.loads((work / "run.json").read_text())["result"]
    rows = [row["loss"] for row in read_losses(work / "loss.jsonl") if "loss" in row]
    assert len(rows) == STEPS
    assert result["mean_train_loss"] == pytest.approx(sum(rows) / STEPS, rel=1e-12)
    assert f"mean of all steps {sum(rows) / STEPS:.4f}, held-out" in capsys.readouterr().out


def test_a_second_run_in_the_folder_is_refused(config, rows, work):
    made = prepared(config, rows, work)
    trainer = training.build_trainer(made)
    with files.alone(work), pytest.raises(Tc3Error, match=f"another run is writing to {work}"):
        training.train(trainer, made)


def test_an_adapter_that_was_trained_already_does_not_start_a_run(config, rows, work):
    config = config.change(max_steps=2, eval_strategy="no")  # the first step warms up
    trainer = run(config, rows, work)
    again = prepared(config.change(resume_from_checkpoint=False), rows, work)
    with pytest.raises(Tc3Error, match="the adapter in memory has been trained already"):
        training.train(trainer, again)


class Net(torch.nn.Module):
    """A model of which a step takes a moment."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, inputs, labels):
        return {"loss": (torch.nn.functional.dropout(self.layer(inputs)) - labels).square().mean()}


NUMBERS = [{"inputs": torch.tensor([float(n)]), "labels": torch.tensor([2.0 * n])} for n in range(16)]


def fit(config, work, *callbacks):
    """Save and resume as `training.train` does, with transformers' own trainer; return it and the saver."""
    for name in ("train", "eval"):
        (work / f"{name}.jsonl").touch()
    settings = config.training
    transformers.set_seed(0)
    trainer = transformers.Trainer(
        model=Net(),
        args=transformers.TrainingArguments(
            max_steps=settings.max_steps, per_device_train_batch_size=4, learning_rate=1e-2, report_to="none",
            save_strategy=settings.save_strategy, save_steps=settings.save_steps, logging_steps=settings.logging_steps,
            eval_strategy="steps", eval_steps=settings.eval_steps, disable_tqdm=True, use_cpu=True,
        ),
        train_dataset=NUMBERS,
        eval_dataset=NUMBERS[:4],
    )  # fmt: skip
    record = run_record.describe(config, work)
    run_record.open_run(work, record, resume=True)
    with saving.stop_asked() as stop:
        saver = saving.Saver(trainer, work, record, config, stop)
        saver.resume()
        last = saver.resumed()
        trainer.args.output_dir = str(saver.local)
        for callback in (*callbacks, saver):
            trainer.add_callback(callback)
        if saver.step < settings.max_steps:
            trainer.train(resume_from_checkpoint=last and str(last))
        saver.finish()
        saver.report()
    return trainer, saver


def weights(trainer):
    return [parameter.tolist() for parameter in trainer.model.parameters()]


def test_the_second_signal_stops_at_once():
    with saving.stop_asked() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_time_saves_too(config, work, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    passing = [at_step(step, lambda: now.__setitem__(0, now[0] + 200)) for step in range(1, STEPS + 1)]
    fit(config.change(save_steps=100, save_minutes=10), work, *passing)
    assert saved(work) == [7, 6, 3]


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_each_checkpoint_has_all_losses_up_to_its_step(config, work, strategy):
    """With them a resumed run has the mean of all steps."""
    trainer, _ = fit(config.change(save_strategy=strategy, save_steps=3, logging_steps=5), work)
    for folder in store.checkpoints(work / "outputs"):
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        assert [row["step"] for row in history if "loss" in row][-1] == store.step(folder)
    assert saved(work) == ([7, 6, 3] if strategy == "steps" else [7, 4])
    logged = [row["step"] for row in trainer.state.log_history if "loss" in row]
    assert logged == ([3, 5, 6, 7] if strategy == "steps" else [4, 5, 7])


def test_the_last_ones_and_the_best_are_kept(config, work):
    class HeldOut(transformers.TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            state.log_history[-1]["eval_loss"] = abs(state.global_step - 2.0)

    fit(config.change(save_total_limit=2, eval_steps=1), work, HeldOut())
    assert saved(work) == [7, 6, 2]


@pytest.fixture
def small(config, tmp_path):
    """An uninterrupted run of the small model that saved every step."""
    (tmp_path / "small").mkdir()
    return fit(config, tmp_path / "small")[0]


def refuse(work):
    """Let no folder be made below `work`."""

    def mkdir(path, *arguments, **named):
        if str(path).startswith(str(work)):
            raise OSError(28, os.strerror(28), str(path))
        return _real_mkdir(path, *arguments, **named)

    os.mkdir = mkdir


_real_mkdir = os.mkdir
FAILURES = {
    "gone": lambda work, away: work.rename(away),
    "a shadow in its place": lambda work, away: (work.rename(away), (work / "outputs").mkdir(parents=True)),
    "no more writing": lambda work, away: refuse(work),
}


@pytest.mark.parametrize("what", FAILURES)
@pytest.mark.parametrize("back", [True, False])
def test_training_goes_on_when_the_work_folder_fails(config, small, work, what, back, capsys, own_disk):
    away = work.with_name("away")

    def repair():
        os.mkdir = _real_mkdir
        if away.exists():
            shutil.rmtree(work, ignore_errors=True)
            away.rename(work)

    callbacks = [at_step(3, lambda: FAILURES[what](work, away)), *([at_step(6, repair)] if back else [])]
    try:
        trainer, _ = fit(config, work, *callbacks)
    finally:
        shadow = sorted(path.name for path in work.rglob("*")) if what.startswith("a shadow") and not back else None
        repair()
    assert weights(trainer) == weights(small)
    output = capsys.readouterr().out
    assert "WARNING: step 3 is NOT safe" in output
    assert "step 2 is, in" in output
    last = output.splitlines()[-1]
    if back:
        assert "can be written again: step 6 is safe" in output
        assert last == f"safe to disconnect: step 7 is in {newest(work)}"
        assert list(own_disk.iterdir()) == []
    else:
        assert last.startswith("NOT safe to disconnect: step 2 is in")
        assert "step 7 is only in" in last
        assert saved(work)[0] == 2
        assert shadow in (None, ["outputs"])
    _, saver = fit(config, work)  # where it is not safe the checkpoint is still on this machine
    assert (saver.step, saver.safe_step) == (7, 7)
    assert "continuing after step 7" in capsys.readouterr().out


@pytest.mark.parametrize("plan", ["recipe", "none"])
def test_a_machine_whose_own_disk_is_full_goes_on_and_says_so(config, rows, work, monkeypatch, plan, capsys):
    """TRL's trainer and transformers'; the disk takes no checkpoint of steps 4 and 5."""
    save = torch.save

    def full(what, path, *arguments, **named):
        if "checkpoint-4" in str(path) or "checkpoint-5" in str(path):
            raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")
        return save(what, path, *arguments, **named)

    monkeypatch.setattr(torch, "save", full)
    if plan == "none":
        fit(config, work)
    else:
        run(config.change(plan="recipe"), rows, work)
    output = capsys.readouterr().out
    assert "step 4 is NOT safe" in output
    assert "could not be saved to this machine's disk (PytorchStreamWriter" in output
    assert saved(work) == [7, 6, 3, 2, 1]
    assert "safe to disconnect: step 7 is in" in output


def test_a_second_call_in_one_process_saves_each_step_once(config, work):
    """A notebook's cell is run again after it was stopped: the trainer is the same."""
    for name in ("train", "eval"):
        (work / f"{name}.jsonl").touch()
    trainer, _ = fit(config, work, at_step(3, lambda: signal.raise_signal(signal.SIGINT)))
    record = files.read_json(work / "run.json")
    for _ in range(2):
        saver = saving.Saver(trainer, work, record, config, saving.Stop())
        trainer.add_callback(saver)
    assert sum(isinstance(callback, saving.Saver) for callback in trainer.callback_handler.callbacks) == 1
    trainer.args.output_dir = str(saver.local)
    trainer.train(resume_from_checkpoint=str(saver.resume()))
    saver.report()
    assert [store.step(folder) for folder in store.checkpoints(work / "outputs")] == [7, 6, 5, 4, 3, 2, 1]
    assert saver.safe_step == 7


class Accelerator:
    """accelerate's trigger, of several processes in one."""

    def __init__(self):
        self.set = self.checked = 0

    def set_trigger(self):
        self.set += 1

    def check_trigger(self):
        self.checked += 1
        return self.set or self.others


@pytest.mark.parametrize(
    ("minutes", "mine", "others", "save", "stop"),
    [
        (None, None, None, False, None),
        (1e-9, None, None, True, None),
        (None, "SIGTERM", None, True, "SIGTERM"),
        (None, None, "SIGINT", True, "SIGINT"),
        (None, None, "due", True, None),
    ],
)
def test_processes_save_and_stop_after_the_same_step(
    config, whole, work, monkeypatch, minutes, mine, others, save, stop
):
    saver = quiet_saver(until(2, whole, work), config.change(save_minutes=minutes))
    saver.trainer.accelerator = accelerator = Accelerator()
    accelerator.others = bool(others)
    saver.stop.signal = mine
    control = transformers.TrainerControl()
    monkeypatch.setattr(saving.processes, "gather", lambda value: [value, None if others == "due" else others])
    monkeypatch.setattr(saving.processes, "count", lambda: 2)
    saver.on_step_end(None, None, control)
    assert (control.should_save, control.should_log) == (save, save)
    assert (control.should_training_stop, saver.stop.signal) == (bool(stop), stop)
    assert (accelerator.set, accelerator.checked) == (bool(mine or minutes), 1)
    monkeypatch.setattr(saving.processes, "count", lambda: 1)
    saver.on_step_end(None, None, control)
    assert accelerator.checked == 1  # alone there is nobody to ask


def test_what_another_process_could_not_save_is_no_checkpoint(config, whole, work, monkeypatch, capsys):
    saver = quiet_saver(until(2, whole, work), config)
    (saver.local / "checkpoint-3").mkdir()
    monkeypatch.setattr(saving.processes, "gather", lambda value: [value, "No space left on device"])
    saver.on_save(None, SimpleNamespace(global_step=3, is_world_process_zero=True), None)
    assert "step 3 is NOT safe" in capsys.readouterr().out
    assert saved(work) == [2, 1]
    assert list(saver.local.iterdir()) == []


def quiet_saver(work, config):
    """Return a saver as `train` makes it, without a model."""
    trainer = SimpleNamespace(remove_callback=lambda callback: None)
    return saving.Saver(trainer, work, files.read_json(work / "run.json"), config, saving.Stop())


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
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(config, whole, work, name, damage, capsys):
    until(4, whole, work)
    DAMAGE[damage](newest(work) / name)
    saver = quiet_saver(work, config)
    target = saver.resume()
    output = capsys.readouterr().out
    assert f"{newest(work).name} in {work / 'outputs'} is skipped: {name}" in output
    assert "continuing after step 3" in output
    assert "after 1 damaged" in output
    assert (target / "adapter_model.safetensors").exists()
    assert (saver.step, saver.safe_step) == (3, 3)


def test_none_whole_is_an_error_and_never_a_fresh_start(config, rows, whole, work):
    until(2, whole, work)
    for folder in store.checkpoints(work / "outputs"):
        flip(folder / "scheduler.pt")
    saver = quiet_saver(work, config)
    lost = (
        r"none of the checkpoints that were saved in .* is there and whole \(checkpoint-1.*To start anew, set resume_"
    )
    with pytest.raises(Tc3Error, match=lost):
        saver.resume()
    for folder in store.checkpoints(work / "outputs"):
        shutil.rmtree(folder)
    with pytest.raises(Tc3Error, match=lost):
        saver.resume()
    shutil.rmtree(work / "outputs")
    with pytest.raises(Tc3Error, match=r"outputs is missing or empty, although .* To start anew, set resume_from"):
        run(config, rows, work)


def test_a_folder_that_cannot_be_read_is_named(config, whole, work, monkeypatch):
    saver = quiet_saver(until(2, whole, work), config)

    def fail(*_):
        raise OSError(107, os.strerror(107))

    monkeypatch.setattr(store.os, "listdir", fail)
    with pytest.raises(Tc3Error, match=r"cannot read the checkpoints in .*/outputs: .*Mount or fix the folder"):
        saver.resume()


def test_checkpoints_of_another_maker_are_left_alone(config, small, work, capsys):
    (work / "outputs" / "checkpoint-60").mkdir(parents=True)
    (work / "outputs" / "checkpoint-60" / "optimizer.pt").write_bytes(b"theirs")
    trainer, _ = fit(config, work)
    ignored = f"{work / 'outputs' / 'checkpoint-60'} is ignored: it was not saved by this library"
    assert ignored in capsys.readouterr().out
    assert (work / "outputs" / "checkpoint-60" / "optimizer.pt").read_bytes() == b"theirs"
    assert weights(trainer) == weights(small)


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
    assert "is skipped: optimizer.pt" in capsys.readouterr().out
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


def test_a_pickle_planted_next_to_the_adapter_does_not_run(config, rows, whole, work, tmp_path):
    shutil.copytree(whole, work, dirs_exist_ok=True)
    plant(work / "lora_model", tmp_path / "mark")
    model_loading.load_adapter(work / "lora_model", config.model)
    (work / "lora_model" / "adapter_model.safetensors").unlink()
    with pytest.raises(Tc3Error, match=r"adapter_model\.safetensors is missing"):
        model_loading.load_adapter(work / "lora_model", config.model)
    assert not (tmp_path / "mark").exists()


CELL = """
import os
from pathlib import Path
from tc3lib import files, settings, training
from tc3lib.prompts import format_record
from transformers import TrainerCallback
config = settings.get("tiny").change(max_steps=500, per_device_train_batch_size=4, eval_rows=4, max_seq_length=256)
rows = [{"uid": "a", "part": "train", **format_record(f"Mug No. {n}", f"A mug, {n} cm high.")} for n in range(16)]
work = Path(os.environ["TC3_HOME"])
files.write_rows(work / "train.jsonl", rows)
files.write_rows(work / "eval.jsonl", rows[:4])
run = training.Run(config, work)
trainer = training.build_trainer(run)
class Says(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print(f"step {state.global_step} is made")
trainer.add_callback(Says())
training.train(trainer, run)
"""


def test_the_stop_button_of_a_notebook_saves_and_leaves_the_kernel_alive(work):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(env={**os.environ, "TC3_HOME": str(work), "OMP_NUM_THREADS": "1"})
    try:
        client.execute(CELL)
        output, error = "", ""
        while not error:
            content = client.get_iopub_msg(timeout=120)["content"]
            assert content.get("execution_state") != "idle" or "is made" not in output, "it ran to its end"
            output += content.get("text", "")
            if "step 3 is made" in content.get("text", ""):
                manager.interrupt_kernel()
            error = content.get("evalue", "")
        stopped = re.fullmatch(r"stopped by SIGINT after step (\d+) of 500: run it again\.", error)
        assert stopped, error
        assert f"safe to disconnect: step {stopped[1]} is in {newest(work)}" in output
        client.wait_for_ready(timeout=30)
        assert client.execute_interactive("assert trainer.model.training", timeout=30)["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
