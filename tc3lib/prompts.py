"""The prompt template, and how a record becomes token ids. No other module knows either."""

import copy
import json
import os
import re
import secrets
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tc3lib.errors import Tc3Error
from tc3lib.settings import PromptSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

PROMPT = """Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
{}

### Input:
{}

### Response:
"""
RECIPE = PromptSettings()
CHAT_DATE = date(2024, 7, 26)
"""For chat templates that write the date: what a run learns must not depend on its day. Llama 3's own default."""


def format_record(title: str, content: str, template: PromptSettings = RECIPE) -> dict[str, str]:
    """Return the fine-tuning record of a product, as `trn_output.json` holds it."""
    return formatter(template)(title, content)


def formatter(template: PromptSettings) -> Callable[[str, str], dict[str, str]]:
    """Return `format_record` for one template and millions of products."""
    (before, after), instruction = _around_content(template), template.instruction

    def record(title: str, content: str) -> dict[str, str]:
        response = f"{title.join(before)}{content}{title.join(after)}"
        return {"instruction": instruction, "input_text": title, "response": response}

    return record


def description(record: Mapping[str, str], template: PromptSettings = RECIPE) -> str:
    """Return the content that `format_record` put into a record's response."""
    before, after = (record["input_text"].join(part) for part in _around_content(template))
    return record["response"].removeprefix(before).removesuffix(after)


def opening(title: str, template: PromptSettings = RECIPE) -> str:
    """Return what a response begins with before the content, empty if that comes first."""
    return title.join(_around_content(template)[0]).strip()


def _around_content(template: PromptSettings) -> tuple[list[str], list[str]]:
    """Return what of a response is before its content, and what is after it, each cut where the title stands."""
    before, after = template.response.split("{content}")
    return before.split("{title}"), after.split("{title}")


def load_tokenizer(model_name: str) -> "PreTrainedTokenizerBase":
    """Return a base model's tokenizer, without the model: no GPU is needed.

    Raises:
        Tc3Error: It cannot be found or fetched.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model_name)
    except (OSError, ValueError) as error:
        reason = textwrap.shorten(str(error), 300)
        raise Tc3Error(
            f"cannot load the tokenizer of {model_name!r} (model_name): {reason} Expected a local folder or a Hugging "
            "Face repository; a gated one needs HF_TOKEN, and a wrong HF_TOKEN is refused for public ones too."
        ) from error


def text_tokenizer(tokenizer: Any) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a processor, which is what some models with text and images come with (Gemma 3)."""
    return getattr(tokenizer, "tokenizer", tokenizer)


def save_tokenizer(tokenizer: Any, folder: Path, template: PromptSettings = RECIPE) -> None:
    """Save a tokenizer, or a processor, for programs that know nothing of tc3lib: transformers 4, llama.cpp, Ollama.

    Its class is one that they know, and of itself it puts before `prompt_text` what training put there: bos or nothing.
    Its eos is what was learned as the end, and its chat template asks with the prompt of the training.
    """
    tokenizer = copy.deepcopy(tokenizer)
    text = text_tokenizer(tokenizer)
    if template.prompt == "alpaca":  # an instruct model's own chat was not trained
        tokenizer.chat_template = text.chat_template = _as_chat(text, template)
    text.add_bos_token, text.add_eos_token = text.bos_token is not None and template.prompt != "chat", False
    text.eos_token = text.convert_ids_to_tokens(end_id(text, template))
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"add_bos_token": text.add_bos_token, "add_eos_token": False}
    if config["tokenizer_class"] == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):  # under the name that transformers 4 has for it
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _as_chat(tokenizer: "PreTrainedTokenizerBase", template: PromptSettings) -> str:
    """Return a chat template that renders the training's prompt around what the user said last."""
    before, after = (json.dumps(part, ensure_ascii=False) for part in _asked("\0", template).split("\0"))
    if tokenizer.bos_token is not None:
        before = f"bos_token + {before}"
    last = "{% for turn in messages if turn.role == 'user' %}{% if loop.last %}{{ BEFORE + turn.content }}{% endif %}"
    end = "{% endfor %}{% if add_generation_prompt %}{{ AFTER }}{% endif %}"
    return last.replace("BEFORE", before) + end.replace("AFTER", after)


def prompt_text(tokenizer: "PreTrainedTokenizerBase", title: str, template: PromptSettings = RECIPE) -> str:
    """Return the prompt as text: in a chat with the template's special tokens, else without bos."""
    before, after = "", ""
    if template.prompt == "chat":
        chat = _chat(text_tokenizer(tokenizer))
        before, after = chat.before, chat.after
    return f"{before}{_asked(title, template)}{after}"


def in_f_string(prompt: str) -> str:
    """Return a prompt as it stands in the triple quotes of an f-string, where {title} is a variable."""
    escaped = prompt.replace("\\", "\\\\").replace('"', '\\"').replace("{", "{{").replace("}", "}}")
    return escaped.replace("{{title}}", "{title}")


def _asked(title: str, template: PromptSettings) -> str:
    """Return what of the prompt is text whatever it holds: all of it, or what is the user's in a chat."""
    if template.prompt == "chat":
        return f"{template.instruction}\n\n{title}" if template.instruction else title
    return PROMPT.format(template.instruction, title)


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", title: str, template: PromptSettings = RECIPE) -> list[int]:
    """Return the ids of the whole prompt, encoded as one piece.

    bos comes first if the tokenizer has one; in a chat only if its template says so. A title is ordinary text:
    `<|end_of_text|>` in it becomes several ids, never the special one.

    Raises:
        Tc3Error: A chat is asked for, and the tokenizer has no chat template, or one that cannot be used.
    """
    return encode_prompts(tokenizer, [{"input_text": title}], template)[0]


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase", records: Sequence[Mapping[str, str]], template: PromptSettings = RECIPE
) -> list[list[int]]:
    """Return the `encode_prompt` of each record; one call for many uses every core."""
    tokenizer = text_tokenizer(tokenizer)
    texts = [_asked(record["input_text"], template) for record in records]
    if template.prompt == "chat":
        chat = _chat(tokenizer)
        before, after = chat.marked
        found = _encode_batch(chat.encoder, [f"{before}{text}{after}" for text in texts])
        return [[chat.ids.get(token, token) for token in ids] for ids in found]
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [start + ids for ids in _ids(tokenizer, texts)]


def end_id(tokenizer: "PreTrainedTokenizerBase", template: PromptSettings = RECIPE) -> int:
    """Return the token that ends a response, which is learned and stops an answer: eos, or the end of a turn in a chat.

    Raises:
        Tc3Error: There is none; or as `encode_prompt`.
    """
    tokenizer = text_tokenizer(tokenizer)
    end = _chat(tokenizer).end if template.prompt == "chat" else tokenizer.eos_token_id
    if end is None:
        raise Tc3Error(
            f"the tokenizer {tokenizer.name_or_path!r} has no eos token, with which a model ends its answer: choose "
            "another base model, or set eos_token in its tokenizer_config.json."
        )
    return end


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    record: Mapping[str, str],
    max_length: int | None = None,
    template: PromptSettings = RECIPE,
) -> dict[str, list[int]]:
    """Return a record's ids, and which of them the model learns to write.

    The prompt is encoded as in `encode_prompt`, the response as a piece of its own, then `end_id`. The mask goes by
    position, so no text in a title or a description can shift it.

    Args:
        tokenizer: The base model's own.
        record: `input_text` (the title) and `response`.
        max_length: Most tokens of a row. A longer response loses its end, and with it eos: the model must not learn to
            stop in the middle of a sentence. The prompt is never cut.
        template: The settings of the prompt. The record's own `instruction` only documents it.

    Returns:
        `input_ids` and `completion_mask`, two lists of one length; the mask is 0 over the prompt, 1 over response and
        end, whatever token that is: it may be pad or bos too.

    Raises:
        Tc3Error: The prompt alone fills `max_length`; or as `encode_prompt` and `end_id`.
    """
    (row,) = encode_rows(tokenizer, [record], max_length, template)
    if row is None:
        raise Tc3Error(
            f"the prompt of {record['input_text'][:60]!r} fills max_seq_length={max_length}: raise max_seq_length, or "
            "take the product out of the catalogue and run 01_prepare again."
        )
    return row


def encode_rows(
    tokenizer: "PreTrainedTokenizerBase",
    records: Sequence[Mapping[str, str]],
    max_length: int | None = None,
    template: PromptSettings = RECIPE,
) -> list[dict[str, list[int]] | None]:
    """Return the `encode` of each record, None where the prompt alone fills `max_length`.

    A long list shows a progress bar.
    """
    from tqdm.auto import tqdm

    rows, size = [], 1000
    for start in tqdm(range(0, len(records), size), desc="tokenising", disable=len(records) <= 20 * size):
        rows += _encode(tokenizer, records[start : start + size], max_length, template)
    return rows


def _encode(
    tokenizer: "PreTrainedTokenizerBase",
    records: Sequence[Mapping[str, str]],
    max_length: int | None,
    template: PromptSettings,
) -> list[dict[str, list[int]] | None]:
    rows, tokenizer = [], text_tokenizer(tokenizer)
    end, prompts = end_id(tokenizer, template), encode_prompts(tokenizer, records, template)
    responses = _ids(tokenizer, [record["response"] for record in records])
    for prompt, response in zip(prompts, responses, strict=True):
        if max_length is not None and len(prompt) >= max_length:
            rows.append(None)
            continue
        ids = [*prompt, *response, end][:max_length]
        rows.append({"input_ids": ids, "completion_mask": [0] * len(prompt) + [1] * (len(ids) - len(prompt))})
    return rows


def preview(model_name: str, records: Sequence[Mapping[str, str]], template: PromptSettings = RECIPE) -> str:
    """Return records as text: the prompt, then what the model learns to write.

    Raises:
        Tc3Error: As `encode_prompt`. A chat template that cannot be fetched is none: it is left out, with a line.
    """
    before, after = "", ""
    if template.prompt == "chat":
        try:
            tokenizer = load_tokenizer(model_name)
        except Tc3Error as error:
            print(f"the chat template is not shown: {error}")
            after = "\n\n"
        else:
            before, after = _chat(tokenizer).before, _chat(tokenizer).after
    texts = [f"{before}{_asked(row['input_text'], template)}{after}{row['response']}" for row in records]
    return f"\n\n{'-' * 80}\n\n".join(texts)


def token_lengths(
    model_name: str, records: Sequence[Mapping[str, str]], template: PromptSettings = RECIPE
) -> list[int]:
    """Return the tokens of each record, uncut: prompt, response and end.

    An empty list, with a line that says why, if the tokenizer is not available: counting is not worth an error.
    """
    try:
        tokenizer = load_tokenizer(model_name)
    except Tc3Error as error:
        print(f"tokens are not counted: {error}")
        return []
    return [len(row["input_ids"]) for row in encode_rows(tokenizer, records, template=template)]


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of plain texts: no special token is added, and none is recognised in them."""
    return _encode_batch(_plain(tokenizer), texts)


def _encode_batch(backend: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
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


_BLANK = " \t\n\r▁"


@lru_cache(maxsize=2)
def _plain(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """Return the tokenizer's backend with every added token flagged special, so that text can be told to hold none.

    If one was not flagged, that is a copy, which takes seconds. Runs of white space are left as they are: some
    tokenizers add them for text (Gemma's line breaks, GPT-NeoX's indents).
    """
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    if not (added := [text for text in added if text.strip(_BLANK)]):
        return tokenizer.backend_tokenizer
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.add_special_tokens(added)
    return backend


class _Chat(NamedTuple):
    """A chat template around what the user says."""

    before: str
    after: str
    """Up to where the answer begins."""
    marked: tuple[str, str]
    """Both, with marks in the place of added tokens."""
    encoder: "Tokenizer"
    """It knows the marks, and takes added tokens for text."""
    ids: Mapping[int, int]
    """From the encoder's ids of marks to the tokenizer's ids of added tokens."""
    end: int | None


@lru_cache(maxsize=2)
def _chat(tokenizer: "PreTrainedTokenizerBase") -> _Chat:
    """Return the tokenizer's chat template, ready to encode turns in which only the template's tokens are special.

    For that its added tokens are marks that nobody can write, as no title can know the random number in them. A prompt
    is still encoded as one piece, to the ids that `apply_chat_template` gives where a title looks like no token.
    """
    from jinja2 import TemplateError
    from tokenizers import AddedToken

    if not tokenizer.chat_template:
        raise Tc3Error(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template, which prompt='chat' needs: choose an "
            "instruct model (model_name), or prompt='alpaca'."
        )
    user, answer, secret = (secrets.token_hex(8) for _ in range(3))
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    fixed = {"enable_thinking": False, "strftime_now": CHAT_DATE.strftime}
    try:
        prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False, **fixed)
        whole = tokenizer.apply_chat_template(turns, tokenize=False, **fixed)
        if prompt.count(user) != 1 or whole.count(answer) != 1:
            raise ValueError("it changes what is said")
    except (TemplateError, ValueError, TypeError) as error:
        raise Tc3Error(
            f"the chat template of the tokenizer {tokenizer.name_or_path!r} does not take one question and its answer "
            f"({' '.join(str(error).split())}): choose an instruct model (model_name), or prompt='alpaca'."
        ) from None
    before, after = prompt.split(user)
    added = {token.content: (number, token) for number, token in tokenizer.added_tokens_decoder.items()}
    longest_first = sorted(filter(lambda text: text.strip(_BLANK), added), key=len, reverse=True)
    special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def mark(found: re.Match) -> str:
        return f"[{secret}:{added[found[0]][0]}]"

    used = {found[0]: mark(found) for found in special.finditer(before + after)}
    encoder = copy.deepcopy(_plain(tokenizer))
    for text, marked in used.items():
        sides = {"lstrip": added[text][1].lstrip, "rstrip": added[text][1].rstrip}
        encoder.add_tokens([AddedToken(marked, normalized=False, special=False, **sides)])
    return _Chat(
        before=before,
        after=after,
        marked=(special.sub(mark, before), special.sub(mark, after)),
        encoder=encoder,
        ids={encoder.token_to_id(marked): added[text][0] for text, marked in used.items()},
        end=added[found[0]][0] if (found := special.search(whole.split(answer)[1])) else tokenizer.eos_token_id,
    )
