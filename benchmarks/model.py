"""Make a model of Llama-3-8B's shape with random weights, in NF4, with the embedded tokenizer: 5.4 GB in 40 s.

It trains at the speed, and with the memory, of the real one, so that speed can be measured where nothing can be
downloaded. What it learns means nothing.

    python benchmarks/model.py FOLDER [--layers 32] [--bf16]

`--bf16` leaves it as it was before it was quantised: 16 GB.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tc3lib.settings import EMBEDDED


def make_model(folder: Path, layers: int = 32, bf16: bool = False) -> None:
    """Write the model to `folder`; needs a GPU, and 16 GB of disk for a moment, with `bf16` for good."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "base_model")
    shape = LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192, rope_theta=500_000.0,
        rms_norm_eps=1e-5, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(shape)
    torch.set_default_dtype(torch.float32)
    if bf16:
        model.save_pretrained(folder, max_shard_size="4GB")
        tokenizer.save_pretrained(folder)
        return
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    with tempfile.TemporaryDirectory() as full:
        model.save_pretrained(full, max_shard_size="4GB")
        del model
        torch.cuda.empty_cache()
        model = AutoModelForCausalLM.from_pretrained(
            full, dtype=torch.bfloat16, device_map={"": 0}, quantization_config=nf4
        )
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ensure_model(folder: Path) -> None:
    """Make the model where there is none, in a process of its own: this one has not imported unsloth yet."""
    if not (folder / "config.json").exists():
        subprocess.run([sys.executable, __file__, folder], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--bf16", action="store_true", help="do not quantise it")
    arguments = parser.parse_args()
    make_model(arguments.folder, arguments.layers, arguments.bf16)
