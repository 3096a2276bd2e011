"""What a stage finds on this machine, told before anything heavy is imported: a tick or a line of advice a row."""

import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tc3lib.errors import Tc3Error
from tc3lib.runtime import packages as colab
from tc3lib.settings import ModelSettings, Settings

MIB, GIB = 2**20, 2**30
PYTHONS = ((3, 11), (3, 13))
TORCHES = ("2.11.0", "2.13.0")
"""Colab's, with which the recipe ran on a GPU, and that of the runs on a CPU."""

# Without these no model is loaded; without another of the pinned packages something may still work.
NEEDED = (
    "accelerate", "bitsandbytes", "datasets", "peft", "tokenizers", "torch", "transformers", "trl", "unsloth",
    "unsloth_zoo",
)  # fmt: skip
# Whose models ask for a licence to be accepted, as the Hub shows them: a token proves who has.
GATED = ("meta-llama/", "google/gemma", "mistralai/")
WEIGHTS, WEIGHTS_16_BIT = 6 * GIB, 16 * GIB
"""The base model's files, 8B in 4 bit and in 16: on the disk, and in 4 bit on the way to the card."""
CARD = 8 * GIB
"""What the 8B model takes on a card while it is trained with one row at a time."""

_QUERY = "index,uuid,name,memory.total,memory.free,compute_cap"
_OTHER_GPU = "in Colab choose Runtime > Change runtime type > L4 GPU"


@dataclass(frozen=True)
class Row:
    """One thing that was looked at.

    Attributes:
        name: What.
        found: What is there.
        advice: What to do about it; empty where all is well.
        fatal: The stage cannot do without.
    """

    name: str
    found: str
    advice: str = ""
    fatal: bool = False


@dataclass(frozen=True)
class Card:
    """A GPU: its name, memory in bytes and compute capability, None where the driver does not tell."""

    name: str
    total: float | None
    free: float | None
    capability: float | None


def machine(config: Settings, *, model: bool, in_colab: bool, token: str) -> list[Row]:
    """Return the rows of what is there before Drive is asked for: Python, packages, GPU, memory, token.

    Args:
        config: The run.
        model: Whether the stage loads the model.
        in_colab: Whether this is a Colab kernel.
        token: Where a Hugging Face token was found, "" if nowhere; never the token.
    """
    rows = [_python(in_colab), _packages(model, in_colab)]
    rows += _gpu(config, in_colab) if model else [Row("GPU", "not needed here")]
    rows.append(_memory(WEIGHTS if model and config.requires_gpu else 2 * GIB, in_colab))
    if model:
        rows.append(_token(config.model.model_name, token))
    return rows


def places(config: Settings, work: Path, *, stage: str, model: bool, on_drive: bool, in_colab: bool) -> list[Row]:
    """Return the rows of what is written to: the work folder, whether it is on Drive, where the model is kept."""
    rows = [_work(config, work, stage)]
    if model and not Path(config.model.model_name).is_dir():
        rows.append(_weights(config.model))
    if on_drive:
        return [*rows, Row("Drive", "mounted")]
    lost = "results go when the session ends: unset TC3_HOME to have them on Drive" if in_colab else ""
    return [*rows, Row("Drive", "not used", lost)]


def refuse(rows: Sequence[Row]) -> None:
    """Show the rows and raise Tc3Error if the stage cannot do without one of them; else do nothing."""
    fatal = next((row for row in rows if row.fatal), None)
    if fatal is not None:
        print(table(rows))
        raise Tc3Error(f"{fatal.found}: {fatal.advice}.")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as lines of text, each with a tick or its advice; plain letters where the output has no other."""
    tick = "✓" if (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf") else "ok"
    name = max(len(row.name) for row in rows)
    lines = [(f"{'!' if row.advice else tick:<{len(tick)}}  {row.name:<{name}}  {row.found}", row) for row in rows]
    return "\n".join(f"{line}: {row.advice}" if row.advice else line for line, row in lines)


def space_needed(config: Settings) -> int:
    """Return about how many bytes a whole training run writes.

    That is the checkpoints that stay (10 where nothing tells), the best one, the one being written, and the adapter.
    A checkpoint of the 8B model with r=16 has 270 MiB (adapter 160, 8-bit optimiser 81, tokenizer 17, small files),
    and in proportion with another r. What `shutil.disk_usage` calls free is the most that there can be: on Drive the
    account's quota may be smaller, since files wait on the machine's disk first.

    Args:
        config: The run.
    """
    training = config.training
    checkpoint = 270 * MIB * config.lora.r // 16 if config.requires_gpu else 16 * MIB
    if training.save_strategy == "no":
        return checkpoint
    stay = training.save_total_limit or 10
    if training.save_strategy == "steps" and training.max_steps > 0:
        planned = math.ceil(training.max_steps / training.save_steps)
        stay = min(planned, training.save_total_limit or planned)
    return (stay + 3) * checkpoint


def _python(in_colab: bool) -> Row:
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    found = tuple(map(int, platform.python_version_tuple()[:2]))
    other = "Runtime > Change runtime type > Runtime version" if in_colab else f"make PYTHON=python{last}"
    advice = "" if PYTHONS[0] <= found <= PYTHONS[1] else f"tested with {first} to {last}; if it fails, choose {other}"
    return Row("Python", platform.python_version(), advice)


def _packages(model: bool, in_colab: bool) -> Row:
    """Compare with the pins of Colab; elsewhere with those that the local set has too."""
    pinned = colab.pins(colab.REQUIREMENTS)
    local = {name.lower() for name in colab.pins(colab.REPOSITORY / "requirements-cpu.txt")}
    tested = {name: version for name, version in pinned.items() if in_colab or name.lower() in local}
    if not tested:
        return Row("packages", "not compared: there is no requirements-colab.txt beside the library")
    again = "run the set-up cell again" if in_colab else "install them with `make test`, or as README says for a GPU"
    there = {name: colab.installed(name) for name in {*tested, *NEEDED}}
    if model and (absent := [name for name in NEEDED if there[name] is None]):
        return Row("packages", f"no {', '.join(absent)}", f"the stage cannot do without them; {again}", fatal=True)
    if model and (old := colab.in_use(tested)):
        return Row("packages", f"{', '.join(old)} was in use before its pin was installed", colab.RESTART, fatal=True)
    told = [f"{name} {there[name] or 'is absent'} (tested: {version})" for name, version in tested.items()
            if there[name] != version]  # fmt: skip
    torch = there["torch"]
    if torch is not None and torch.partition("+")[0] not in TORCHES:
        return Row("packages", f"torch {torch}", f"tested with {' and '.join(TORCHES)}; if it fails, see README")
    if told:
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        return Row("packages", ", ".join(told[:3]) + more, again)
    return Row("packages", f"{len(tested)} as tested, torch {torch}")


def _gpu(config: Settings, in_colab: bool) -> list[Row]:
    """Return the rows of the GPU and of bfloat16, without torch, which takes seconds to import."""
    needed = config.requires_gpu
    try:
        card = _card()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return [Row("GPU", "not told", f"nvidia-smi does not tell: {str(error).partition(chr(10))[0]}")]
    if card is None and not needed:
        return [Row("GPU", f"none, the preset {config.preset} runs on a CPU")]
    if card is None:
        advice = f"{_OTHER_GPU if in_colab else 'run it in Colab'}, or set TC3_PRESET=tiny for the small run on a CPU"
        return [Row("GPU", f"the preset {config.preset!r} needs an NVIDIA GPU and there is none", advice, fatal=True)]
    build = colab.installed("torch") or ""
    if needed and build.endswith("+cpu"):
        advice = "install the build with CUDA, as pytorch.org tells, or set TC3_PRESET=tiny for the small run on a CPU"
        return [Row("GPU", f"{card.name}, which torch {build} cannot use", advice, fatal=True)]
    return [_card_memory(card, config), _bfloat16(card, config)]


def _card() -> Card | None:
    """Return the GPU that the process will use, or None.

    Raises:
        OSError, SubprocessError, ValueError: There is one, or may be, and nvidia-smi does not tell of it.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (not visible.strip() or visible.strip().startswith("-")):
        return None
    if shutil.which("nvidia-smi") is None:
        if Path("/dev/nvidiactl").exists():
            raise OSError("no nvidia-smi in PATH")
        return None
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    if re.search("No devices were found|couldn't communicate|not found", done.stdout + done.stderr):
        return None
    if done.returncode:
        raise OSError((done.stdout + done.stderr).strip() or f"status {done.returncode}")
    lines = [[field.strip() for field in line.split(",")] for line in done.stdout.strip().splitlines()]
    first = (visible or "").partition(",")[0].strip()
    for index, uuid, name, total, free, capability in lines:
        if not first or index == first or uuid.startswith(first):
            total, free = (_number(value) for value in (total, free))
            return Card(name, total and total * MIB, free and free * MIB, _number(capability))
    return None


def _number(text: str) -> float | None:
    """Return what nvidia-smi printed as a number; None for [N/A] and the like."""
    return float(text) if re.fullmatch(r"[\d.]+", text) else None


def _card_memory(card: Card, config: Settings) -> Row:
    if card.total is None or card.free is None:
        return Row("GPU", f"{card.name}, memory not told")
    found = f"{card.name}, {card.free / GIB:.1f} of {card.total / GIB:.1f} GiB free"
    asked = config.planning.memory_gib
    if config.requires_gpu and card.total < CARD:
        return Row("GPU", found, f"the 8B model needs about {CARD // GIB} GiB; {_OTHER_GPU}")
    if config.requires_gpu and card.free < CARD:
        return Row("GPU", found, "end what else uses it (in Colab Runtime > Restart session, also of other notebooks)")
    if asked is not None and asked * GIB > card.free:
        return Row("GPU", found, f"memory_gib={asked:g} is more than that: set it lower, or leave it out")
    return Row("GPU", found)


def _bfloat16(card: Card, config: Settings) -> Row:
    """Compute capability 8.0 (Ampere) brought bfloat16: CUDA C++ Programming Guide, features by compute capability."""
    if card.capability is None:
        return Row("bfloat16", "not told")
    found = f"compute capability {card.capability}"
    if card.capability >= 8:
        return Row("bfloat16", f"yes, {found}")
    if config.model.dtype == "bfloat16":
        return Row("bfloat16", f"no, {found}", "set dtype=None, which takes float16 here, or choose an L4 or A100")
    return Row("bfloat16", f"no, {found}", "float16 is taken, and it is slower; an L4 or A100 has it")


def _memory(needed: int, in_colab: bool) -> Row:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        text = ""
    free = re.search(r"^MemAvailable: +(\d+) kB$", text, re.M)
    if free is None:
        return Row("memory", "not told")
    size = int(free[1]) * 1024
    how = "choose High-RAM under Runtime > Change runtime type" if in_colab else "end other programs"
    advice = "" if size >= needed else f"about {needed // GIB} GiB are wanted: {how}"
    return Row("memory", f"{size / GIB:.1f} GiB free", advice)


def _token(name: str, token: str) -> Row:
    found = f"found in {token}" if token else "none"
    if Path(name).is_dir():
        return Row("token", "not needed, the model is a local folder")
    if name.startswith(GATED) and not token:
        how = "accept its licence on huggingface.co and put a token named HF_TOKEN into Colab's secrets (the key on the"
        return Row("token", f"none, and {name} is gated", f"{how} left), or into the environment")
    return Row("token", found if name.startswith(GATED) else f"{found}; a gated model would need one")


def _work(config: Settings, work: Path, stage: str) -> Row:
    usage = shutil.disk_usage(work)
    if not usage.total:  # the file system does not tell
        return Row("work folder", f"{work}, space not told")
    found = f"{work} has {usage.free // MIB:,} MiB free"
    if stage != "03_train":
        needed = 2 * GIB if stage == "01_prepare" and config.requires_gpu else 100 * MIB
        advice = "" if usage.free >= needed else f"about {needed // MIB:,} MiB are wanted: free some, or set TC3_HOME"
        return Row("work folder", found, advice)
    needed, training = space_needed(config), config.training
    if training.resume_from_checkpoint:  # a run that continues has part of what it needs
        needed -= sum(path.stat().st_size for path in (work / training.output_dir).rglob("*") if path.is_file())
    if usage.free >= needed:
        return Row("work folder", found)
    advice = (
        f"set save_total_limit (now {training.save_total_limit}) lower or save_steps (now {training.save_steps}) "
        "higher, free some space, or set TC3_HOME to another folder"
    )
    return Row("work folder", f"the run writes about {math.ceil(needed / MIB):,} MiB and {found}", advice, fatal=True)


def _weights(model: ModelSettings) -> Row:
    """Return the row of the folder where huggingface_hub keeps downloads; in 16 bit it is another repository."""
    name = model.model_name if model.load_in_4bit else model.model_name.removesuffix("-bnb-4bit")
    wanted = WEIGHTS if model.load_in_4bit else WEIGHTS_16_BIT
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()
    if any((cache / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/*.safetensors")):
        return Row("model", f"{name} was downloaded before")
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    advice = (
        "" if free >= wanted else f"about {wanted // GIB} GiB are wanted: free some, or set HF_HOME to another disk"
    )
    return Row("model", f"to download, {there} has {free / GIB:.0f} GiB free", advice)
