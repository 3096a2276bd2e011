"""Ask about one product: the base model's answer, the tuned one, and their source, the row of the catalogue."""

import html
from dataclasses import dataclass
from typing import Any

from tc3lib.catalogue.lookup import ABSENT, HELD_OUT, TRAINED, Catalogue, Found, Match
from tc3lib.errors import Tc3Error
from tc3lib.evaluation.generation import Answer, generate
from tc3lib.prompts import encode_prompt
from tc3lib.settings import GenerationSettings

LIMIT = 2000
"""Characters in a question; the longest title of LF-AmazonTitles-1.3MM has 1,999."""
_SHOWN = 3000
"""Characters of a text that `render` shows."""


@dataclass(frozen=True)
class Asked:
    """A question and what came of it."""

    question: str
    prompt_input: str
    """What stood as the input in the prompt: the title as the catalogue has it if the question is that title or
    contains it (the model was trained on titles), else the question as it was typed."""
    base: Answer
    tuned: Answer | None
    """None: the model has no adapter."""
    found: Found


def ask(model: Any, tokenizer: Any, question: str, config: GenerationSettings, catalogue: Catalogue) -> Asked:
    """Ask the model with its adapter off and on, greedily, and look the source up.

    Whatever the question holds is ordinary text, `<|end_of_text|>` and `### Response:` too. The adapter is switched
    off for a while: two threads must not ask one model at the same time.

    Args:
        model: From `models.load_adapter`, or from `models.load_base_model`, which gives no tuned answer.
        tokenizer: Its tokenizer.
        question: A title, or a question that contains one.
        config: `max_new_tokens` is used.
        catalogue: Where the source is looked up.

    Raises:
        Tc3Error: The question is empty, or too long for the model; or the catalogue cannot be read.
    """
    question = question.encode(errors="replace").decode().strip()  # no tokenizer takes a lone surrogate
    if not question:
        raise Tc3Error("the question is empty: type a title, or a question that contains one.")
    if len(question) > LIMIT:
        raise Tc3Error(f"the question has {len(question):,} characters, at most {LIMIT:,} are taken: shorten it.")
    found = catalogue.find(question)
    text = found.matches[0].title if found.how in ("exact", "named") else question
    tokens, room = len(encode_prompt(tokenizer, text)), model.max_seq_length - config.max_new_tokens
    if tokens > room:
        raise Tc3Error(
            f"the prompt with this question has {tokens:,} tokens, at most {room:,} fit (max_seq_length "
            f"{model.max_seq_length:,} less max_new_tokens {config.max_new_tokens:,}): shorten the question."
        )
    if not hasattr(model, "peft_config"):
        return Asked(question, text, _answer(model, tokenizer, text, config), None, found)
    with model.disable_adapter():
        base = _answer(model, tokenizer, text, config)
    return Asked(question, text, base, _answer(model, tokenizer, text, config), found)


def show(asked: Asked) -> Any:
    """Return the answers and the source side by side as an `IPython.display.HTML`; every text is escaped."""
    from IPython.display import HTML

    return HTML(render(asked))


def render(asked: Asked) -> str:
    """Return what `show` shows as HTML; every text is escaped."""
    typed = asked.prompt_input == asked.question
    note = "as it was typed" if typed else "the title as the catalogue has it, since the model was trained on titles"
    tuned = "This model has no adapter: there is no tuned answer." if asked.tuned is None else asked.tuned
    return (
        f"<style>{_STYLE}</style><div class='tc3-asked'>"
        f"<p>Asked: <b dir='auto'>{_text(asked.prompt_input)}</b> <small>({note})</small></p>"
        f"<div class='columns'>{_card('Base model', asked.base)}{_card('Tuned model', tuned)}"
        f"<section><h4>Source</h4>{_source(asked.found)}</section></div></div>"
    )


def _answer(model: Any, tokenizer: Any, text: str, config: GenerationSettings) -> Answer:
    return generate(model, tokenizer, [text], config)[0]


def _card(heading: str, answer: Answer | str) -> str:
    if isinstance(answer, str):
        return f"<section><h4>{heading}</h4><p class='aside'>{answer}</p></section>"
    body = f"<p class='text' dir='auto'>{_text(answer.text)}</p>" if answer.text else "<p class='aside'>(nothing)</p>"
    end = "" if answer.eos else f"<p class='aside'>cut at {answer.tokens:,} tokens: the model did not end it</p>"
    return f"<section><h4>{heading}</h4>{body}{end}</section>"


def _source(found: Found) -> str:
    if not found.matches:
        return f"<p><mark class='absent'>{ABSENT}</mark></p><p class='aside'>No title is like the question.</p>"
    more = f" (the first {len(found.matches)} of {found.total:,} rows)" if found.total > len(found.matches) else ""
    heading = {
        "exact": f"The row with this title{more}.",
        "named": f"The row whose title the question contains{more}.",
        "part": "No row has this title. Titles that contain it:",
        "close": "No row has this title. The closest:",
    }[found.how]
    rows = "".join(_row(match, alike=found.how in ("part", "close")) for match in found.matches)
    return f"<p class='aside'>{heading}</p>{rows}"


def _row(match: Match, alike: bool) -> str:
    kind = {TRAINED: "trained", HELD_OUT: "held-out"}[match.mark]
    score = f" <small>{match.score:.0f} % alike</small>" if alike else ""
    return (
        f"<article><p><mark class='{kind}'>{match.mark}</mark> <small>uid <code>{_text(match.uid)}</code></small>"
        f"{score}</p><p dir='auto'><b>{_text(match.title)}</b></p>"
        f"<p class='text' dir='auto'>{_text(match.description)}</p></article>"
    )


def _text(text: str) -> str:
    return html.escape(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)")


_STYLE = """
.tc3-asked { overflow-wrap: anywhere; line-height: 1.45; }
.tc3-asked .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1em; }
.tc3-asked section { border: 1px solid rgba(128, 128, 128, 0.4); border-radius: 8px; padding: 0.8em 1em; min-width: 0; }
.tc3-asked h4 { margin: 0 0 0.5em 0; }
.tc3-asked p { margin: 0 0 0.5em 0; }
.tc3-asked .text { white-space: pre-wrap; max-height: 24em; overflow-y: auto; }
.tc3-asked .aside, .tc3-asked small { opacity: 0.75; }
.tc3-asked article + article { border-top: 1px solid rgba(128, 128, 128, 0.4); padding-top: 0.6em; }
.tc3-asked mark { color: inherit; border-radius: 4px; padding: 1px 6px; white-space: nowrap; }
.tc3-asked .trained { background: rgba(76, 120, 168, 0.35); }
.tc3-asked .held-out { background: rgba(84, 162, 75, 0.35); }
.tc3-asked .absent { background: rgba(128, 128, 128, 0.3); }
"""
