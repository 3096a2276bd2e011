"""The model card of what was exported, and the exports' figures in the adapter's own card."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from tc3lib.export.verify import FIRST, rows
from tc3lib.files import read_json, replacing
from tc3lib.prompts import INSTRUCTION, PROMPT
from tc3lib.settings import Settings

HEADING = "## Exported, and asked again"


def write(work: Path, config: Settings, record: Mapping[str, Any]) -> None:
    """Write `export/README.md`, and renew the figures in `lora_model/README.md`, which notebook 04 wrote.

    Args:
        record: As `export.json` holds it.
    """
    section = figures(record)
    texts = {work / "export" / "README.md": _card(work, config, record["base"]) + section}
    adapter = work / "lora_model" / "README.md"
    if adapter.is_file():
        texts[adapter] = adapter.read_text(encoding="utf-8").partition(HEADING)[0].rstrip() + f"\n\n{section}"
    for path, text in texts.items():
        with replacing(path) as file:
            file.write(text.encode())


def figures(record: Mapping[str, Any]) -> str:
    """Return the section on the proof."""
    lines = [
        HEADING,
        "",
        f"{record['adapter']['questions']} held-out titles, asked in a fresh process by the program that is named, "
        f"greedily. Equal: share of answers whose first {FIRST} tokens are those of the adapter on the base model in "
        "16 bit.",
        "",
        "| Format | Program | Equal | Loss of a token | Ended by itself | |",
        "| --- | --- | ---: | ---: | ---: | --- |",
        *(f"| {' | '.join(row.values())} |" for row in rows(record)),
    ]
    return "\n".join(lines) + "\n"


def _card(work: Path, config: Settings, base: str) -> str:
    try:
        validate_repo_id(base)
    except HFValidationError:
        known = None  # a local folder, which the Hub refuses, and which is nobody's business
    else:
        known = base
    data = ModelCardData(
        base_model=known, library_name="transformers", pipeline_tag="text-generation",
        tags=["unsloth", "trl", "product-descriptions"],
    )  # fmt: skip
    verdict = read_json(work / "report.json").get("verdict", {}).get("sentence", "")
    return f'''---
{data.to_yaml()}
---

# Product descriptions from titles

{known or PurePath(base).name} with a LoRA adapter merged into it: given the title of a product, it writes a
description. It was made by the notebooks of tc3lib.

{verdict}

## How to use it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "merged"  # this folder, or its name on the Hub
model = AutoModelForCausalLM.from_pretrained(name, device_map="auto")
tokenizer = AutoTokenizer.from_pretrained(name)

title = "Enamel Kettle, 2 Liter"
prompt = f"""{PROMPT.format(INSTRUCTION, "{title}")}"""

inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
output = model.generate(**inputs, max_new_tokens={config.generation.max_new_tokens})
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

The prompt is exactly that of training.

'''
