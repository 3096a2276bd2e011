"""Make a model of Llama-3-8B's shape with random weights, in NF4, with the embedded tokenizer: 5.4 GB in 40 s.

It trains at the speed, and with the memory, of the real one, so that speed can be measured where nothing can be
downloaded. What it learns means nothing.

    python benchmarks/model.py FOLDER [--layers 32] [--bf16] [--small]
        [--family llama|llama1b|smollm2|mistral|qwen3|gemma2|gemma3]

`--bf16` leaves it as it was before it was quantised: 16 GB. Another `--family` has the shape of one of its models;
`--small` makes it narrow enough for a CPU.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tc3lib.settings import EMBEDDED


def shape(family: str, **changes: object) -> object:
    """Return the configuration of a family's model, 135M to 8B; sliding windows are short enough to matter."""
    import transformers

    kind, sizes = {
        "llama": ("LlamaConfig", {
            "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
            "rope_theta": 500_000.0, "rms_norm_eps": 1e-5,
        }),
        "smollm2": ("LlamaConfig", {
            "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
            "rope_theta": 100_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        }),
        "llama1b": ("LlamaConfig", {
            "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131_072,
            "rope_theta": 500_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        }),
        "mistral": ("MistralConfig", {
            "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
            "sliding_window": 128,
        }),
        "qwen3": ("Qwen3Config", {
            "vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        }),
        "gemma2": ("Gemma2Config", {
            "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
            "sliding_window": 128,
        }),
        "gemma3": ("Gemma3TextConfig", {
            "vocab_size": 262_144, "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "max_position_embeddings": 8192,
            "sliding_window": 128,
        }),
    }[family]  # fmt: skip
    return getattr(transformers, kind)(**sizes | {name: value for name, value in changes.items() if value})


SMALL = {
    "vocab_size": 3776, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64,
}  # fmt: skip
"""What makes a shape one for a CPU."""


def make_model(
    folder: Path, layers: int | None = None, bf16: bool = False, family: str = "llama", small: bool = False
) -> None:
    """Write the model to `folder`; 8B need a GPU, and 16 GB of disk for a moment, with `bf16` for good."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "base_model")
    config = shape(
        family, num_hidden_layers=layers, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **SMALL if small else {},
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config)
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
            full, dtype=torch.bfloat16, device_map={"": device}, quantization_config=nf4
        )
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ensure_model(folder: Path, *options: str) -> None:
    """Make the model where there is none, in a process of its own: this one has not imported unsloth yet."""
    if not (folder / "config.json").exists():
        subprocess.run([sys.executable, __file__, folder, *options], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--family", default="llama", choices=["llama", "llama1b", "smollm2", "mistral", "qwen3", "gemma2", "gemma3"]
    )
    parser.add_argument("--layers", type=int)
    parser.add_argument("--bf16", action="store_true", help="do not quantise it")
    parser.add_argument("--small", action="store_true", help="narrow enough for a CPU")
    arguments = parser.parse_args()
    make_model(arguments.folder, arguments.layers, arguments.bf16, arguments.family, arguments.small)
