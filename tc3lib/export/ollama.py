"""Modelfiles: with them Ollama asks with the prompt of the training, and ends where it ended."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tc3lib.export import gguf
from tc3lib.files import replacing, replacing_folder
from tc3lib.prompts import end_id, load_tokenizer, prompt_text
from tc3lib.settings import Settings

PREFERRED = ("q8_0", "q4_k_m", "f16")


def write(work: Path, config: Settings, base: str, proved: Sequence[str]) -> None:
    """Write `export/Modelfile`, for a GGUF file or the merged weights, and `export/Modelfile.adapter`.

    The first one's commands are printed.

    Args:
        base: The base model in 16 bit, which the second puts the adapter on: a folder, or its name on the Hub, whose
            cache Ollama does not read.
        proved: The formats that are.
    """
    folder = work / "export"
    with replacing_folder(folder / "adapter") as new:
        shutil.copy(work / "lora_model" / "adapter_config.json", new)
        # Ollama 0.12 and later look for this name, and not for PEFT's.
        shutil.copy(work / "lora_model" / "adapter_model.safetensors", new / "model.safetensors")
    whole = next((f"./gguf/{gguf.file_name(kind)}" for kind in PREFERRED if kind in proved), "./merged")
    under = (
        f"FROM {Path(base).absolute()}"
        if Path(base).is_dir()
        else f"# hf download {base} --local-dir base\nFROM ./base"
    )
    texts = {
        folder / "Modelfile": f"FROM {whole}\n",
        folder / "Modelfile.adapter": f"{under}\nADAPTER ./adapter\n",
    }
    for path, origin in texts.items():
        with replacing(path) as file:
            file.write((origin + _rest(work, config)).encode())
    print(f"for Ollama, in {folder}: ollama create describe -f Modelfile, then ollama run describe")


def _rest(work: Path, config: Settings) -> str:
    """Return the lines on prompt and decoding; Ollama would punish repetitions by itself."""
    tokenizer = load_tokenizer(str(work / "lora_model"))
    template = prompt_text(tokenizer, "{title}", config.prompting).replace("{{", '{{ "{{" }}')
    template = template.replace('"""', r'{{ "\"\"\"" }}').replace("{title}", "{{ .Prompt }}")
    stop = tokenizer.convert_ids_to_tokens(end_id(tokenizer, config.prompting))
    parameters = {
        "stop": f'"{stop}"',
        "temperature": 0,
        "repeat_penalty": 1,
        "num_predict": config.generation.max_new_tokens,
        "num_ctx": config.model.max_seq_length,
    }
    lines = "".join(f"PARAMETER {name} {value}\n" for name, value in parameters.items())
    return f'TEMPLATE """{template}"""\n{lines}'
