"""The prompt template, and how a record becomes token ids. No other module knows either."""

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tc3lib.errors import Tc3Error

if TYPE_CHECKING:
    from tokenizers import Tokenizer
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


def text_tokenizer(tokenizer: Any) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a processor, which is what some models with text and images come with (Gemma 3)."""
    return getattr(tokenizer, "tokenizer", tokenizer)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer, or a processor, for programs that know nothing of tc3lib: transformers 4, llama.cpp, Ollama.

    Its class is one that they know, and of itself it puts before a prompt what training put there: bos or nothing.
    """
    tokenizer = copy.deepcopy(tokenizer)
    text = text_tokenizer(tokenizer)
    text.add_bos_token, text.add_eos_token = text.bos_token is not None, False
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"add_bos_token": text.add_bos_token, "add_eos_token": False}
    if config["tokenizer_class"] == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):  # under the name that transformers 4 has for it
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", title: str) -> list[int]:
    """Return the ids of the whole prompt, encoded as one piece, after bos if the tokenizer has one.

    A title is ordinary text: `<|end_of_text|>` in it becomes several ids, never the special one.

    Raises:
        Tc3Error: The tokenizer has no eos token.
    """
    return encode_prompts(tokenizer, [{"input_text": title}])[0]


def encode_prompts(tokenizer: "PreTrainedTokenizerBase", records: Sequence[Mapping[str, str]]) -> list[list[int]]:
    """Return the `encode_prompt` of each record; one call for many uses every core."""
    tokenizer = text_tokenizer(tokenizer)
    if tokenizer.eos_token_id is None:
        raise Tc3Error(
            f"the tokenizer {tokenizer.name_or_path!r} has no eos token, with which a model ends its answer: choose "
            "another base model, or set eos_token in its tokenizer_config.json."
        )
    texts = [PROMPT.format(record.get("instruction", INSTRUCTION), record["input_text"]) for record in records]
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [start + ids for ids in _ids(tokenizer, texts)]


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
        response and eos, whatever token eos is: it may be pad or bos too.

    Raises:
        Tc3Error: The prompt alone fills `max_length`.
    """
    (row,) = encode_rows(tokenizer, [record], max_length)
    if row is None:
        raise Tc3Error(
            f"the prompt of {record['input_text'][:60]!r} fills max_seq_length={max_length}: raise max_seq_length, or "
            "take the product out of the catalogue and run 01_prepare again."
        )
    return row


def encode_rows(
    tokenizer: "PreTrainedTokenizerBase", records: Sequence[Mapping[str, str]], max_length: int | None = None
) -> list[dict[str, list[int]] | None]:
    """Return the `encode` of each record, None where the prompt alone fills `max_length`.

    A long list shows a progress bar.
    """
    from tqdm.auto import tqdm

    rows, size = [], 1000
    for start in tqdm(range(0, len(records), size), desc="tokenising", disable=len(records) <= 20 * size):
        rows += _encode(tokenizer, records[start : start + size], max_length)
    return rows


def _encode(
    tokenizer: "PreTrainedTokenizerBase", records: Sequence[Mapping[str, str]], max_length: int | None
) -> list[dict[str, list[int]] | None]:
    rows, tokenizer = [], text_tokenizer(tokenizer)
    prompts, responses = encode_prompts(tokenizer, records), _ids(tokenizer, [record["response"] for record in records])
    for prompt, response in zip(prompts, responses, strict=True):
        if max_length is not None and len(prompt) >= max_length:
            rows.append(None)
            continue
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
    backend = _plain(tokenizer)
    backend.encode_special_tokens = True  # as the text that they are
    backend.no_truncation()
    backend.no_padding()
    # Importing unsloth turns the tokenizer's threads off.
    threads = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = threads or "false"


@lru_cache(maxsize=2)
def _plain(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """Return what encodes, with every added token flagged special: in a copy, which takes seconds, if one was not.

    Runs of white space are left: some tokenizers add them for text (Gemma's line breaks, GPT-NeoX's indents).
    """
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    if not (added := [text for text in added if text.strip(" \t\n\r▁")]):
        return tokenizer.backend_tokenizer
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.add_special_tokens(added)
    return backend
