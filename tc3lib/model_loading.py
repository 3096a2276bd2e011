"""Load the base model in 4 bit, add LoRA, load an adapter.

The only module that imports unsloth, whose import patches transformers, trl and peft: import this module before them.
"""

import dataclasses
import hashlib
import logging
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# bitsandbytes reports that an optional package is absent on some CPUs; its own kernel serves.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")
)
import unsloth  # noqa: F401, I001
import torch
from huggingface_hub import try_to_load_from_cache
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from unsloth import FastLanguageModel

from tc3lib.errors import Tc3Error
from tc3lib.files import read_json, write_json
from tc3lib.prompts import text_tokenizer
from tc3lib.settings import LoraSettings, ModelSettings


def load_base_model(config: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the base model, quantised, and its own tokenizer.

    Raises:
        Tc3Error: The model cannot be found or fetched, or its logits are NaN or infinite.
    """
    arguments = dataclasses.asdict(config)
    if config.dtype is not None:  # on a GPU unsloth does not take the name "float32"
        arguments["dtype"] = getattr(torch, config.dtype)
    try:
        model, tokenizer = FastLanguageModel.from_pretrained(**arguments)
    except (OSError, RuntimeError, SafetensorError) as error:
        if "out of memory" in str(error):
            raise
        reason = textwrap.shorten(str(error), 300) or type(error).__name__
        raise Tc3Error(
            f"cannot load the model {config.model_name!r} (model_name): {reason} Expected a local folder or a Hugging "
            "Face repository; a gated one needs HF_TOKEN, and a wrong HF_TOKEN is refused for public ones too."
        ) from error
    # Greedy is greedy, as in vLLM and llama.cpp: some models bring a penalty on repetitions, or a longest answer.
    ids = {name: getattr(model.generation_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)
    tokenizer = text_tokenizer(tokenizer)
    if tokenizer.pad_token is None:  # padding is masked wherever there is some, so it may look like anything
        tokenizer.pad_token = tokenizer.eos_token
    if not torch.cuda.is_available() and getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # of transformers' the only one that knows Gemma 2's soft cap
    with torch.no_grad():  # not inference_mode: what it leaves in a cache could not be trained with
        logits = model.eval()(input_ids=torch.tensor([[0, 1]], device=model.device)).logits
    if not logits.isfinite().all():
        raise Tc3Error(
            f"the logits of the model {config.model_name!r} are NaN or infinite: a weight is damaged, or values "
            "overflow. Download it again, or set dtype='bfloat16' or 'float32'."
        )
    return model, tokenizer


def add_lora(model: PreTrainedModel, config: LoraSettings) -> PeftModel:
    """Return the model with a new, trainable adapter; every weight of the base model is frozen.

    Raises:
        Tc3Error: The model has no layers of those names.
    """
    arguments = dataclasses.asdict(config) | _targets(model, config.target_modules)
    return FastLanguageModel.get_peft_model(model, **arguments)


def _targets(model: PreTrainedModel, wanted: Sequence[str]) -> dict[str, Any]:
    """Return which layers get an adapter, as arguments of `get_peft_model`: layers of the language model alone.

    The recipe's are all linear layers of a Llama. Where another model calls some otherwise, it gets all of its own.
    """
    names, decoder = [name for name, _ in model.named_modules()], model.get_decoder()
    inside = next(name for name, module in model.named_modules() if module is decoder) + "."
    missing = [target for target in wanted if not any(f".{name}".endswith(f".{target}") for name in names)]
    if missing:
        linear = (name for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear))
        own = sorted({name.rpartition(".")[2] for name in linear})
        if set(wanted) != set(LoraSettings().target_modules):
            raise Tc3Error(
                f"target_modules: {model.config.model_type!r} models have no {', '.join(missing)}. Their linear "
                f"layers are {', '.join(own)}."
            )
        print(
            f"target_modules: this model has no {', '.join(missing)}; all its linear layers instead: {', '.join(own)}"
        )
        wanted = own
    outside = [name for name in names if not name.startswith(inside) and name.rpartition(".")[2] in wanted]
    exclude = {"exclude_modules": rf"(?!{re.escape(inside)}).*"} if outside else {}
    return {"target_modules": list(wanted), **exclude}


def load_adapter(folder: Path | str, config: ModelSettings) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Return the base model with a saved adapter on top, and the tokenizer saved with it.

    Within `model.disable_adapter()` it answers as the base model.

    Args:
        folder: The adapter's.
        config: Where the base model's folder is no longer where the adapter names it, `model_name` is taken.

    Raises:
        Tc3Error: `folder` holds no adapter, or the base model cannot be loaded, or is not that of the training.
    """
    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise Tc3Error(f"no adapter in {folder} ({name} is missing): run 03_train first.")
    with _naming_its_base(folder, config.model_name) as named:
        model, tokenizer = load_base_model(dataclasses.replace(config, model_name=str(named)))
    trained_on = read_json(folder / "run.json").get("base")
    if trained_on not in (None, fingerprint(model)):
        name = model.get_base_model().config._name_or_path
        raise Tc3Error(
            f"the base model {name!r} is not the one that the adapter in {folder} was trained on: set model_name to "
            "that one's folder, or run 03_train again."
        )
    return model, tokenizer


@contextmanager
def _naming_its_base(folder: Path, model_name: str) -> Iterator[Path]:
    """Give the adapter's folder, or where its base model's folder is gone, a copy that names `model_name` instead."""
    adapter = read_json(folder / "adapter_config.json")
    base = Path(adapter.get("base_model_name_or_path") or "")
    if not base.is_absolute() or base.exists():
        yield folder
        return
    if not Path(model_name).is_dir():
        raise Tc3Error(
            f"the base model of the adapter in {folder} was in {base}, where nothing is now: set model_name to the "
            "folder that it is in."
        )
    print(f"the base model is no longer in {base}: {model_name} is taken")
    with TemporaryDirectory() as copy:
        for file in folder.iterdir():
            (Path(copy) / file.name).symlink_to(file.absolute())
        (Path(copy) / "adapter_config.json").unlink()
        write_json(Path(copy) / "adapter_config.json", adapter | {"base_model_name_or_path": model_name})
        yield Path(copy)


def fingerprint(model: PreTrainedModel | PeftModel) -> str:
    """Return a digest that tells a base model from others: of its weight files' names, sizes, beginnings and ends.

    It is the same wherever the files are, on any hardware and in any dtype, with an adapter and without.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    name, known = base.config._name_or_path, hashlib.sha256()
    folder = Path(name)
    if not folder.is_dir():
        # snapshot_download would refuse a folder in which only some of the repository's files were downloaded.
        try:
            cached = try_to_load_from_cache(name, "config.json")
        except ValueError:  # not the name of a repository
            cached = None
        if not isinstance(cached, str):  # such as with weights of another library's own
            return hashlib.sha256(name.encode()).hexdigest()
        folder = Path(cached).parent
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        size = path.stat().st_size
        known.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            known.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            known.update(file.read())
    return known.hexdigest()


@contextmanager
def replaced_attention(
    model: PreTrainedModel, name: str, attend: Callable, attend_in_transformers: Callable
) -> Iterator[None]:
    """Let the model use another attention function within.

    Args:
        model: On a GPU, one of unsloth's own (Llama, Mistral, Qwen), whose packed attention is replaced; on a CPU,
            transformers', through its interface for attention functions. Other models keep their attention.
        name: Under which transformers knows the function.
        attend: Called as flash_attn's `varlen` function is.
        attend_in_transformers: Called as transformers calls attention functions.
    """
    if "unsloth.models.llama" in sys.modules:
        from unsloth.utils import attention_dispatch as dispatch

        # Llama, Mistral, Qwen3 and Gemma 2 each choose in a module of their own.
        own = [module for path, module in [*sys.modules.items()] if path.startswith("unsloth.models.")]
        own = [module for module in own if "select_attention_backend" in vars(module)]
        old = [module.select_attention_backend for module in own], dispatch.flash_attn_varlen_func
        for module in own:
            module.select_attention_backend = lambda *_, **__: dispatch.FLASH_VARLEN
        dispatch.flash_attn_varlen_func = attend
        try:
            yield
        finally:
            for module, choose in zip(own, old[0], strict=True):
                module.select_attention_backend = choose
            dispatch.flash_attn_varlen_func = old[1]
    else:
        AttentionInterface.register(name, attend_in_transformers)
        AttentionMaskInterface.register(name, lambda *_, **__: None)
        config = model.config.get_text_config()
        old, config._attn_implementation = config._attn_implementation, name
        try:
            yield
        finally:
            config._attn_implementation = old
