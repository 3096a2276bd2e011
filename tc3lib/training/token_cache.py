"""Rows as tokens, made once: an Arrow file on the local disk, which `datasets` maps into memory."""

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import pyarrow
import pyarrow.compute
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase
from xxhash import xxh3_128

from tc3lib.errors import Tc3Error
from tc3lib.files import each_row, read_json, write_json
from tc3lib.prompts import RECIPE, encode_rows
from tc3lib.settings import PromptSettings
from tc3lib.training import check_rows

LAYOUT = "1"
ROWS = 1000
"""Rows that are tokenised and checked at once."""
DAYS = 7
"""Tokens that no run has used for so long are removed."""
_SCHEMA = pyarrow.schema(
    {"input_ids": pyarrow.list_(pyarrow.int32()), "completion_mask": pyarrow.list_(pyarrow.int8())}
)


@dataclass(frozen=True)
class Tokens:
    """The rows of a file as `prompts.encode` returns them, and what was found when they were made."""

    rows: Dataset
    cut: int
    """Rows that lost their end at `max_seq_length`."""
    dropped: int
    """Rows of the file that are missing here: the title alone fills `max_seq_length`."""


@dataclass(frozen=True)
class _Note:
    """What stands beside an Arrow file; it is written last."""

    digest: str
    cut: int
    dropped: int


def load(
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    identity: Sequence[str],
    max_length: int,
    template: PromptSettings = RECIPE,
) -> Tokens:
    """Return the tokens of a file of rows, from an earlier call if its result is still there and whole.

    Args:
        tokenizer: The base model's own.
        path: JSON Lines, as `catalogue.select` writes them.
        identity: What else the tokens depend on: digests of the file and of the prompt, and the prompt as text.
        max_length: `max_seq_length`.
        template: What the model is asked.

    Raises:
        Tc3Error: See `check_rows.check`; or every title fills `max_seq_length`; or the local disk is full.
    """
    parts = LAYOUT, *identity, tokenizer.backend_tokenizer.to_str(), str(max_length)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    # Beside the checkpoints that are not copied yet: never in the work folder, which may be on Drive.
    folder = Path(tempfile.gettempdir()) / f"tc3-tokens-{os.getuid()}"
    arrow, note = folder / f"{key}.arrow", folder / f"{key}.json"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(note, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes of a run one tokenises
            _remove_old(folder)
            found = read_json(note)
            if not found or found["digest"] != _digest(arrow):
                new = arrow.with_suffix(".new")  # what a kill leaves there is written over
                try:
                    found = asdict(_write(tokenizer, path, new, max_length, template))
                    os.replace(new, arrow)
                finally:
                    new.unlink(missing_ok=True)
                write_json(note, found)
            os.utime(arrow)
            rows = Dataset.from_file(str(arrow))
    except OSError as error:
        raise Tc3Error(
            f"cannot write the tokens of {path} to {folder}: {error.strerror or error}. Free some space there, or set "
            "TMPDIR to a folder on a larger disk."
        ) from None
    if not len(rows):
        raise Tc3Error(f"{path}: every title fills max_seq_length={max_length}: raise it, or run 01_prepare again.")
    return Tokens(rows, found["cut"], found["dropped"])


def lengths(rows: Dataset) -> list[int]:
    """Return the tokens of each row; the tokens themselves are not read."""
    return pyarrow.compute.list_value_length(rows.data.column("input_ids")).to_pylist()


def _write(
    tokenizer: PreTrainedTokenizerBase, path: Path, arrow: Path, max_length: int, template: PromptSettings
) -> _Note:
    with open(path, "rb") as file:
        total = sum(1 for _ in file)
    rows, done, cut, dropped = each_row(path), 0, 0, 0
    with (
        pyarrow.OSFile(str(arrow), "wb") as file, pyarrow.ipc.new_stream(file, _SCHEMA) as writer,
        tqdm(desc="tokenising", total=total, unit=" rows", disable=total <= 20 * ROWS) as bar,
    ):  # fmt: skip
        while some := [*islice(rows, ROWS)]:
            encoded = encode_rows(tokenizer, some, max_length, template)
            cut += check_rows.check(tokenizer, path, some, encoded, max_length, template, first=done + 1)
            whole = [row for row in encoded if row]
            writer.write_batch(pyarrow.RecordBatch.from_pylist(whole, _SCHEMA))
            done, dropped = done + len(some), dropped + len(some) - len(whole)
            bar.update(len(some))
    return _Note(_digest(arrow), cut, dropped)


def _remove_old(folder: Path) -> None:
    """Remove tokens that nobody has used lately, unless their lock is held; notes, which are the locks, stay.

    A run that has some open keeps them: they are mapped.
    """
    for path in (*folder.glob("*.arrow"), *folder.glob("*.new")):
        with suppress(OSError), open(path.with_suffix(".json"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_mtime < time.time() - DAYS * 24 * 3600:
                path.unlink()


def _digest(arrow: Path) -> str | None:
    try:
        with open(arrow, "rb") as file:
            return hashlib.file_digest(file, xxh3_128).hexdigest()
    except OSError:
        return None
