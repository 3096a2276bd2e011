"""`run.json`: what a run is, so that two runs are never mixed and a reader can tell how an adapter came about."""

import dataclasses
import hashlib
import json
import platform
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from tc3lib.checkpoints import store
from tc3lib.errors import Tc3Error
from tc3lib.files import blaming, read_json, write_json
from tc3lib.prompts import PROMPT
from tc3lib.runtime import packages, processes
from tc3lib.settings import PromptSettings, Settings

if TYPE_CHECKING:
    from transformers import Trainer

LAYOUT = 2
"""Of a run's files. Layout 1 noted in `loss.jsonl` which checkpoints were committed."""
PACKAGES = ("unsloth", "unsloth_zoo", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes")
RUN_FILES = ("outputs", "loss.jsonl", "loss.png", "lora_model", "run.json")

# What may differ when a run continues: how often it logs, saves and evaluates, where its output goes, and the card.
_FREE = {
    "logging_steps", "save_strategy", "save_steps", "save_total_limit", "eval_strategy", "eval_steps",
    "eval_on_start", "per_device_eval_batch_size", "report_to", "resume_from_checkpoint", "memory_gib",
}  # fmt: skip
# What plan="auto" chooses itself, or does not use.
_PLANNED = {
    "per_device_train_batch_size", "gradient_accumulation_steps", "padding_free", "use_gradient_checkpointing",
}  # fmt: skip
_BATCH = "effective batch (per_device_train_batch_size x gradient_accumulation_steps)"


def describe(config: Settings, work: Path) -> dict[str, Any]:
    """Return what identifies a run: settings, data, template; and what merely documents it: versions and machine.

    Raises:
        Tc3Error: The rows cannot be read.
    """
    return {
        "layout": LAYOUT,
        "preset": config.preset,
        "settings": _recorded(config),
        "data": _data(work),
        "template": _template(config.prompting),
        "versions": {"python": platform.python_version(), **{name: packages.installed(name) for name in PACKAGES}},
        "device": _device(),
        "processes": processes.count(),
    }


def fingerprint(trainer: "Trainer") -> dict[str, str]:
    """Return what else identifies a run, known once its trainer is built: tokenizer and order of the rows."""
    import torch

    with torch.random.fork_rng(devices=[]):
        batches = trainer.get_train_dataloader().batch_sampler
        batches = getattr(batches, "batch_sampler", batches)  # of several processes each has a shard of the batches
        order = list(batches.sampler)
    tokenizer = trainer.processing_class.backend_tokenizer.to_str()
    return {"tokenizer": _sha256(tokenizer.encode()), "order": _sha256(json.dumps(order).encode())}


def open_run(work: Path, new: dict[str, Any], *, resume: bool) -> list[str]:
    """Record the run that is about to train in `work`; return which settings and versions changed since it began.

    Sets `new["run"]`, the run's identity: that of the run that it continues, or a new one.

    Args:
        work: The work folder.
        new: The run, from `describe`.
        resume: False moves an earlier run as a whole to `run-1` (or the next free number) and starts a new one.

    Raises:
        Tc3Error: The folder holds another run's checkpoints; the first difference is named. Or it cannot be written.
    """
    outputs = _output_dir(new)
    if not resume:
        _set_aside(work, outputs)
    old = check_run(work, new)
    new["run"] = old.get("run") or secrets.token_hex(4)
    with blaming(work / outputs):
        store.begin(work / outputs)
    write_json(work / "run.json", new)
    return list(_free_differences(old, new)) if old else []


def check_run(work: Path, new: dict[str, Any]) -> dict[str, Any]:
    """Return the record of the run that `new` would continue, empty if it would start; change nothing.

    A `run.json` that is lost or damaged is read from the checkpoints instead, each of which has a copy.

    Raises:
        Tc3Error: As `open_run`.
    """
    outputs, advice = work / _output_dir(new), _how_to_start_again(work)
    started, journal = store.committed(outputs), store.journal(outputs)
    records = (read_json(folder / "run.json") for folder in (work, *started))
    old = next(filter(_is_record, records), None)
    if old is None:
        if started or journal:
            raise Tc3Error(f"{outputs} holds checkpoints, but run.json is missing or damaged. {advice}")
        return {}
    if old.get("layout") != LAYOUT:
        if store.checkpoints(outputs):
            raise Tc3Error(f"the run in {work} was begun with an earlier version of tc3lib. {advice}")
        return {}
    if journal is None and not started:  # the journal is begun before run.json is written
        if (before := _output_dir(old)) != _output_dir(new):
            raise Tc3Error(f"the run in {work} has its checkpoints in {before}: set output_dir={before!r}. {advice}")
        raise Tc3Error(
            f"{outputs} is missing or empty, although a run was begun there. If it is only unavailable for now, bring "
            f"it back. {advice}"
        )
    difference = _difference(old, new)
    if difference is None:
        return old
    if started or journal:
        raise Tc3Error(f"{outputs} holds the checkpoints of another run: {difference}. {advice}")
    return {}


def check_work(work: Path, run: str) -> None:
    """Raise Tc3Error unless `work` is still the run's folder, and not an empty one in the place of a lost mount."""
    if read_json(work / "run.json").get("run") != run:
        raise Tc3Error(f"{work} is not the folder that the run began in: its run.json is missing or another run's")


def check_adapter(work: Path) -> None:
    """Check that the adapter in `work` is the last run's, of its last step, and of the rows that are there.

    Prints if that run was stopped before its end.

    Raises:
        Tc3Error: It is not, or the run ended with an error.
    """
    run, adapter = (read_json(folder / "run.json") for folder in (work, work / "lora_model"))
    result, saved = (record.get("result") or {} for record in (run, adapter))
    same = (run.get("run"), result.get("steps")) == (adapter.get("run"), saved.get("steps"))
    if result.get("error") or (adapter and not same):
        ended = result.get("error") or ("it has saved no adapter" if result else "it has not ended")
        other = (
            f"; or, to test the adapter of step {saved.get('steps')} of run {adapter.get('run')}, copy "
            "lora_model/run.json over run.json"
        )
        raise Tc3Error(
            f"lora_model is not the result of the last run in {work}, {run.get('run')}: {ended.rstrip('.')}. Run "
            f"03_train again{other if adapter else ''}."
        )
    done, steps = saved.get("steps"), run.get("plan", {}).get("steps")
    if done is not None and steps is not None and done < steps:
        print(f"the adapter is of step {done} of {steps}: its run was stopped there")
    if run.get("data") != _data(work):
        raise Tc3Error(f"the rows in {work} have changed since the adapter was trained: run 03_train again.")


def tested(report: Mapping[str, Any], work: Path) -> bool:
    """Return whether a `report.json` is of the last run in `work` and of its last step; older ones have no steps."""
    run = read_json(work / "run.json")
    steps = (run.get("result") or {}).get("steps")
    return (report.get("run"), report.get("steps", steps)) == (run.get("run"), steps)


def as_trained(config: Settings, work: Path) -> Settings:
    """Return `config` with the settings of model and prompt that the adapter in `work` was trained with.

    Where the base model's folder is gone, `model_name` stays that of `config`.
    """
    run = read_json(work / "run.json")
    if not _is_record(run):
        return config
    recorded = {"prompting": dataclasses.asdict(PromptSettings())} | run["settings"]  # older runs had no other prompt
    recorded = {
        name: value
        for part in ("model", "prompting")
        for name, value in recorded[part].items()
        if hasattr(getattr(config, part), name)
    }
    if (base := Path(recorded.get("model_name", ""))).is_absolute() and not base.exists():
        del recorded["model_name"]
    return config.change(**recorded)


def _set_aside(work: Path, outputs: str) -> None:
    """Move an earlier run's files to the first free `run-N`."""
    with suppress(OSError):
        (work / outputs).rmdir()  # an empty one is the trainer's that is about to start
    old = read_json(work / "run.json")
    names = {*RUN_FILES, outputs, *([_output_dir(old)] if _is_record(old) else [])}
    found = [work / name for name in names if (work / name).exists()]
    if found:
        number = next(number for number in range(1, 10**6) if not (work / f"run-{number}").exists())
        (work / f"run-{number}").mkdir()
        for path in found:
            path.rename(work / f"run-{number}" / path.name)
        print(f"the earlier run is in {work / f'run-{number}'}")


def _output_dir(record: dict[str, Any]) -> str:
    return record["settings"].get("training", {}).get("output_dir", "outputs")


def _how_to_start_again(work: Path) -> str:
    return f"To start anew, set resume_from_checkpoint=False: what is in {work} moves to a folder of its own."


def _is_record(value: dict[str, Any]) -> bool:
    return all(isinstance(value.get(part), dict) for part in ("settings", "data")) and isinstance(value.get("run"), str)


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Return the first difference that makes the two another run, as one readable phrase."""
    before, now = _identity(old["settings"]), _identity(new["settings"])
    for name in sorted(now, key=lambda name: name != "plan"):  # `plan` decides which others count
        if before.get(name) != now[name]:
            return f"{name} was {before.get(name)!r} and is now {now[name]!r}"
    if (many := old.get("processes", 1)) != new["processes"]:
        return f"--num_processes (of accelerate launch) was {many} and is now {new['processes']}"
    for name, value in new["data"].items():
        if old["data"].get(name) != value:
            return f"{name} has changed since"
    named = {
        "template": "prompt template",
        "prompt": "prompt",
        "base": "base model",
        "tokenizer": "tokenizer",
        "order": "order of the rows",
    }
    for name, what in named.items():
        if name in old and name in new and old[name] != new[name]:
            return f"the {what} has changed since"
    return None


def _identity(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that decide what is learned."""
    flat = _flat(_recorded(Settings())) | _flat(settings)  # an older version's lacks what was added since
    if PurePath(flat["model_name"]).is_absolute():  # the folder may move: whether it holds the same is `base`
        flat["model_name"] = PurePath(flat["model_name"]).name
    free = set(_FREE)
    if flat["plan"] == "auto":
        free |= _PLANNED
        flat[_BATCH] = flat["per_device_train_batch_size"] * flat["gradient_accumulation_steps"]
    if flat["max_steps"] > 0:
        free.add("num_train_epochs")
    return {name: value for name, value in flat.items() if name not in free}


def _recorded(config: Settings) -> dict[str, Any]:
    parts = ("model", "lora", "training", "planning", "prompting")
    return {part: dataclasses.asdict(getattr(config, part)) for part in parts}


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings by name, with the types that JSON has."""
    parts = json.loads(json.dumps(settings)).values()
    return {name: value for part in parts for name, value in part.items()}


def _free_differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    parts = [(_flat(record["settings"]), record.get("versions"), record.get("plan")) for record in (old, new)]
    for before, now in zip(*parts, strict=True):
        for name, value in (now or {}).items():
            if before and name in before and before[name] != value:
                yield f"{name} {before[name]} -> {value}"
    if old.get("device") != new["device"]:
        yield f"{old.get('device')} -> {new['device']}"


def _data(work: Path) -> dict[str, str]:
    digests = {}
    for name in ("train.jsonl", "eval.jsonl"):
        try:
            with open(work / name, "rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Tc3Error(
                f"cannot read {work / name}: {error.strerror}. Run the settings cell again (it mounts Drive), or "
                "01_prepare if it was never run."
            ) from None
    return digests


def _template(template: PromptSettings) -> str:
    """Return a hash of the prompt settings; that of the default is the one that older versions recorded."""
    response = template.response.replace("{title}", "{}").replace("{content}", "{}")
    text = PROMPT if template.prompt == "alpaca" else template.prompt
    return _sha256("\0".join((template.instruction, text, response)).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"CPU, {torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"
