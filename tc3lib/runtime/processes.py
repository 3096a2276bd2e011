"""The processes that `accelerate launch` started for one run: how many there are, and which one this is."""

import os
import sys
from typing import TYPE_CHECKING, Any

from tc3lib.errors import Tc3Error

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "UNSLOTH_FSDP2": "unsloth's FSDP2",
}


def count() -> int:
    """Return how many processes train together; 1 unless a launcher started them."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def index() -> int:
    """Return this process's number among them."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_main() -> bool:
    """Return whether this is the process that writes files and prints."""
    return index() == 0


def silence() -> None:
    """Stop this process from printing and showing progress bars, unless it is the main one; stderr stays."""
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
        os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it as it is imported


def refuse_sharding() -> None:
    """Raise Tc3Error if the launcher was asked to shard the model over the processes."""
    if "LOCAL_RANK" not in os.environ:
        return
    for variable, name in _SHARDING.items():
        if os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "on", "native"):
            raise Tc3Error(
                f"{name} ({variable}={os.environ[variable]}) is not supported, each card must hold the whole model: "
                "launch with `accelerate launch --multi_gpu --num_processes 2` (as many as there are cards)."
            )


def wait() -> None:
    """Wait until every process is here."""
    if count() > 1:
        _state().wait_for_everyone()


def gather(value: Any) -> list[Any]:
    """Return every process's value, in their order."""
    if count() == 1:
        return [value]
    from accelerate.utils import gather_object

    _state()
    return gather_object([value])


def check(accelerator: "Accelerator") -> None:
    """Raise Tc3Error unless the trainer's processes know of each other."""
    # Where accelerate calls the CPU cpu:0, transformers cannot load an optimiser's state to it.
    if accelerator.num_processes != count() or str(accelerator.device) == "cpu:0":
        raise _not_joined()


def _state() -> "PartialState":
    """Return accelerate's state of the processes, which joins them if no trainer has done so."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.num_processes != count():
        raise _not_joined()
    return state


def _not_joined() -> Tc3Error:
    return Tc3Error(
        f"the launcher started {count()} processes without a GPU for each: to use the CPU set ACCELERATE_USE_CPU=true "
        "and ACCELERATE_TORCH_DEVICE=cpu before accelerate launch."
    )
