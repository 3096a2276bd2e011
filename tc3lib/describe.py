"""`python -m tc3lib.describe WORK FILE`: let the tuned model of a work folder describe every title of a catalogue.

Started by `accelerate launch -m tc3lib.describe WORK FILE` its processes share the titles, each on a card of its own.
"""

import argparse
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tc3lib import models, settings
from tc3lib.catalogue.cleaning import clean_text
from tc3lib.catalogue.json_rows import Columns
from tc3lib.catalogue.prepare import columns
from tc3lib.catalogue.source import opened
from tc3lib.checkpoints import run_record as checkpoints
from tc3lib.errors import Tc3Error, show_alone
from tc3lib.evaluation import generation
from tc3lib.files import write_rows
from tc3lib.runtime import processes
from tc3lib.runtime import workspace as runtime
from tc3lib.settings import DataSettings, Settings, setting_names

CHUNK = 10_000
"""Titles that are tokenised together; the answers to each so many have a file of their own until all are there."""


def read_titles(path: Path, config: DataSettings) -> list[dict[str, Any]]:
    """Return `uid` and `title` of every product of a catalogue that has a title, tidied as for training.

    Args:
        path: The catalogue, in any form that notebook 01 reads. It needs no contents.
        config: The columns' names, and `clean`.

    Raises:
        Tc3Error: It cannot be read, or more of its lines than `max_damaged` allows, or it has no title.
    """
    named = columns(config)
    try:
        return _read_titles(path, named, config)
    except Tc3Error:  # it may be a table without contents; where there are some they tell its sheet and its delimiter
        return _read_titles(path, named._replace(content=None), config)


def _read_titles(path: Path, named: Columns, config: DataSettings) -> list[dict[str, Any]]:
    tidy = clean_text if config.clean else str.strip
    found, read, damaged, first = [], 0, 0, []
    with opened(path, named) as source:
        fields = [("title", str | None, None), ("uid", str | int | float | bool | None, None)]
        product = msgspec.defstruct("Titled", fields, rename={"title": named.title, "uid": named.uid})
        decode = msgspec.json.Decoder(product).decode
        for block in source.blocks():
            for line, (number, _) in zip(block.lines, block.positions(read + 1), strict=True):
                try:
                    row = product() if line and not line.strip() else decode(line)  # b"" is what cannot be read
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    damaged += 1
                    first += [f"line {number}: {block.reason or error}"] if damaged <= 3 else []
                    continue
                title = tidy(row.title or "")
                found += [{"uid": row.uid, "title": title}] if title else []
            read += len(block.lines)
    told = "; ".join(first) + ("; ..." if damaged > 3 else "")
    if damaged > config.max_damaged * read:
        raise Tc3Error(
            f"{damaged:,} of {read:,} lines of {path} cannot be read, more than max_damaged="
            f"{config.max_damaged:g} allows ({told}). Mend them, or --set max_damaged=1 to leave them out."
        )
    if not found:
        raise Tc3Error(f"no title in {path}: expected {named.title!r}, or another name, --set title_column=NAME.")
    print(f"{len(found):,} titles in {path}; {read - len(found) - damaged:,} lines have none")
    if damaged:
        print(f"{damaged:,} damaged lines are left out: {told}")
    return found


def describe(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], config: Settings, target: Path
) -> Iterator[dict[str, Any]]:
    """Yield `uid`, `title`, `answer` and `eos` (ended by the model itself) of each row, in order.

    Interrupted, it goes on when it is called again: finished answers lie beside `target` until `forget` is called.
    """
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        kept = target.with_name(f"{target.name}.{start}.partial")
        if len(rows) > CHUNK:
            print(f"titles {start + 1:,} to {start + len(chunk):,} of {len(rows):,}")
        answers = generation.generate(model, tokenizer, [row["title"] for row in chunk], config.generation, kept)
        for row, given in zip(chunk, answers, strict=True):
            yield {**row, "answer": given.text, "eos": given.eos}


def forget(target: Path) -> None:
    """Remove what `describe` kept for an interruption."""
    for path in target.parent.glob(f"{glob.escape(target.name)}.*.partial"):
        path.unlink(missing_ok=True)


def change(config: Settings, settings: Sequence[str]) -> Settings:
    """Return a copy with settings changed that are given as `name=value`: text as it stands, all else as in JSON.

    Raises:
        Tc3Error: One is not of this form, is not used here, or as `Settings.change`.
    """
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise Tc3Error(f"--set {setting}: expected name=value, such as max_new_tokens=200.")
        if name == "model_name" or setting_names().get(name) in ("lora", "training", "saving", "planning"):
            raise Tc3Error(f"--set {name}: the adapter is trained already. Only reading and answering can be changed.")
        try:
            config = config.change(**{name: value})
        except Tc3Error as error:
            try:
                decoded = msgspec.json.decode(value)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                raise error from None
            config = config.change(**{name: decoded})
    return config


def main(arguments: Sequence[str] | None = None) -> None:
    """Describe the titles of a file: once all are done, `<file>.described.jsonl` in the work folder has the answers.

    The model is loaded as the run in the folder had it; all other settings are the preset's (TC3_PRESET), or --set.
    """
    parser = argparse.ArgumentParser(prog="python -m tc3lib.describe", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="the work folder with lora_model/")
    parser.add_argument("file", type=Path, help="the catalogue, in any form that notebook 01 reads; titles are enough")
    parser.add_argument(
        "--set", dest="settings", metavar="NAME=VALUE", action="append", default=[],
        help="a setting, such as title_column=nome or max_new_tokens=200; may be given several times",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    show_alone()
    if what := processes.sharding():
        raise Tc3Error(f"each process answers with the whole model: start it with --multi_gpu, without {what}.")
    if not (options.folder / "lora_model").is_dir():
        raise Tc3Error(f"no lora_model in {options.folder}: run 03_train first, or give the work folder that has it.")
    config = checkpoints.as_trained(settings.get(os.environ.get("TC3_PRESET", "llama3_8b")), options.folder)
    config = change(config, options.settings)
    os.environ["TC3_HOME"] = str(options.folder)
    work = runtime.setup(config)
    name = Path(options.file.name.removesuffix(".gz").removesuffix(".zip")).stem
    target = work / f"{name}.described.jsonl"
    if target.exists():
        raise Tc3Error(f"{target} is there already: move or rename it, and call this again.")
    rows = read_titles(options.file, config.data)
    model, tokenizer = models.load_adapter(work / "lora_model", config.model)
    answered = describe(model, tokenizer, rows, config, target)
    if processes.is_main():
        write_rows(target, answered)
        forget(target)
        print(f"{len(rows):,} answers are in {target}")
    else:
        list(answered)
    processes.wait()


if __name__ == "__main__":
    main()
