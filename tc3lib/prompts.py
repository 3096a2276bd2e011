"""The prompt template, and how a record becomes token ids. No other module knows either."""

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tc3lib.errors import Tc3Error

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = "Describe the product [input]"
PROMPT = """Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
{}

### Input:
{}

### Response:
"""
RESPONSE = "The '{}' is {}"


def format_record(title: str, content: str) -> dict[str, str]:
    """Return the fine-tuning record of a product, as `trn_output.json` holds it."""
    return {"instruction": INSTRUCTION, "input_text": title, "response": RESPONSE.format(title, content)}


def description(record: Mapping[str, str]) -> str:
    """Return the content that `format_record` put into a record's response."""
    return record["response"].removeprefix(RESPONSE.format(record["input_text"], ""))


def load_tokenizer(model_name: str) -> "PreTrainedTokenizerBase":
    """Return a base model's tokenizer, without the model: no GPU is needed.

    Raises:
        Tc3Error: It cannot be found or fetched.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_name)
    except (OSError, ValueError) as error:
        raise Tc3Error(
            f"cannot load the tokenizer of {model_name!r} (model_name): {str(error).splitlines()[0]} Expected a local "
            "folder or a Hugging Face repository; a gated one needs HF_TOKEN."
        ) from error


def save_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Save a tokenizer for programs that know nothing of tc3lib, such as transformers 4, llama.cpp and vLLM.

    Its class is one that they know, and it puts before a text what training put there: bos if it has one, never eos.
    """
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    if tokenizer("a").input_ids != [*start, *_ids(tokenizer, ["a"])[0]]:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_bos_token, tokenizer.add_eos_token = bool(start), False
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config["tokenizer_class"] == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", title: str) -> list[int]:
    """Return bos and the ids of the whole prompt, encoded as one piece.

    A title is ordinary text: `<|end_of_text|>` in it becomes several ids, never the special one.

    Raises:
        Tc3Error: The tokenizer has no bos or no eos token.
    """
    return encode_prompts(tokenizer, [{"input_text": title}])[0]


def encode_prompts(tokenizer: "PreTrainedTokenizerBase", records: Sequence[Mapping[str, str]]) -> list[list[int]]:
    """Return the `encode_prompt` of each record; one call for many uses every core."""
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise Tc3Error(f"the tokenizer {tokenizer.name_or_path!r} needs a bos and an eos token; it lacks one")
    texts = [PROMPT.format(record.get("instruction", INSTRUCTION), record["input_text"]) for record in records]
    return [[tokenizer.bos_token_id, *ids] for ids in _ids(tokenizer, texts)]


def encode(
    tokenizer: "PreTrainedTokenizerBase", record: Mapping[str, str], max_length: int | None = None
) -> dict[str, list[int]]:
    """Return a record's ids, and which of them the model learns to write.

    The prompt is encoded as in `encode_prompt`, the response as a piece of its own, then eos. The mask goes by
    position, so no text in a title or a description can shift it.

    Args:
        tokenizer: The base model's own.
        record: `input_text` (the title), `response` and, if it differs from `INSTRUCTION`, `instruction`.
        max_length: Most tokens of a row. A longer response loses its end, and with it eos: the model must not learn to
            stop in the middle of a sentence. The prompt is never cut.

    Returns:
        `input_ids` and `completion_mask`, two lists of one length; the mask is 0 over bos and prompt, 1 over
        response and eos.

    Raises:
        Tc3Error: The prompt alone fills `max_length`.
    """
    return encode_rows(tokenizer, [record], max_length)[0]


def encode_rows(
    tokenizer: "PreTrainedTokenizerBase", records: Sequence[Mapping[str, str]], max_length: int | None = None
) -> list[dict[str, list[int]]]:
    """Return the `encode` of each record. A long list shows a progress bar."""
    from tqdm.auto import tqdm

    rows, size = [], 1000
    for start in tqdm(range(0, len(records), size), desc="tokenising", disable=len(records) <= 20 * size):
        rows += _encode(tokenizer, records[start : start + size], max_length)
    return rows


def _encode(
    tokenizer: "PreTrainedTokenizerBase", records: Sequence[Mapping[str, str]], max_length: int | None
) -> list[dict[str, list[int]]]:
    rows = []
    prompts, responses = encode_prompts(tokenizer, records), _ids(tokenizer, [record["response"] for record in records])
    for record, prompt, response in zip(records, prompts, responses, strict=True):
        if max_length is not None and len(prompt) >= max_length:
            raise Tc3Error(
                f"the prompt of {record['input_text'][:60]!r} has {len(prompt)} tokens, max_seq_length is "
                f"{max_length}: raise max_seq_length, or take the product out of the catalogue and run 01_prepare "
                "again."
            )
        ids = [*prompt, *response, tokenizer.eos_token_id][:max_length]
        rows.append({"input_ids": ids, "completion_mask": [0] * len(prompt) + [1] * (len(ids) - len(prompt))})
    return rows


def preview(records: Iterable[Mapping[str, str]]) -> str:
    """Return records as text: the prompt, then what the model learns to write."""
    texts = [
        PROMPT.format(record.get("instruction", INSTRUCTION), record["input_text"]) + record["response"]
        for record in records
    ]
    return f"\n\n{'-' * 80}\n\n".join(texts)


def token_lengths(model_name: str, records: Sequence[Mapping[str, str]]) -> list[int]:
    """Return the tokens of each record, uncut: prompt, response, bos and eos.

    An empty list, with a line that says why, if the tokenizer is not available: counting is not worth an error.
    """
    try:
        tokenizer = load_tokenizer(model_name)
    except Tc3Error as error:
        print(f"tokens are not counted: {error}")
        return []
    return [len(row["input_ids"]) for row in encode_rows(tokenizer, records)]


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of plain texts: no special token is added, and none is recognised in them."""
    if not texts:
        return []
    # Importing unsloth turns the tokenizer's threads off.
    threads = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = threads or "false"
