"""Ask about one product: the base model's answer, the tuned one, and the row of the catalogue that is its source."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tc3lib.catalogue.lookup import ABSENT, Catalogue, Found
from tc3lib.errors import Tc3Error
from tc3lib.evaluation.answers import Answer
from tc3lib.evaluation.report import environment
from tc3lib.evaluation.server import ServedAnswer, ServedModel
from tc3lib.prompts import encode_prompt, end_id
from tc3lib.settings import Settings

if TYPE_CHECKING:
    from IPython.display import HTML
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LIMIT = 2000
"""Most characters in a question; the longest title of LF-AmazonTitles-1.3MM has 1,999."""


@dataclass(frozen=True)
class Asked:
    """A question, its answers and its source."""

    question: str
    prompt_input: str
    """The input in the prompt: the catalogue's title if the question is that title or contains it (the model was
    trained on titles), else the question as typed."""
    base: Answer | ServedAnswer | None
    """None: the server has only the tuned model."""
    tuned: Answer | ServedAnswer | None
    """None: the model has no adapter."""
    found: Found


def ask(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    question: str,
    config: Settings,
    catalogue: Catalogue,
) -> Asked:
    """Ask the model with its adapter off and on, greedily, and look up the source.

    Special tokens and headings in the question, such as `<|end_of_text|>`, are encoded as ordinary text. The adapter is
    switched off for a while: two threads must not ask one model at the same time.

    Args:
        model: From `model_loading.load_adapter`, or from `model_loading.load_base_model`, which gives no tuned answer.
        config: Its prompt and `max_new_tokens` are used.

    Raises:
        Tc3Error: The question is empty, or too long for the model; or the catalogue cannot be read.
    """
    from tc3lib.evaluation.generation import generate  # not at the top: `show` and `render` need no unsloth

    question, text, found = _look_up(question, catalogue)
    if not hasattr(model, "peft_config"):
        return Asked(question, text, generate(model, tokenizer, [text], config)[0], None, found)
    with model.disable_adapter():
        base = generate(model, tokenizer, [text], config)[0]
    return Asked(question, text, base, generate(model, tokenizer, [text], config)[0], found)


def ask_server(
    tuned: ServedModel,
    base: ServedModel | None,
    tokenizer: "PreTrainedTokenizerBase",
    question: str,
    config: Settings,
    catalogue: Catalogue,
) -> Asked:
    """Ask a server's models as `ask` does one in memory, and look up the source.

    Args:
        base: The base model, if the server has it too.
        tokenizer: The adapter's.

    Raises:
        Tc3Error: As for `ask`; or the server does not answer.
    """
    question, text, found = _look_up(question, catalogue)
    prompt = encode_prompt(tokenizer, text, config.prompting)
    end, new = end_id(tokenizer, config.prompting), config.generation.max_new_tokens
    answers = [model and model.answer(prompt, end, new) for model in (base, tuned)]
    return Asked(question, text, *answers, found)


def _look_up(question: str, catalogue: Catalogue) -> tuple[str, str, Found]:
    """Return the question, tidied; the input that the prompt gets; and what the catalogue has."""
    question = question.encode(errors="replace").decode().strip()  # no tokenizer takes a lone surrogate
    if not question:
        raise Tc3Error("the question is empty: type a title, or a question that contains one.")
    if len(question) > LIMIT:
        raise Tc3Error(f"the question has {len(question):,} characters, the limit is {LIMIT:,}: shorten it.")
    found = catalogue.find(question)
    return question, found.matches[0].title if found.how in ("exact", "named") else question, found


def show(asked: Asked) -> "HTML":
    """Return the answers and the source side by side, to be displayed in a notebook; every text is escaped."""
    from IPython.display import HTML  # only here: a page that asks a server needs no IPython

    return HTML(render(asked))


def render(asked: Asked) -> str:
    """Return what `show` displays, as HTML."""
    return environment().get_template("asked.html").render(asked=asked, found=asked.found, absent=ABSENT)
