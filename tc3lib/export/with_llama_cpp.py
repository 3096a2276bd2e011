"""What `gguf` has llama.cpp do. Run by its path: as a module of the package it would import all of that first."""

import json
import runpy
import sys
from pathlib import Path


def convert(script: str, merged: str, base: str, target: str) -> None:
    """Run the converter on the folder `merged`, with the tokenizer of `base`, if it has one, instead of its own."""
    from transformers import AutoTokenizer

    load = AutoTokenizer.from_pretrained
    if any(Path(base).glob("tokenizer*")):
        AutoTokenizer.from_pretrained = lambda folder, *_, **options: load(base, **options)
    sys.argv = [script, merged, "--outfile", target, "--outtype", "f16", "--model-name", "tc3lib"]
    runpy.run_path(script, run_name="__main__")

    import gguf  # the converter's

    # Of some models it decides itself whether bos comes first, whatever their tokenizer says.
    field = gguf.GGUFReader(target, "r+").get_field("tokenizer.ggml.add_bos_token")
    tokens = json.loads((Path(merged) / "tokenizer_config.json").read_text(encoding="utf-8"))
    field.parts[field.data[0]][0] = tokens["add_bos_token"]


def quantise(source: str, target: str, kind: str) -> None:
    """Write the GGUF file `source` in another precision."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    if status := llama_cpp.llama_model_quantize(source.encode(), target.encode(), options):
        raise SystemExit(f"llama.cpp ended with status {status}")


if __name__ == "__main__":
    sys.path[0] = str(Path(sys.argv[2]).parent)  # of the converter, as if it were run itself; here are other modules
    {"convert": convert, "quantise": quantise}[sys.argv[1]](*sys.argv[2:])
