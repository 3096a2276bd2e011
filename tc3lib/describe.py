"""`python -m tc3lib.describe WORK FILE`: let the tuned model of a work folder describe every title of a catalogue.

vLLM answers where it is installed (`vllm_engine`), on every GPU; else `evaluation.generation`, on one.
"""

import argparse
import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tc3lib.catalogue.cleaning import tidier
from tc3lib.catalogue.rows import Columns
from tc3lib.catalogue.source import opened, read
from tc3lib.checkpoints import run_record
from tc3lib.errors import Tc3Error, show_alone
from tc3lib.files import alone, write_rows
from tc3lib.runtime import processes, workspace
from tc3lib.settings import DataSettings, Settings, setting_names

if TYPE_CHECKING:
    from tc3lib.evaluation.answers import Answer

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
    generate: "Callable[[list[str], Path], list[Answer]]", rows: Sequence[Mapping[str, Any]], target: Path, engine: str
) -> Iterator[dict[str, Any]]:
    """Yield `uid`, `title`, `answer` and `eos` (ended by the model itself) of each row, in order.

    After an interruption, call it again: finished answers are kept beside `target` until `forget` is called.

    Args:
        generate: Returns the answers to titles; a file keeps those that are finished.
        engine: What answers. Each engine has files of its own, which another leaves alone.
    """
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        kept = target.with_name(f"{target.name}.{start}.{engine}.partial")
        if len(rows) > CHUNK:
            print(f"titles {start + 1:,} to {start + len(chunk):,} of {len(rows):,}")
        answers = generate([row["title"] for row in chunk], kept)
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
        if name == "model_name" or setting_names().get(name) in ("lora", "training", "saving", "planning", "prompting"):
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


def choose_engine(wanted: str) -> str:
    """Return vllm or builtin; for auto vLLM where it is installed and there is a GPU. Prints which, and why.

    Raises:
        Tc3Error: It is not installed here.
    """
    installed = {name: find_spec(name) is not None for name in ("vllm", "unsloth")}
    engine, why = wanted, "--engine"
    if wanted == "auto" and not installed["vllm"]:
        engine, why = "builtin", "vLLM, which is faster, is not installed here"
    elif wanted == "auto":
        import torch

        gpu = torch.cuda.device_count() > 0
        engine, why = ("vllm", "vLLM is installed") if gpu else ("builtin", "vLLM needs a GPU, and there is none")
    if engine == "vllm" and not installed["vllm"]:
        raise Tc3Error(
            "--engine vllm: vLLM is not installed here. It needs an environment of its own, in which this command then "
            "runs: `pip install vllm==0.25.1 xxhash selectolax openpyxl` (pyarrow for Parquet, ftfy for fix_encoding)."
        )
    if engine == "builtin" and not installed["unsloth"]:
        raise Tc3Error(
            f"the built-in engine ({why}) needs unsloth, which is not installed here: run this command in the "
            "environment of the notebooks."
        )
    print(f"engine: {engine} ({why})")
    return engine


@contextmanager
def opened_engine(
    engine: str, work: Path, config: Settings, titles: list[str], gpu_memory: float | None
) -> "Iterator[Callable[[list[str], Path], list[Answer]]]":
    """Load the model of a work folder, and give what answers titles with it.

    Raises:
        Tc3Error: It cannot be loaded.
    """
    if engine == "vllm":
        try:
            from tc3lib.evaluation.vllm_engine import Engine
        except ImportError as error:
            lacking = error.name if isinstance(error, ModuleNotFoundError) and error.name else "vLLM"
            raise Tc3Error(f"--engine vllm: {error}. Install {lacking}, or --engine builtin.") from error
        with Engine(work, config, titles, gpu_memory) as loaded:
            yield loaded.generate
    else:
        from tc3lib import model_loading  # only now: importing unsloth takes half a minute
        from tc3lib.evaluation import generation

        model, tokenizer = model_loading.load_adapter(work / "lora_model", config.model)
        yield lambda titles, kept: generation.generate(model, tokenizer, titles, config, kept)


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
    parser.add_argument(
        "--engine", choices=["auto", "vllm", "builtin"], default="auto",
        help="auto: vLLM where it is installed and there is a GPU, else the built-in one of the notebooks",
    )  # fmt: skip
    parser.add_argument(
        "--gpu-memory", metavar="SHARE", type=float,
        help="share of each GPU's memory that vLLM may take, such as 0.5; left out, 0.92",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    show_alone()
    if processes.count() > 1:
        raise Tc3Error(
            "accelerate launch: tc3lib.describe runs in one process. Start it by `python -m tc3lib.describe`; for "
            "several GPUs install vLLM, which uses them all."
        )
    if not (options.folder / "lora_model" / "adapter_model.safetensors").is_file():
        raise Tc3Error(f"no lora_model in {options.folder}: run 03_train first, or give the work folder that has it.")
    engine = choose_engine(options.engine)
    config, work = workspace.reopen(options.folder)
    config = change(run_record.as_trained(config, work), options.settings)
    name = Path(options.file.name.removesuffix(".gz").removesuffix(".zip")).stem
    target = work / f"{name}.described.jsonl"
    with alone(work, target):
        if target.exists():
            raise Tc3Error(f"{target} already exists: move or rename it, and run this again.")
        rows = read_titles(options.file, config.data)
        titles = [row["title"] for row in rows]
        with opened_engine(engine, work, config, titles, options.gpu_memory) as generate:
            write_rows(target, describe(generate, rows, target, engine))
        forget(target)
    print(f"{len(rows):,} answers are in {target}")


if __name__ == "__main__":
    main()
