"""`report.html` and the adapter's model card, from what `report.json` holds."""

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from itertools import accumulate
from pathlib import Path, PurePath
from typing import Any

from tc3lib.errors import Tc3Error
from tc3lib.files import replacing, write_json
from tc3lib.prompts import INSTRUCTION, PROMPT

TEMPLATES = Path(__file__).parent / "templates"
NEEDED = ("created", "verdict", "rows", "metrics", "model_name")
PARTS = {"eval": "Held-out rows", "train": "Rows trained on"}
SIGNS = {"better": "✓", "worse": "✕", "changed": "≠", "no difference shown": "≈", "not measured": "–"}
VERDICTS = {True: ("✓", "Yes"), False: ("✕", "Not shown"), None: ("–", "Not measured")}
NONE = "–"
"""What stands where a number could not be computed."""
SHOWN = 600
"""Characters of a text that are seen at once; the rest unfolds."""
LINE = 50
"""Characters that a line's end counts as there."""

# No valid text in UTF-8, or none in HTML.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Entities where a table or HTML would not see the backslash.
_ENTITIES = re.compile(r"[&<>|]")
_BACKSLASHED = re.compile(r"[\\`*_\[\]~$#!]")


def write(report: Mapping[str, Any], work: Path) -> None:
    """Write `report.json` and `report.html` to the work folder, and the adapter's README where there is an adapter.

    Raises:
        Tc3Error: A file cannot be written.
    """
    write_json(work / "report.json", report)
    texts = {work / "report.html": render(report, work / "loss.png")}
    if (work / "lora_model").is_dir():
        texts[work / "lora_model" / "README.md"] = model_card(report)
    for path, text in texts.items():
        with replacing(path) as file:
            file.write(text.encode())


def render(report: Mapping[str, Any], loss_png: Path | None) -> str:
    """Return the page that shows a run to a person: one HTML file, which asks for no other and runs no script.

    Args:
        report: What `report.json` holds.
        loss_png: The picture of the losses, which the page takes in. None, or no such file: the page says so.

    Raises:
        Tc3Error: `report` lacks a part, or `loss_png` is no PNG file or cannot be read.
    """
    return _fill("report.html", report, True, _printable, picture=_picture(loss_png))


def model_card(report: Mapping[str, Any]) -> str:
    """Return the adapter's `README.md`, a model card as the Hugging Face Hub reads it (YAML, then Markdown).

    `base_model` stands in its YAML if the model's name can be one of the Hub; the Hub refuses a local path there.

    Args:
        report: What `report.json` holds.

    Raises:
        Tc3Error: `report` lacks a part.
    """
    return _fill("model_card.md.jinja", report, False, _markdown, prompt=_prompt())


def _fill(name: str, report: Mapping[str, Any], autoescape: bool, finalize: Any, **values: Any) -> str:
    """Return a template filled from `report`; `finalize` sees whatever it puts out, so that nothing escapes it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    missing = [part for part in NEEDED if part not in report]
    if missing:
        raise Tc3Error(f"the report lacks {', '.join(missing)}: it is not one of this version. Run 04_posttest again.")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": _number, "amount": _amount, "plain": _plain, "duration": _duration, "moment": _moment, "fold": _fold,
        "front_matter": _front_matter, "base_name": _base_name,
    }  # fmt: skip
    values |= {part: report.get(part) or {} for part in ("answers", "data", "settings", "versions", "time", "memory")}
    values |= {"plan": report.get("plan") or {}, "run": report.get("run"), "gpu": report.get("gpu")}
    values |= {part: report[part] for part in NEEDED} | {"parts": PARTS, "signs": SIGNS, "verdicts": VERDICTS}
    # A metric that a part's rows do not have is left out of that part's table.
    values["scores"] = {
        name: [(metric, metric["parts"][name]) for metric in report["metrics"].values() if metric["parts"].get(name)]
        for name in PARTS
    }
    return environment.get_template(name).render(values)


def _printable(value: Any) -> Any:
    """Return text without what no page may hold, such as NUL or half a surrogate pair."""
    from markupsafe import Markup

    if value is None:
        return ""
    return _UNPRINTABLE.sub("�", value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _markdown(value: Any) -> Any:
    """Return text as one line of Markdown that means itself, in a table too; what is marked safe stays as it is."""
    from markupsafe import Markup

    if isinstance(value, Markup) or not isinstance(value, str):
        return _printable(value)
    line = _printable(" ".join(value.split()))
    return _ENTITIES.sub(lambda found: f"&#{ord(found[0])};", _BACKSLASHED.sub(r"\\\g<0>", line))


def _number(value: float | None, digits: int | None = None, sign: bool = False) -> str:
    """Return a number with its thousands apart, rounded to `digits`, its sign written out if asked for."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{round(value, 4):,}" if digits is None else f"{value:z,.{digits}f}"
    plus = "+" if sign and value > 0 and text.strip("0.,") else ""
    return plus + text.replace("-", "−")


def _plain(value: Any) -> str:
    """Return a setting as a person would write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, Mapping) else str(value)


def _amount(value: Any) -> str:
    """Return a count or a size; whatever else stands in its place is shown as it is."""
    return _number(value) if value is None or type(value) in (int, float) else _plain(value)


def _duration(seconds: float | None) -> str:
    """Return seconds as they are, from two minutes on with what that makes."""
    if seconds is None or not 120 <= seconds < math.inf:
        return f"{_number(seconds, 1)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{_number(seconds, 1)} s ({f'{hours} h ' if hours else ''}{minutes} min {rest} s)"


def _moment(text: Any) -> str:
    """Return an ISO 8601 moment to the minute; what is none stays as it is."""
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M %Z}".rstrip()
    except (TypeError, ValueError):
        return _plain(text)


def _fold(text: str | None, size: int = SHOWN) -> tuple[str, str]:
    """Return a text's beginning and what follows it, cut between words; a text little longer than `size` is whole.

    A new line counts as `LINE` characters: a base model may write little else.
    """
    text = text or ""
    seen = accumulate(LINE if character == "\n" else 1 for character in text)
    cut = next((place for place, count in enumerate(seen) if count >= size), len(text))
    if len(text) + LINE * text.count("\n", cut) <= cut + size // 4:
        return text, ""
    gap = max(text.rfind(" ", cut // 2, cut), text.rfind("\n", cut // 2, cut))
    cut = gap + 1 if gap >= 0 else cut
    return text[:cut], text[cut:]


def _picture(path: Path | None) -> str | None:
    """Return a PNG file as a data URI, None if there is no such file."""
    if path is None or not Path(path).exists():
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise Tc3Error(f"cannot read {path}: {error.strerror or error}. Expected the picture of the losses.") from None
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise Tc3Error(f"{path} is no PNG picture: delete it, or run 03_train again, which draws it.")
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _front_matter(model_name: str) -> Any:
    """Return the card's YAML, without the lines around it."""
    import yaml
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id
    from markupsafe import Markup

    tags = ["lora", "unsloth", "trl", "product-descriptions"]
    try:
        validate_repo_id(model_name)
    except HFValidationError:
        about = {}
    else:
        about = {"base_model": model_name}
        tags.insert(0, f"base_model:adapter:{model_name}")
    about |= {"library_name": "peft", "pipeline_tag": "text-generation", "tags": tags}
    return Markup(yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=1000))


def _base_name(text: str) -> str:
    """Return a path's last name, other text as it is: a card does not tell where files lay on some machine."""
    return PurePath(text).name if PurePath(text).is_absolute() else text


def _prompt() -> Any:
    """Return the prompt as the card's code has it, with a field for the title."""
    from markupsafe import Markup

    return Markup(PROMPT.format(INSTRUCTION, "{title}"))
