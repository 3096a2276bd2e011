"""The base model in 16 bit: where it is, its files, and loading it by transformers alone, without unsloth."""

import logging
import re
import shutil
from pathlib import Path

import httpx
import psutil
import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import DryRunError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from tc3lib.errors import Tc3Error
from tc3lib.files import read_json
from tc3lib.settings import Settings

# bitsandbytes, which PEFT imports, warns that an optional package is absent on some CPUs; its own kernel serves.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

GIB = 2**30
_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja"]
_OTHERS = ["original/*", "consolidated*"]


def name(config: Settings) -> str:
    """Return the base model in 16 bit: `export_base` if set, else `model_name` without the ending `-bnb-4bit`.

    A local folder with that ending, and no folder of the other name beside it, is returned as it is.
    """
    if config.exporting.export_base:
        return config.exporting.export_base
    given = config.model.model_name
    twin = re.sub(r"(-unsloth)?-bnb-4bit/?$", "", given)
    return given if Path(given).is_dir() and not Path(twin).is_dir() else twin


def fetch(name: str) -> Path:
    """Return the folder of a model's files, which are downloaded if they are not there.

    Raises:
        Tc3Error: There is no such model, no network, or not enough space for it.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        _check_download(name)
        return Path(snapshot_download(name, allow_patterns=_FILES, ignore_patterns=_OTHERS))
    except LocalEntryNotFoundError:
        reason = "it was not downloaded before, and there is no network."
    except (httpx.HTTPError, HFValidationError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
    raise Tc3Error(
        f"cannot find the base model in 16 bit, {name!r}: {reason} Set export_base to its folder or repository."
    )


def _check_download(name: str) -> None:
    """Raise Tc3Error if the files that are still to be downloaded do not fit on the disk; offline, say nothing."""
    try:
        files = snapshot_download(name, allow_patterns=_FILES, ignore_patterns=_OTHERS, dry_run=True)
    except DryRunError:  # no network, or no such model: the download itself says which
        return
    missing = sum(file.file_size or 0 for file in files if file.will_download)
    cache = Path(constants.HF_HUB_CACHE).absolute()
    check_disk(next(folder for folder in (cache, *cache.parents) if folder.is_dir()), missing, f"to download {name}")


def weight_bytes(folder: Path) -> int:
    """Return the size of a model's weights in 16 bit, in which they are stored unless a quantisation is.

    Raises:
        Tc3Error: There are none.
    """
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors") if "consolidated" not in path.name)
    if not stored:
        raise Tc3Error(f"no weights (*.safetensors) in {folder}: set export_base to the base model in 16 bit.")
    return stored * 4 if is_4bit(folder) else stored


def is_4bit(folder: Path) -> bool:
    """Return whether a model's weights are stored in 4 bit."""
    quantisation = read_json(folder / "config.json").get("quantization_config") or {}
    return quantisation.get("load_in_4bit", False)


def check_disk(folder: Path, needed: float, what: str) -> None:
    """Raise Tc3Error if `folder` has less than the `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Tc3Error(
            f"{what} needs {needed / GIB:.1f} GiB on the disk of {folder}, which has {free / GIB:.1f} GiB free: free "
            "some space, or set TC3_HOME (for a download HF_HOME) to another disk."
        )


def check_memory(needed: float, what: str) -> None:
    """Raise Tc3Error if the machine has less than the `needed` bytes of memory free."""
    free = psutil.virtual_memory().available
    if free < needed:
        raise Tc3Error(
            f"{what} needs {needed / GIB:.1f} GiB of memory, and {free / GIB:.1f} GiB are free: close other programs, "
            "or choose a machine with more (in Colab High-RAM under Runtime > Change runtime type)."
        )


def load(folder: Path | str, device_map: str | None = None) -> PreTrainedModel:
    """Return a model in 16 bit; one that is stored in 4 bit is dequantised.

    Raises:
        Tc3Error: It cannot be loaded.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map=device_map)
        if getattr(model, "is_quantized", False):
            model = model.dequantize()
            model._weight_conversions = None  # of 4 bit, into which saving would convert back, which it cannot
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise Tc3Error(f"cannot load the model in {folder}: {reason}") from error
    return model.to(torch.bfloat16) if model.dtype == torch.float32 else model
