"""The adapter merged into the base model: 16-bit safetensors that any program loads as an ordinary model."""

import json
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from tc3lib.errors import Tc3Error
from tc3lib.export import base_model
from tc3lib.prompts import save_tokenizer
from tc3lib.settings import Settings


def merge(work: Path, config: Settings, target: Path) -> None:
    """Write the merged weights into the folder `target`, with a tokenizer and a decoding that end as was trained.

    PEFT adds the adapter to the weights of the base model in 16 bit, in the main memory: no GPU is needed.

    Raises:
        Tc3Error: The base model cannot be found, the adapter does not fit it, or memory or disk are too small.
    """
    name = base_model.name(config)
    base = base_model.fetch(name)
    size = base_model.weight_bytes(base)
    base_model.check_disk(target, size, "merging")
    base_model.check_memory(1.2 * size, "merging")
    print(f"merging the adapter into {name}" + (", dequantised from 4 bit" if base_model.is_4bit(base) else ""))
    try:
        model = PeftModel.from_pretrained(base_model.load(base), work / "lora_model").merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, SafetensorError) as error:
        if isinstance(error, Tc3Error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise Tc3Error(f"the adapter in {work / 'lora_model'} cannot be merged into {name}: {reason}") from error
    tokenizer = AutoTokenizer.from_pretrained(work / "lora_model")
    model.generation_config = _generation(tokenizer)
    model.save_pretrained(target)
    save_tokenizer(tokenizer, target)
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
