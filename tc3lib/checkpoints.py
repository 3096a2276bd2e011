"""Which checkpoint a run continues from, and `run.json`: what the run is, so that two runs are never mixed."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from tc3lib.config import Config
from tc3lib.errors import Tc3Error
from tc3lib.files import write_json
from tc3lib.prompts import INSTRUCTION, PROMPT, RESPONSE

PACKAGES = ("unsloth", "unsloth_zoo", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes")
RUN_FILES = ("outputs", "loss.jsonl", "loss.png", "lora_model", "run.json")

# What may differ when a run continues: how often it logs, saves and evaluates, and where its output goes.
_FREE = {
    "logging_steps", "save_strategy", "save_steps", "save_total_limit", "eval_strategy", "eval_steps",
    "eval_on_start", "per_device_eval_batch_size", "report_to", "resume_from_checkpoint",
}  # fmt: skip


def manifest(config: Config, work: Path) -> dict[str, Any]:
    """Return what identifies a run: settings, data, template; and what merely describes it: versions and machine."""
    settings = {part: dataclasses.asdict(getattr(config, part)) for part in ("model", "lora", "training")}
    return {
        "preset": config.preset,
        "settings": settings,
        "data": {name: _sha256((work / name).read_bytes()) for name in ("train.jsonl", "eval.jsonl")},
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
    old = _read(work / "run.json")
    started = sorted(outputs.glob("checkpoint-*"))
    last = None
    if started:
        anew = f"To start anew, set resume_from_checkpoint=False: what is in {work} moves to a folder of its own."
        difference = _difference(old, new) if old else "run.json is missing or damaged"
        if difference:
            raise Tc3Error(f"{outputs} holds the checkpoints of another run: {difference}. {anew}")
        last = latest_complete(outputs)
        if last is None:
            raise Tc3Error(f"none of the {len(started)} checkpoints in {outputs} is complete. {anew}")
    write_json(work / "run.json", new)
    return last


def latest_complete(outputs: Path) -> Path | None:
    """Return the checkpoint of the highest step that has every file a resume needs, None if there is none."""
    complete = [folder for folder in outputs.glob("checkpoint-*") if _is_complete(folder)]
    return max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _is_complete(folder: Path) -> bool:
    needed = ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt"]
    sized = all((folder / name).is_file() and (folder / name).stat().st_size for name in needed)
    return sized and any(folder.glob("rng_state*.pth")) and bool(_read(folder / "trainer_state.json"))


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
    for part, settings in new["settings"].items():
        for name, value in json.loads(json.dumps(settings)).items():
            before = old.get("settings", {}).get(part, {}).get(name)
            if name not in _FREE and before != value:
                return f"{name} was {before!r} and is now {value!r}"
    for name, value in new["data"].items():
        if old.get("data", {}).get(name) != value:
            return f"{name} has changed since"
    return None if old.get("template") == new["template"] else "the prompt template has changed since"


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON document, or nothing if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


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
