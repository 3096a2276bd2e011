"""Load the base model in 4 bit, add LoRA, load an adapter. The only module that imports unsloth."""

import dataclasses
from pathlib import Path
from typing import Any

from tc3lib.config import LoraConfig, ModelConfig
from tc3lib.errors import Tc3Error


def load_base_model(config: ModelConfig) -> tuple[Any, Any]:
    """Return the base model, quantised, and its own tokenizer.

    Call it before anything imports trl, transformers or peft: unsloth patches them as it is imported.

    Raises:
        Tc3Error: The model cannot be found or fetched.
    """
    from unsloth import FastLanguageModel  # isort: skip
    from safetensors import SafetensorError

    try:
        model, tokenizer = FastLanguageModel.from_pretrained(**dataclasses.asdict(config))
    except (OSError, RuntimeError, SafetensorError) as error:
        if "out of memory" in str(error):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise Tc3Error(
            f"cannot load the model {config.model_name!r} (model_name): {reason} Expected a local folder or a Hugging "
            "Face repository; a gated one needs HF_TOKEN."
        ) from error
    # unsloth sets it to the context's length on a GPU, and every call that gives max_new_tokens would warn of both.
    model.generation_config.max_length = None
    return model.eval(), tokenizer


def load_tokenizer(config: ModelConfig) -> Any | None:
    """Return the base model's tokenizer alone, or None, and say so, if it is not at hand: no GPU is needed."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(config.model_name)
    except (OSError, ValueError) as error:
        print(f"no tokenizer of {config.model_name} at hand ({str(error).splitlines()[0]}): tokens are not counted")
        return None


def add_lora(model: Any, config: LoraConfig) -> Any:
    """Return the model with a new, trainable adapter; every weight of the base model is frozen."""
    from unsloth import FastLanguageModel

    settings = dataclasses.asdict(config) | {"target_modules": list(config.target_modules)}
    return FastLanguageModel.get_peft_model(model, **settings)


def load_adapter(folder: Path | str, config: ModelConfig) -> tuple[Any, Any]:
    """Return the base model with a saved adapter on top, and the tokenizer saved beside it.

    `model.disable_adapter()` is a context in which it answers as the base model.

    Raises:
        Tc3Error: `folder` holds no adapter, or the base model cannot be loaded.
    """
    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise Tc3Error(f"no adapter in {folder} ({name} is missing): run 03_train first.")
    return load_base_model(dataclasses.replace(config, model_name=str(folder)))
