"""Write `report.json`, and from it `report.html` and the adapter's model card."""

import base64
import math
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from tc3lib.files import replacing, write_json
from tc3lib.prompts import in_f_string

TEMPLATES = Path(__file__).parent / "templates"
PARTS = {"eval": "Held-out rows", "train": "Rows trained on"}

# Entities where a table or HTML would not see the backslash.
_ENTITIES = re.compile(r"[&<>|]")
_BACKSLASHED = re.compile(r"[\\`*_\[\]~$#!]")


def write(report: Mapping[str, Any], work: Path) -> None:
    """Write `report.json` and `report.html` to the work folder, and the README of the adapter if there is one.

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


def render(report: Mapping[str, Any], loss_png: Path) -> str:
    """Return the report as one HTML file that loads no other file and runs no script; every text is escaped.

    Args:
        report: The result of `comparison.compare`.
        loss_png: The picture of the losses, embedded if the file exists.
    """
    picture = base64.b64encode(loss_png.read_bytes()).decode() if loss_png.exists() else None
    return (
        environment(keep_trailing_newline=True).get_template("report.html").render(report, parts=PARTS, picture=picture)
    )


def model_card(report: Mapping[str, Any]) -> str:
    """Return the adapter's `README.md`, a model card as the Hugging Face Hub reads it (YAML, then Markdown).

    Its YAML names the base model unless that is a local folder: the Hub refuses it, and the code asks where it is.
    """
    tags = ["lora", "unsloth", "trl", "product-descriptions"]
    try:
        validate_repo_id(report["model_name"])
        known = None if Path(report["model_name"]).is_dir() else report["model_name"]
    except HFValidationError:
        known = None
    if known:
        tags.insert(0, f"base_model:adapter:{known}")
    data = ModelCardData(base_model=known, library_name="peft", pipeline_tag="text-generation", tags=tags)
    template = environment(finalize=_markdown, keep_trailing_newline=True).get_template("model_card.md.jinja")
    code = {name: Markup(in_f_string(report.get(name) or "")) for name in ("prompt", "end")}
    return template.render({**report, **code}, parts=PARTS, known=known, front_matter=Markup(data.to_yaml()))


def environment(**options: Any) -> Environment:
    """Return the templates of this package; those of HTML escape every text."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    found.filters |= {"number": _number, "plain": _plain, "duration": _duration, "base_name": _base_name}
    return found


def _markdown(value: Any) -> Any:
    """Escape text for one line of Markdown, in a table too; what is marked safe stays as it is."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    line = _BACKSLASHED.sub(r"\\\g<0>", " ".join(value.split()))
    return _ENTITIES.sub(lambda found: f"&#{ord(found[0])};", line)


def _number(value: float | None, digits: int | None = None, sign: bool = False) -> str:
    """Format a number with separated thousands, rounded to `digits`; a dash if it could not be computed."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,}" if digits is None else f"{value:{'+' if sign and round(value, digits) else ''}z,.{digits}f}"
    return text.replace("-", "−")


def _plain(value: Any) -> str:
    """Format a setting."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _duration(seconds: float | None) -> str:
    """Format seconds as h:mm:ss."""
    return "–" if seconds is None else str(timedelta(seconds=round(seconds)))


def _base_name(text: str) -> str:
    """Return a path's last part, other text unchanged: a card that is published keeps local folders to itself."""
    return PurePath(text).name if PurePath(text).is_absolute() else text
