"""The processes that `accelerate launch` started for one run: how many there are, and which one this is."""

import os
import sys
from typing import Any

from tc3lib.errors import Tc3Error


def count() -> int:
    """Return how many processes train together; 1 unless a launcher started them."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def index() -> int:
    """Return this process's number among them."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_main() -> bool:
    """Tell whether this is the one that writes files, shows progress and speaks."""
    return index() == 0


def hush() -> None:
    """From now on let this process print nothing and show no progress bars, unless it is the main one.

    What goes to stderr, where errors are told, stays.
    """
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
        os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it as it is imported


def wait() -> None:
    """Wait until every process is here; alone do nothing."""
    if count() > 1:
        _joined().wait_for_everyone()


def gather(value: Any) -> list[Any]:
    """Return every process's value, in their order; alone only one."""
    if count() == 1:
        return [value]
    from accelerate.utils import gather_object

    _joined()
    return gather_object([value])


def check(accelerator: Any, recipe: bool = True) -> None:
    """Raise Tc3Error unless the processes know of each other, and each has the whole model or `recipe` is set."""
    # Where accelerate calls the CPU cpu:0, transformers cannot load an optimiser's state to it.
    if accelerator.num_processes != count() or str(accelerator.device) == "cpu:0":
        raise _apart()
    kind = accelerator.distributed_type.value
    known = {"NO": None, "MULTI_GPU": None, "MULTI_CPU": None, "FSDP": "accelerate's FSDP"}
    check_whole(known.get(kind, kind), recipe=recipe)


def sharding() -> str | None:
    """Return what shards the model over the processes, as the environment has it; None where each has all of it."""
    if "LOCAL_RANK" not in os.environ:
        return None

    def told(name: str, *yes: str) -> bool:  # each library has its own words for yes
        return os.environ.get(name, "").strip().lower() in yes

    if told("ACCELERATE_USE_DEEPSPEED", "true"):
        return "DeepSpeed"
    if told("ACCELERATE_USE_FSDP", "true"):
        return "accelerate's FSDP"
    if count() > 1 and told("UNSLOTH_FSDP2", "1", "true", "yes", "on", "native"):  # accelerate does not know of it
        return "unsloth's FSDP2"
    return None


def is_sharded(model: Any) -> bool:
    """Tell whether FSDP2 has sharded the model by now."""
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())


def check_whole(kind: str | None = None, *, recipe: bool) -> None:
    """Raise Tc3Error where the model is sharded, by `kind` or by what `sharding` finds, unless `recipe` is set.

    accelerate's FSDP must be version 2 and save whole weights: else no checkpoint, and no adapter, could be kept.
    Tensor, pipeline and context parallelism would need the same rows in several processes.
    """
    for name in (
        "UNSLOTH_TP_SIZE", "UNSLOTH_PP_SIZE", "PARALLELISM_CONFIG_TP_SIZE", "PARALLELISM_CONFIG_CP_SIZE",
        "PARALLELISM_CONFIG_SP_SIZE",
    ):  # fmt: skip
        if os.environ.get(name, "1").strip() not in ("", "0", "1"):
            raise Tc3Error(f"{name}={os.environ[name]} is not supported: unset it.")
    if (kind := sharding() or kind) and not recipe:
        raise Tc3Error(f"plan='auto' has the whole model on each card: with {kind} set plan='recipe'.")
    if kind == "accelerate's FSDP":
        for name, expected in (("fsdp_version", "2"), ("fsdp_state_dict_type", "FULL_STATE_DICT")):
            if (found := os.environ.get(name.upper())) != expected:
                raise Tc3Error(f"--{name} (of accelerate launch) is {found}: only {expected} is supported, set it.")


def _joined() -> Any:
    """Return accelerate's state of the processes, which it joins if no trainer has made it do so."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if state.num_processes != count():
        raise _apart()
    return state


def _apart() -> Tc3Error:
    return Tc3Error(
        f"the launcher started {count()} processes without a GPU for each: to use the CPU set ACCELERATE_USE_CPU=true "
        "and ACCELERATE_TORCH_DEVICE=cpu before accelerate launch."
    )
