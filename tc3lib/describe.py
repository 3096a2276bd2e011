"""`python -m tc3lib.describe WORK FILE`: let the tuned model of a work folder describe every title of a catalogue.

Started by `accelerate launch -m tc3lib.describe WORK FILE`, several processes share the titles, each on its own GPU.
"""

import argparse
import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from tc3lib.catalogue.cleaning import tidier
from tc3lib.catalogue.rows import Columns
from tc3lib.catalogue.source import opened, read
from tc3lib.checkpoints import run_record
from tc3lib.errors import Tc3Error, show_alone
from tc3lib.files import write_rows
from tc3lib.runtime import processes, workspace
from tc3lib.settings import DataSettings, Settings, setting_names

CHUNK = 10_000
"""Titles that are tokenised together; their answers are kept in one file until all titles are described."""


def read_titles(path: Path, config: DataSettings) -> list[dict[str, Any]]:
    """Return `uid` and `title` of every product of a catalogue that has a title, cleaned as for training.

    Args:
        path: The catalogue, in any format that notebook 01 reads. It needs no contents.
        config: The columns' names, `clean` and `max_damaged`.

    Raises:
        Tc3Error: It cannot be read, or more of its lines are damaged than `max_damaged` allows, or it has no title.
    """
    columns = Columns.of(config)
    with opened(path, columns, config.header_row) as source:
        table = not source.kind.startswith("JSON")
    if table:  # where there are contents, they tell the sheet and the delimiter
        with suppress(Tc3Error):
            return _read_titles(path, columns, config)
    return _read_titles(path, columns._replace(content=None), config)


def _read_titles(path: Path, columns: Columns, config: DataSettings) -> list[dict[str, Any]]:
    found, total, damaged, first = [], 0, 0, []
    with opened(path, columns, config.header_row) as source:
        for rows in read(source):
            tidy = tidier(config, source.literal_breaks)
            titles = [(product.uid, tidy(product.title or "")) for product in rows.products]
            found += [{"uid": uid, "title": title} for uid, title in titles if title]
            first += [f"line {line}: {reason}" for line, _, reason in rows.damaged[: 3 - len(first)]]
            damaged += len(rows.damaged)
            total += rows.read
    examples = "; ".join(first) + ("; ..." if damaged > 3 else "")
    if damaged > config.max_damaged * total:
        raise Tc3Error(
            f"{damaged:,} of {total:,} lines of {path} are damaged, more than max_damaged={config.max_damaged:g} "
            f"allows ({examples}). Fix them, or --set max_damaged=1 to skip them."
        )
    if not found:
        raise Tc3Error(f"no title in {path}: expected {columns.title!r}, or another name, --set title_column=NAME.")
    print(f"{len(found):,} titles in {path}; {total - len(found) - damaged:,} lines have none")
    if damaged:
        print(f"{damaged:,} damaged lines are skipped: {examples}")
    return found


def describe(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], config: Settings, target: Path
) -> Iterator[dict[str, Any]]:
    """Yield `uid`, `title`, `answer` and `eos` (ended by the model itself) of each row, in order.

    After an interruption, call it again: finished answers are kept beside `target` until `forget` is called.
    """
    from tc3lib.evaluation import generation

    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        kept = target.with_name(f"{target.name}.{start}.partial")
        if len(rows) > CHUNK:
            print(f"titles {start + 1:,} to {start + len(chunk):,} of {len(rows):,}")
        answers = generation.generate(model, tokenizer, [row["title"] for row in chunk], config.generation, kept)
        for row, given in zip(chunk, answers, strict=True):
            yield {**row, "answer": given.text, "eos": given.eos}


def forget(target: Path) -> None:
    """Remove the answers that `describe` kept for another call."""
    for path in target.parent.glob(f"{glob.escape(target.name)}.*.partial"):
        path.unlink(missing_ok=True)


def change(config: Settings, settings: Sequence[str]) -> Settings:
    """Return a copy with settings changed by `name=value`; numbers, true, false and null are written as in JSON.

    Raises:
        Tc3Error: One is not of this form, or is not used here; or as for `Settings.change`.
    """
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise Tc3Error(f"--set {setting}: expected name=value, such as max_new_tokens=200.")
        if name == "model_name" or setting_names().get(name) in ("lora", "training", "saving", "planning"):
            raise Tc3Error(f"--set {name}: the adapter is already trained. Only reading and answering can be changed.")
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

    The settings are those of the run in the folder (its settings.json, and of the model its run.json), and --set.
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
    if not (options.folder / "lora_model").is_dir():
        raise Tc3Error(f"no lora_model in {options.folder}: run 03_train first, or give the work folder that has it.")
    config, work = workspace.reopen(options.folder)
    config = change(run_record.as_trained(config, work), options.settings)
    name = Path(options.file.name.removesuffix(".gz").removesuffix(".zip")).stem
    target = work / f"{name}.described.jsonl"
    if target.exists():
        raise Tc3Error(f"{target} already exists: move or rename it, and run this again.")
    rows = read_titles(options.file, config.data)
    from tc3lib import models  # only now: importing unsloth takes half a minute

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
