"""What a stage finds on this machine, in a second and before anything heavy is imported: one row a thing."""

import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from huggingface_hub import constants

from tc3lib.errors import Tc3Error
from tc3lib.files import read_json
from tc3lib.runtime import packages
from tc3lib.settings import EMBEDDED, ModelSettings, Settings, runs, used_by_01

MIB, GIB = 2**20, 2**30
PYTHONS = ((3, 11), (3, 13))
TORCHES = ("2.11.0", "2.13.0")
"""Colab's, with which the recipe ran on a GPU, and that of the runs on a CPU."""

# Without these no model is loaded; without another of the pinned packages something may still work.
NEEDED = (
    "accelerate", "bitsandbytes", "datasets", "peft", "tokenizers", "torch", "transformers", "trl", "unsloth",
    "unsloth_zoo",
)  # fmt: skip
GATED = ("meta-llama/", "google/gemma", "mistralai/")
"""Owners whose models need a licence accepted on the Hub."""
WEIGHTS, WEIGHTS_16_BIT = 6 * GIB, 16 * GIB
"""Size of the 8B model's files in 4 and 16 bit; the first is also the memory needed to load it."""
CARD = 8 * GIB
"""What the 8B model takes on a card while it is trained with one row at a time."""

_RESTART = "choose Runtime > Restart session and run all again"
_OTHER_GPU = "in Colab choose Runtime > Change runtime type > L4 GPU"
_TINY = "set TC3_PRESET=tiny, and TC3_HOME to another folder, for the small run on a CPU"


@dataclass(frozen=True)
class Row:
    """One thing that was looked at; `advice` is empty where all is well, `fatal` means that the stage cannot run."""

    name: str
    found: str
    advice: str = ""
    fatal: bool = False


@dataclass(frozen=True)
class Card:
    """A GPU and its memory in bytes, NaN where the driver does not report it."""

    name: str
    total: float
    free: float


def software(*, loads: bool, in_colab: bool) -> list[Row]:
    """Return the rows of Python and the packages, which need no settings.

    Args:
        loads: Whether the stage loads a model.
        in_colab: Whether this is a Colab kernel, for the advice.
    """
    return [_python(in_colab), _packages(loads, in_colab)]


def machine(config: Settings, *, gpu: bool, in_colab: bool) -> list[Row]:
    """Return the rows of the GPU, the memory and the token, and of a model that is to be in a folder and is not."""
    rows = [_gpu(config, in_colab) if gpu else Row("GPU", "not needed")]
    needed = WEIGHTS if gpu and config.requires_gpu else 2 * GIB
    free = psutil.virtual_memory().available
    how = "choose High-RAM under Runtime > Change runtime type" if in_colab else "close other programs"
    advice = "" if free >= needed else f"about {needed // GIB} GiB are needed: {how}"
    rows.append(Row("memory", f"{free / GIB:.1f} GiB free", advice))
    if gpu:
        rows.append(_token(config.model.model_name))
    return [*rows, *_missing_model(config)]


def places(config: Settings, work: Path, stage: str, *, gpu: bool, on_drive: bool, in_colab: bool) -> list[Row]:
    """Return the rows of what is written to: the work folder, the model's download, whether Drive keeps the results."""
    rows = [_work(config, work, stage)]
    if gpu and not Path(config.model.model_name).is_dir():
        rows.append(_download(config.model))
    if on_drive:
        return [*rows, Row("Drive", "mounted")]
    lost = "results are lost when the session ends: unset TC3_HOME to have them on Drive" if in_colab else ""
    return [*rows, Row("Drive", "not used", lost)]


def refuse(rows: Sequence[Row]) -> None:
    """Print the rows and raise Tc3Error if the stage cannot run because of one of them."""
    fatal = next((row for row in rows if row.fatal), None)
    if fatal is not None:
        print(table(rows))
        raise Tc3Error(f"{fatal.found}: {fatal.advice}.")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned lines, each with a tick or its advice."""
    tick = "✓" if (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf") else "ok"
    width = max(len(row.name) for row in rows)
    return "\n".join(
        f"{'!' if row.advice else tick:<{len(tick)}}  {row.name:<{width}}  {row.found}"
        + (f": {row.advice}" if row.advice else "")
        for row in rows
    )


def space_needed(config: Settings) -> int:
    """Return about how many bytes a whole training run writes: the checkpoints that it keeps, three more, the adapter.

    A checkpoint of the 8B model with r=16 has 270 MiB (adapter 160, 8-bit optimiser 81, tokenizer 17, small files).
    """
    training = config.training
    checkpoint = 270 * MIB * config.lora.r // 16 if config.requires_gpu else 16 * MIB
    if training.save_strategy == "no":
        return checkpoint
    kept = training.save_total_limit or 10
    if training.save_strategy == "steps" and training.max_steps > 0:
        planned = math.ceil(training.max_steps / training.save_steps)
        kept = min(planned, training.save_total_limit or planned)
    return (kept + 3) * checkpoint  # the best one, the one being written, and the adapter


def _python(in_colab: bool) -> Row:
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    found = tuple(map(int, platform.python_version_tuple()[:2]))
    other = "Runtime > Change runtime type > Runtime version" if in_colab else f"make PYTHON=python{last}"
    advice = "" if PYTHONS[0] <= found <= PYTHONS[1] else f"tested with {first} to {last}; if it fails, choose {other}"
    return Row("Python", platform.python_version(), advice)


def _packages(loads: bool, in_colab: bool) -> Row:
    """Compare with Colab's pins; outside Colab with those that the local set has too."""
    pinned, local = packages.pins(packages.COLAB), {name.lower() for name in packages.pins(packages.CPU)}
    tested = {name: version for name, version in pinned.items() if in_colab or name.lower() in local}
    again = "run the set-up cell again" if in_colab else "`make run` installs them; for a GPU see README"
    there = {name: packages.installed(name) for name in {*tested, *NEEDED}}
    if loads and (missing := [name for name in NEEDED if there[name] is None]):
        return Row("packages", f"no {', '.join(missing)}", f"the stage cannot run without; {again}", fatal=True)
    if old := packages.imported_before(["tc3lib", *tested] if loads else ["tc3lib"]):
        found = f"{', '.join(old)} was imported before its pin was installed"
        return Row("packages", found, _RESTART, fatal=True)
    torch = there["torch"] or "none"
    if torch != "none" and torch.partition("+")[0] not in TORCHES:
        return Row("packages", f"torch {torch}", f"tested with {' and '.join(TORCHES)}; if it fails, see README")
    other = [
        f"{name} {there[name] or 'is missing'} (tested: {version})"
        for name, version in tested.items()
        if there[name] != version
    ]
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        return Row("packages", ", ".join(other[:3]) + more, again)
    return Row("packages", f"{len(tested)} as tested, torch {torch}")


def _gpu(config: Settings, in_colab: bool) -> Row:
    """Look for the GPU without torch, which takes seconds to import."""
    needed = config.requires_gpu
    try:
        card = _card()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Row("GPU", "unknown", f"nvidia-smi failed: {str(error).partition(chr(10))[0]}")
    if card is None and not needed:
        return Row("GPU", f"none, the preset {config.preset} runs on a CPU")
    if card is None:
        found = f"the preset {config.preset!r} needs an NVIDIA GPU and there is none"
        return Row("GPU", found, f"{_OTHER_GPU if in_colab else 'run it in Colab'}, or {_TINY}", fatal=True)
    build = packages.installed("torch") or ""
    if needed and build.endswith("+cpu"):
        advice = f"install the build with CUDA, see pytorch.org, or {_TINY}"
        return Row("GPU", f"{card.name}, which torch {build} cannot use", advice, fatal=True)
    free, limit = f"{card.free / GIB:.1f} of {card.total / GIB:.1f} GiB free", config.planning.memory_gib
    found = f"{card.name}, {'of unknown memory' if math.isnan(card.free) else free}"
    if needed and card.total < CARD:
        return Row("GPU", found, f"the 8B model needs about {CARD // GIB} GiB; {_OTHER_GPU}")
    if needed and card.free < CARD:
        return Row("GPU", found, "stop what else uses it (in Colab Runtime > Restart session, also of other notebooks)")
    if limit is not None and limit * GIB > card.free:
        return Row("GPU", found, f"memory_gib={limit:g} is more than that: set it lower, or leave it out")
    return Row("GPU", found)


def _card() -> Card | None:
    """Return the GPU that the process will use, or None.

    Raises:
        OSError, SubprocessError, ValueError: There may be one, but nvidia-smi does not answer as it should.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").partition(",")[0].strip()
    if not visible or visible.startswith("-"):
        return None
    if shutil.which("nvidia-smi") is None:
        if Path("/dev/nvidiactl").exists():
            raise OSError("it is not in PATH")
        return None
    query = "--query-gpu=index,uuid,name,memory.total,memory.free"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    if re.search("No devices were found|couldn't communicate|not found", done.stdout + done.stderr):
        return None
    if done.returncode:
        raise OSError((done.stdout + done.stderr).strip() or f"status {done.returncode}")
    for line in done.stdout.strip().splitlines():
        index, uuid, name, total, free = (field.strip() for field in line.split(","))
        if visible in ("all", index) or uuid.startswith(visible):
            return Card(name, *(float(size) * MIB if size.isdigit() else math.nan for size in (total, free)))
    if visible.startswith("MIG-"):  # a part of a card, which the query does not list
        return Card(visible, math.nan, math.nan)
    return None


def _token(model_name: str) -> Row:
    if not model_name.startswith(GATED):
        return Row("token", "not needed for this model")
    from huggingface_hub import get_token  # in Colab it asks the user for the secret

    if get_token() is not None:
        return Row("token", "found")
    how = "accept its licence on huggingface.co and put a token named HF_TOKEN into Colab's secrets (the key on the"
    return Row("token", f"none, and {model_name} is gated", f"{how} left), or into the environment")


def _work(config: Settings, work: Path, stage: str) -> Row:
    usage = shutil.disk_usage(work)
    if not usage.total:  # some network file systems
        return Row("work folder", f"{work}, free space unknown")
    found = f"{work} has {usage.free // MIB:,} MiB free"
    if stage != "03_train":
        needed = 2 * GIB if stage == "01_prepare" and config.requires_gpu else 100 * MIB
        advice = "" if usage.free >= needed else f"about {needed // MIB:,} MiB are needed: free some, or set TC3_HOME"
        return Row("work folder", found, advice)
    needed, training = space_needed(config), config.training
    if training.resume_from_checkpoint:  # what an interrupted run has written counts
        needed -= sum(path.stat().st_size for path in (work / training.output_dir).rglob("*") if path.is_file())
    if usage.free >= needed:
        return Row("work folder", found)
    advice = (
        f"set save_total_limit (now {training.save_total_limit}) lower or save_steps (now {training.save_steps}) "
        "higher, free some space, or set TC3_HOME to another folder"
    )
    return Row("work folder", f"the run writes about {math.ceil(needed / MIB):,} MiB and {found}", advice, fatal=True)


def prepared(config: Settings, work: Path) -> Iterator[Row]:
    """Yield a row if notebook 01 ran with other settings than these, or did not run to its end."""
    report, now = read_json(work / "prepare_report.json"), used_by_01(config)
    ran = report.get("settings", {})
    if report and not ran:  # begun again: the rows that are there are an earlier call's
        yield Row("rows", "01_prepare did not finish", "run it again, then the notebooks after it", fatal=True)
    drawn, wanted = ran.get("train_rows"), now.pop("train_rows")
    for name, value in now.items():
        if name in ran and ran[name] != value:
            found = f"01_prepare ran with {name}={ran[name]!r}, and now it is {value!r}"
            advice = f"run 01_prepare again, then the notebooks after it, or set {name}={ran[name]!r} in this cell"
            yield Row("rows", found, advice, fatal=True)
    if drawn is not None and (wanted is None or wanted > drawn):
        more = f"{wanted:,}" if wanted else "all"
        yield Row("rows", f"01_prepare drew {drawn:,} to train on", f"run it again to have {more} for these settings")


def _missing_model(config: Settings) -> Iterator[Row]:
    folder = Path(config.model.model_name)
    if folder.is_absolute() and not folder.is_dir():
        made = f"`python {EMBEDDED / 'make_smollm2.py'}` makes it" if folder == runs() / "smollm2-model" else ""
        advice = made or "set model_name to a folder that is there, or to a repository of the Hub"
        yield Row("model", f"there is no folder {folder}", advice, fatal=True)


def _download(model: ModelSettings) -> Row:
    """Look whether the model was downloaded before; in 16 bit it is another repository."""
    name = model.model_name if model.load_in_4bit else model.model_name.removesuffix("-bnb-4bit")
    needed = WEIGHTS if model.load_in_4bit else WEIGHTS_16_BIT
    cache = Path(constants.HF_HUB_CACHE).absolute()
    if any((cache / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/*.safetensors")):
        return Row("model", f"{name} was downloaded before")
    disk = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(disk).free
    advice = (
        "" if free >= needed else f"about {needed // GIB} GiB are needed: free some, or set HF_HOME to another disk"
    )
    return Row("model", f"to download, {disk} has {free / GIB:.0f} GiB free", advice)
