"""The model card of what was exported, and the exports' figures in the adapter's own card."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from tc3lib.checkpoints import run_record
from tc3lib.export.verify import FIRST, rows
from tc3lib.files import read_json, replacing
from tc3lib.prompts import in_f_string, load_tokenizer, prompt_text
from tc3lib.settings import Settings

HEADING = "## Exported, and asked again"
LIMITS = "## Limits\n"


def write(work: Path, config: Settings, record: Mapping[str, Any]) -> None:
    """Write `export/README.md`, and renew the figures in `lora_model/README.md`, which notebook 04 wrote.

    Args:
        record: As `export.json` holds it.
    """
    section = figures(record)
    texts, limits = {}, ""
    adapter = work / "lora_model" / "README.md"
    if adapter.is_file():
        old = adapter.read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
        texts[adapter] = f"{old}\n\n{section}"
        limits = "".join(old.partition(LIMITS)[1:]) + "\n\n"
    texts[work / "export" / "README.md"] = f"{_card(work, config, record['base'])}{limits}{section}"
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
        "| Format | Program | Equal | Loss of a token | Ended by itself | Verdict |",
        "| --- | --- | ---: | ---: | ---: | --- |",
        *(f"| {' | '.join(row.values())} |" for row in rows(record)),
    ]
    return "\n".join(lines) + "\n"


def _card(work: Path, config: Settings, base: str) -> str:
    try:
        validate_repo_id(base)
        known = None if Path(base).is_dir() else base
    except HFValidationError:
        known = None  # a local folder, which the Hub refuses, and which is nobody's business
    data = ModelCardData(
        base_model=known, library_name="transformers", pipeline_tag="text-generation",
        tags=["unsloth", "trl", "product-descriptions"],
    )  # fmt: skip
    prompt = prompt_text(load_tokenizer(str(work / "lora_model")), "{title}", config.prompting)
    report = read_json(work / "report.json")
    verdict = report.get("verdict", {}).get("sentence", "") if run_record.tested(report, work) else ""
    if verdict and config.model.load_in_4bit:
        verdict += " These scores are those of the adapter on the base model in 4 bit."
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
model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained(name)

title = "Enamel Kettle, 2 Liter"
prompt = f"""{in_f_string(prompt)}"""

inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
output = model.generate(**inputs, max_new_tokens={config.generation.max_new_tokens})
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

The prompt is exactly that of training.

'''
