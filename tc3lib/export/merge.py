"""The adapter merged into the base model: 16-bit safetensors that any program loads as an ordinary model."""

import json
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from tc3lib.errors import Tc3Error
from tc3lib.export import base_model
from tc3lib.prompts import save_tokenizer
from tc3lib.settings import PromptSettings


def merge(adapter: Path, base: Path, target: Path, template: PromptSettings) -> None:
    """Write the merged weights into the folder `target`, with a tokenizer and a decoding that end as was trained.

    PEFT adds the adapter to the weights of the base model in 16 bit, in the main memory: no GPU is needed.

    Raises:
        Tc3Error: The base model cannot be loaded, or the adapter does not fit it.
    """
    model = base_model.load(base)
    try:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Tc3Error(f"the adapter in {adapter} cannot be merged into {base}: {reason}") from error
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model.generation_config = _generation(tokenizer)
    model.save_pretrained(target)
    save_tokenizer(tokenizer, target, template)
    _name_rope_as_before(target / "config.json")


def _generation(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Return greedy decoding that ends with the token that was learned as the end, not the base model's."""
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=eos, pad_token_id=eos if pad is None else pad, do_sample=False
    )


def _name_rope_as_before(path: Path) -> None:
    """Note the rotary base under transformers 4's name too, which takes 10,000 where it finds none."""
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", {name: rope[name] for name in rope if name != "rope_theta"})
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
