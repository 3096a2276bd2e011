"""Modelfiles: with them Ollama asks with the prompt of the training, and ends where it ended."""

from pathlib import Path

from tc3lib.files import replacing
from tc3lib.prompts import INSTRUCTION, PROMPT, load_tokenizer
from tc3lib.settings import Settings

PREFERRED = ("q8_0", "q4_k_m", "f16")


def write(work: Path, config: Settings, base: Path) -> list[Path]:
    """Write `export/Modelfile`, for a GGUF file or the merged weights, and `export/Modelfile.adapter`; return both.

    Args:
        base: The folder of the base model in 16 bit, which the second puts the adapter on.
    """
    folder = work / "export"
    found = [f"./gguf/model-{kind.upper()}.gguf" for kind in PREFERRED]
    whole = next((name for name in found if (folder / name).is_file()), "./merged")
    texts = {
        folder / "Modelfile": f"FROM {whole}\n",
        folder / "Modelfile.adapter": f"FROM {base.absolute()}\nADAPTER {(work / 'lora_model').absolute()}\n",
    }
    for path, origin in texts.items():
        with replacing(path) as file:
            file.write((origin + _rest(work, config)).encode())
    return list(texts)


def _rest(work: Path, config: Settings) -> str:
    """Return the lines on prompt and decoding; Ollama would punish repetitions by itself."""
    template = PROMPT.replace("{{", '{{ "{{" }}').format(INSTRUCTION, "{{ .Prompt }}")
    stop = load_tokenizer(str(work / "lora_model")).eos_token
    parameters = {
        "stop": f'"{stop}"',
        "temperature": 0,
        "repeat_penalty": 1,
        "num_predict": config.generation.max_new_tokens,
        "num_ctx": config.model.max_seq_length,
    }
    lines = "".join(f"PARAMETER {name} {value}\n" for name, value in parameters.items())
    return f'TEMPLATE """{template}"""\n{lines}'
