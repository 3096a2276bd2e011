"""Kill a training run again and again, go on after each kill, and compare the end with a run that was left alone.

    python tests/helpers/crash_run.py FOLDER KILLS SEED

Every other attempt is killed at a random moment, the others before a random line of a random one of the functions that
save, at a random one of the times that it runs: so the shortest moments are hit as often as the long ones. Each attempt
is a fork of this process, which has imported everything and computed nothing. Prints a line for each attempt and, at
the end, a JSON object of `kills`, `completed`, `hits` and `problems`.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

FOLDER, KILLS, SEED = Path(sys.argv[1]).resolve(), int(sys.argv[2]), sys.argv[3]
TEMPORARY, SCRATCH, LINES, OUTPUT = (FOLDER / name for name in ("tmp", "scratch", "lines.json", "output.txt"))
TEMPORARY.mkdir(parents=True)
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(TEMPORARY)}

import unsloth  # noqa: F401, I001  (before transformers, trl and peft, which it patches)
import matplotlib.pyplot  # noqa: F401
import peft  # noqa: F401
import trl  # noqa: F401

from tc3lib import files, settings, training
from tc3lib.checkpoints import store
from tc3lib.checkpoints.saver import Saver
from tc3lib.prompts import format_record
from tc3lib.training import run as trained
from tc3lib.training.losses import LossLogger, read_losses

WATCHED = {function.__code__ for function in (
    store.begin, store.seal, store.commit, store.restore, store.rotate, store.remove, store._copy, store._measure,
    store._write_manifest, store._note, Saver._newest, Saver._adopt, Saver._save_checkpoint, Saver.on_save,
    Saver._commit, Saver.report, LossLogger._append, files.replacing_all.__wrapped__, files._new_file.__wrapped__,
    files.replacing_folder.__wrapped__, trained.train, trained.save_adapter, trained._save,
)}  # fmt: skip
STEPS, KEPT, TOKENS = 12, 2, f"tc3-tokens-{os.getuid()}"
CONFIG = settings.get("tiny").change(
    max_steps=STEPS, per_device_train_batch_size=4, gradient_accumulation_steps=1, save_steps=1, save_total_limit=KEPT,
    eval_steps=3, eval_rows=4, max_seq_length=256, lora_dropout=0.1,
)  # fmt: skip
ROWS = [
    {"uid": f"B{n:09d}", "part": "train", **format_record(f"Steel Mug No. {n}", f"A mug of steel, {n} cm high.")}
    for n in range(1, 17)
]


def train(work, line=None, times=0):
    """What 03_train does, in a process of its own; it kills itself before a line runs for the `times`-th time."""
    output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    lines = Counter()

    def trace(frame, event, arg):
        if frame.f_code not in WATCHED:
            return None
        if event == "line":
            here = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
            lines[here] += 1
            if here == line and lines[here] == times:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    if line is not None:
        sys.settrace(trace)
    run = training.Run(CONFIG, work)
    trainer = training.build_trainer(run)
    training.train(trainer, run)
    training.save_adapter(trainer, run)
    sys.settrace(None)
    LINES.write_text(json.dumps(lines))


def attempt(work, seconds=None, **where):
    """Train in a fork; return whether it was killed. At a moment, at a line, or not at all."""
    child = get_context("fork").Process(target=train, args=(work,), kwargs=where)
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    if child.exitcode not in (0, -signal.SIGKILL):
        raise AssertionError(f"the run failed:\n{OUTPUT.read_text()[-3000:]}")
    return child.exitcode != 0


def new_work(name):
    work = FOLDER / name
    work.mkdir()
    files.write_rows(work / "train.jsonl", ROWS)
    files.write_rows(work / "eval.jsonl", ROWS[:4])
    return work


def committed(work):
    found = {}
    for folder in store.checkpoints(work / "outputs"):
        with suppress(store.Damaged):
            found[folder.name] = store.read_manifest(folder)
    return found


def check_kept(work, before, finished):
    """Nothing that was committed is lost, and what may be read in between is right. Adds what is new to `before`."""
    now = committed(work)
    for name, manifest in now.items():
        store.restore(work / "outputs" / name, SCRATCH, manifest.run)
        shutil.rmtree(SCRATCH)
    before |= now
    newest = sorted(before, key=lambda name: before[name].step)[-KEPT:]
    best = sorted((found.eval_loss, name) for name, found in before.items() if found.eval_loss is not None)[:1]
    lost = {*newest, *(name for _, name in best)} - now.keys()
    assert not lost, f"committed, not yet to be removed, and lost: {sorted(lost)}"
    losses = without_speed(read_losses(work / "loss.jsonl"))
    assert losses == LOSSES[: len(losses)], "loss.jsonl tells other losses"
    adapters = [work / name / "adapter_model.safetensors" for name in ("lora_model", ".lora_model.old")]
    adapters = [path.read_bytes() for path in adapters if path.parent.exists()]
    assert set(adapters) <= {ADAPTER}, "the adapter in lora_model is not whole"
    assert adapters or not finished, "the adapter is lost"


def without_speed(rows):
    """Return losses as no clock changes them."""
    timed = ("tokens_per_second", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def tree(work):
    """Everything in a work folder, by name; the run's identity, its time, speed and memory do not count."""
    run = files.read_json(work / "run.json")["run"]
    found = {}
    for path in work.rglob("*"):
        content = path.read_bytes() if path.is_file() else b"a folder"
        if path.name == "run.json":
            record = json.loads(content)
            for measured in ("seconds_of_last_call", "memory"):
                record.get("result", {}).pop(measured, None)
            content = json.dumps(record).encode()
        if path.name == "loss.jsonl":
            content = json.dumps(without_speed(read_losses(path))).encode()
        if path.name == "trainer_state.json":
            content = json.dumps(without_speed(json.loads(content)["log_history"])).encode()
        if path.name == store.MANIFEST:  # it has the sums of such files; store.restore checks all of them
            content = b""
        if path.name == store.JOURNAL:  # of commits that a kill interrupted too
            content = json.dumps(sorted({*store.journal(path.parent)})[-KEPT:]).encode()
        found[str(path.relative_to(work)).replace(run, "RUN")] = content.replace(run.encode(), b"RUN")
    return found


def check_finished(work):
    """The run is the one that was left alone in every byte: weights, optimiser, random numbers, losses; no litter."""
    found = tree(work)
    for what, names in (("litter", found.keys() - WHOLE.keys()), ("missing", WHOLE.keys() - found.keys())):
        assert not names, f"{what}: {sorted(names)}"
    other = sorted(name for name in WHOLE if found[name] != WHOLE[name])
    assert not other, f"other than in the run that was left alone: {other}"
    litter = sorted(set(TEMPORARY.rglob("*")) - LIBRARIES)
    assert not litter, f"litter on this machine: {litter[:9]}"


def what_was_hit(work, finished):
    """Say, from what is there, what a kill interrupted."""
    local = next((path for path in TEMPORARY.glob("tc3-*") if path.name != TOKENS), TEMPORARY / "none")
    outputs = work / "outputs"
    if finished:
        return "a finished run called again"
    if any(work.glob(".lora_model.*")):
        return "saving the adapter"
    now = committed(work)
    if len(now) < len(store.checkpoints(outputs)):
        return "committing or removing a checkpoint"
    if any(found.step == STEPS for found in now.values()):
        return "the end"
    if store.checkpoints(local):
        return "writing a checkpoint on the machine's disk"
    return "loading or training" if now else "nothing saved yet"


RANDOM, RESULT = random.Random(SEED), {"kills": 0, "completed": 0, "hits": Counter(), "problems": []}
start = time.monotonic()
whole = new_work("whole")
attempt(whole, line="")
duration, lines = time.monotonic() - start, Counter(json.loads(LINES.read_text()))
LOSSES, WHOLE = without_speed(read_losses(whole / "loss.jsonl")), tree(whole)
ADAPTER = WHOLE["lora_model/adapter_model.safetensors"]
LIBRARIES = set(TEMPORARY.rglob("*"))  # torch makes an empty folder there, and rows as tokens stay for the next run
assert [path.name for path in TEMPORARY.glob("tc3-*")] == [TOKENS]
attempts, work = 0, None
while RESULT["kills"] < KILLS:
    attempts += 1
    if work is None:
        work, before, finished = new_work(f"work-{attempts}"), {}, False
    if attempts % 2:
        plan = {"seconds": RANDOM.uniform(0, duration)}
    else:
        function = RANDOM.choice(sorted({line.split()[1] for line in lines}))
        line = RANDOM.choice(sorted(line for line in lines if line.split()[1] == function))
        left = 1 - max((found.step for found in before.values()), default=0) / STEPS
        plan = {"line": line, "times": RANDOM.randint(1, max(1, round(left * lines[line])))}
    what = f"{attempts}: {work.name}, {', '.join(f'{name} {value}' for name, value in plan.items())}"
    try:
        killed = attempt(work, **plan)
        hit = what_was_hit(work, finished) if killed else "completed"
        check_kept(work, before, finished or not killed)
        if killed:
            RESULT["kills"] += 1
            RESULT["hits"][hit] += 1
        else:
            RESULT["completed"] += 1
            lines |= Counter(json.loads(LINES.read_text()))
            check_finished(work)
            finished = True
        print(f"{what}: {hit}", flush=True)
        keep = killed or RANDOM.random() < 0.3
    except (AssertionError, store.Damaged) as error:
        RESULT["problems"].append(f"{what}: {error}")
        print(f"PROBLEM {RESULT['problems'][-1]}", flush=True)
        keep = False
        RESULT["kills"] += 1  # so that it comes to an end
        for litter in set(TEMPORARY.iterdir()) - LIBRARIES:
            shutil.rmtree(litter)
    if not keep:
        shutil.rmtree(work)
        work = None
print(json.dumps(RESULT))
