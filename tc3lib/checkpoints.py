"""Which checkpoint a run continues from, and `run.json`: what the run is, so that two runs are never mixed."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import re
import zipfile
from pathlib import Path
from typing import Any

from tc3lib.config import Config
from tc3lib.errors import Tc3Error
from tc3lib.files import write_json
from tc3lib.prompts import INSTRUCTION, PROMPT, RESPONSE

PACKAGES = ("unsloth", "unsloth_zoo", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes")
RUN_FILES = ("outputs", "loss.jsonl", "loss.png", "lora_model", "run.json")

# What may differ when a run continues: how often it logs, saves and evaluates, where its output goes, and the card.
_FREE = {
    "logging_steps", "save_strategy", "save_steps", "save_total_limit", "eval_strategy", "eval_steps",
    "eval_on_start", "per_device_eval_batch_size", "report_to", "resume_from_checkpoint", "memory_gib",
}  # fmt: skip


def manifest(config: Config, work: Path) -> dict[str, Any]:
    """Return what identifies a run: settings, data, template; and what merely describes it: versions and machine."""
    settings = {part: dataclasses.asdict(getattr(config, part)) for part in ("model", "lora", "training", "planning")}
    return {
        "preset": config.preset,
        "settings": settings,
        "data": _data(work),
        "template": _sha256("\0".join((INSTRUCTION, PROMPT, RESPONSE)).encode()),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": _device(),
    }


def open_run(work: Path, new: dict[str, Any], *, resume: bool) -> Path | None:
    """Record the run that is about to train in `work` and return the checkpoint to continue from, None at a start.

    Args:
        work: The work folder.
        new: The run's `manifest`.
        resume: False sets an earlier run aside, whole, in `run-1` (or the next free number) and starts anew.

    Raises:
        Tc3Error: The folder holds another run's checkpoints (the first difference is named), or checkpoints none of
            which is complete.
    """
    outputs = work / new["settings"]["training"]["output_dir"]
    if not resume:
        _set_aside(work, outputs.name)
    last = check_run(work, new)
    write_json(work / "run.json", new)
    return last


def check_run(work: Path, new: dict[str, Any]) -> Path | None:
    """Return the checkpoint that the run would continue from, None if it would start; change nothing.

    Raises:
        Tc3Error: As `open_run`.
    """
    outputs = work / new["settings"]["training"]["output_dir"]
    started = _checkpoints(outputs)
    if not started:
        return None
    anew = f"To start anew, set resume_from_checkpoint=False: what is in {work} moves to a folder of its own."
    difference = _difference(_read(work / "run.json"), new)
    if difference:
        raise Tc3Error(f"{outputs} holds the checkpoints of another run: {difference}. {anew}")
    last = latest_complete(outputs)
    if last is None:
        raise Tc3Error(f"none of the {len(started)} checkpoints in {outputs} is complete. {anew}")
    return last


def check_adapter(work: Path) -> None:
    """Raise Tc3Error if the rows of `work` are not those that its adapter was trained and held out with."""
    data = _read(work / "run.json").get("data")
    if data != _data(work):
        raise Tc3Error(f"the rows in {work} have changed since the adapter was trained: run 03_train again.")


def step(checkpoint: Path) -> int:
    """Return the optimiser step that a checkpoint was saved after."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def latest_complete(outputs: Path) -> Path | None:
    """Return the checkpoint of the highest step that has every file a resume needs, whole; None if there is none."""
    return max((folder for folder in _checkpoints(outputs) if _is_complete(folder)), key=step, default=None)


def _checkpoints(outputs: Path) -> list[Path]:
    return [folder for folder in outputs.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", folder.name)]


def _is_complete(folder: Path) -> bool:
    """Tell whether nothing is missing or cut short. torch's files are zip archives, whose index comes last."""
    states = list(folder.glob("rng_state*.pth"))
    return (
        bool(states)
        and all(zipfile.is_zipfile(path) for path in (folder / "optimizer.pt", folder / "scheduler.pt", *states))
        and _is_whole_safetensors(folder / "adapter_model.safetensors")
        and "global_step" in _read(folder / "trainer_state.json")
    )


def _is_whole_safetensors(path: Path) -> bool:
    """Tell whether a file is as long as its header says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return True
    except (OSError, SafetensorError):
        return False


def _set_aside(work: Path, outputs: str) -> None:
    """Move an earlier run's files to the first free `run-N`."""
    found = [work / name for name in {*RUN_FILES, outputs} if (work / name).exists()]
    if found:
        number = next(number for number in range(1, 10**6) if not (work / f"run-{number}").exists())
        (work / f"run-{number}").mkdir()
        for path in found:
            path.rename(work / f"run-{number}" / path.name)
        print(f"the earlier run is in {work / f'run-{number}'}")


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Return the first difference that makes the two another run, as one readable phrase."""
    if not all(isinstance(old.get(part), dict) for part in ("settings", "data")):
        return "run.json is missing or damaged"
    for part, settings in new["settings"].items():
        for name, value in json.loads(json.dumps(settings)).items():
            before = (old["settings"].get(part) or {}).get(name)
            if name not in _FREE and before != value:
                return f"{name} was {before!r} and is now {value!r}"
    for name, value in new["data"].items():
        if old["data"].get(name) != value:
            return f"{name} has changed since"
    return None if old.get("template") == new["template"] else "the prompt template has changed since"


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty if it is missing or damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _data(work: Path) -> dict[str, str]:
    return {name: _sha256((work / name).read_bytes()) for name in ("train.jsonl", "eval.jsonl")}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"CPU, {torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"
