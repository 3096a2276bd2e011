"""Draw the rows of a run from the prepared records: uniform over the file, seeded, each description on one side."""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

from tc3lib.errors import Tc3Error
from tc3lib.files import write_rows
from tc3lib.prompts import format_record
from tc3lib.settings import DataSettings

# A record's line is _HEAD title _MIDDLE title _LINK description _END: cut it there instead of decoding it.
_HEAD, _MIDDLE, _REST = msgspec.json.encode(format_record("\1", "\2")).split(b"\\u0001")
_LINK, _END = (_REST + b"\n").split(b"\\u0002")


@dataclass(frozen=True)
class SelectReport:
    """What `select` drew from the prepared rows."""

    rows: int
    duplicates: int
    """Rows whose title and description another row has too; each such pair counts as one row."""
    repeated_titles: int
    """Rows whose title an earlier row has."""
    repeated_descriptions: int
    train: int
    eval: int
    questions: int


@dataclass
class _Index:
    """Of each record: the hashes of its line, its title and its description, and where its line and its uid begin."""

    line: Any
    title: Any
    description: Any
    offset: Any
    uid_offset: Any


def select(
    prepared: Path | str,
    folder: Path | str,
    config: DataSettings,
    *,
    train_rows: int | None = None,
    demo_titles: tuple[str, ...] = (),
) -> SelectReport:
    """Draw the rows of a run: `train.jsonl`, `eval.jsonl` and `questions.jsonl` in `folder`, each with uid and part.

    Whether a description is trained on or held out depends on its hash alone, so adding or moving rows never moves
    one to the other side. On each side the rows with the smallest hashes are drawn, which is a uniform sample of the
    whole file in an order that does not depend on the file's; rows that are equal but for their uid count once, with
    the smallest uid. A held-out row whose title is trained on, or asked already, is passed over.

    The questions are what the model is asked before and after training: the demo titles (`part` is `demo`), then the
    first held-out rows (`eval`), then the first rows to train on (`train`).

    Args:
        prepared: What `prepare` wrote; its `*.uid.jsonl` lies beside it.
        folder: Where to write.
        config: `eval_rows`, `eval_share`, `question_rows` and `sample_seed` are used, and `train_rows` before the
            argument.
        train_rows: Rows to train on; None: all.
        demo_titles: Titles to ask besides; their rows are those of the catalogue, whatever the side, or have neither
            `uid` nor `response`.

    Raises:
        Tc3Error: `prepared` is missing or not as `prepare` writes it, or no row is left for one of the two sides.
    """
    import numpy

    prepared, folder = Path(prepared), Path(folder)
    train_rows = config.train_rows or train_rows
    seed = config.sample_seed % 2**64
    index = _index(prepared, seed)
    ranks, drawn, counts = numpy.unique(index.line, return_index=True, return_counts=True)  # in the hashes' order
    held_out = index.description[drawn] < int(config.eval_share * 2**64)
    train = drawn[~held_out][:train_rows]
    candidates = drawn[held_out]
    candidates = candidates[~_among(index.title[candidates], index.title[train])]
    _, first_of_title = numpy.unique(index.title[candidates], return_index=True)
    chosen = candidates[numpy.sort(first_of_title)][: config.eval_rows]
    rows = len(index.line)
    if not len(train) or not len(chosen):
        raise Tc3Error(
            f"{prepared} has {rows} rows: {len(train)} to train on and {len(chosen)} held out "
            f"(eval_share={config.eval_share}); both need at least one. Add rows or change eval_share."
        )
    twins: dict[int, list[int]] = {}
    for row in numpy.flatnonzero(_among(index.line, ranks[counts > 1])):
        twins.setdefault(int(index.line[row]), []).append(int(row))
    found = _first_with_title(index, drawn, demo_titles, seed)
    demo = [
        {"uid": None, "part": "demo", **format_record(title, ""), "response": None}
        if row is None
        else next(_rows(prepared, index, [row], "demo", twins))
        for title, row in zip(demo_titles, found, strict=True)
    ]
    questions = list(demo)
    for part, sample in (("eval", chosen), ("train", train)):
        write_rows(folder / f"{part}.jsonl", _rows(prepared, index, sample, part, twins))
        questions += _rows(prepared, index, sample[: config.question_rows], part, twins)
    write_rows(folder / "questions.jsonl", questions)
    repeated = (rows - _distinct(hashes) for hashes in (index.title, index.description))
    return SelectReport(rows, rows - len(ranks), *repeated, len(train), len(chosen), len(questions))


def _among(values: Any, others: Any) -> Any:
    """Tell of each value whether it is one of the others. `numpy.isin` would sort all the values."""
    import numpy

    others = numpy.append(numpy.sort(others), others[:1])
    return others[numpy.searchsorted(others[:-1], values)] == values if len(others) else numpy.zeros(len(values), bool)


def _distinct(values: Any) -> int:
    """Return how many different values there are. `numpy.unique` takes five times as long."""
    import numpy

    return int(numpy.count_nonzero(numpy.diff(numpy.sort(values)))) + 1


def _uids(prepared: Path) -> Path:
    return prepared.with_suffix(".uid.jsonl")


def _index(prepared: Path, seed: int) -> _Index:
    """Read the whole file once."""
    import numpy

    for path in (prepared, _uids(prepared)):
        if not path.is_file():
            raise Tc3Error(f"no file {path}: run 01_prepare first.")
    lines, titles, descriptions, lengths = array("Q"), array("Q"), array("Q"), array("Q")
    head, link = len(_HEAD), len(_MIDDLE) + len(_LINK)
    with open(prepared, "rb", buffering=1 << 20) as file:
        for line in file:
            middle = line.find(_MIDDLE, head)
            title = line[head:middle]
            whole = line.startswith(_HEAD) and middle > 0 and line.endswith(_END)
            if not whole or not line.startswith(title + _LINK, middle + len(_MIDDLE)):
                raise Tc3Error(f"{prepared}, line {len(lines) + 1} is not a record: run 01_prepare again from the top.")
            lines.append(xxh3_64_intdigest(line, seed))
            titles.append(xxh3_64_intdigest(title, seed))
            descriptions.append(xxh3_64_intdigest(line[2 * middle - head + link : -len(_END)], seed))
            lengths.append(len(line))
    with open(_uids(prepared), "rb") as file:
        uid_lengths = array("Q", map(len, file))
    if len(uid_lengths) != len(lines):
        raise Tc3Error(
            f"{_uids(prepared)} has {len(uid_lengths)} lines, {prepared} {len(lines)}: run 01_prepare again."
        )
    starts = (array("Q", accumulate(sizes[:-1], initial=0)) for sizes in (lengths, uid_lengths))
    return _Index(*(numpy.frombuffer(values, "u8") for values in (lines, titles, descriptions, *starts)))


def _first_with_title(index: _Index, drawn: Any, titles: tuple[str, ...], seed: int) -> list[int | None]:
    """Return the first of the drawn rows with each title, or None."""
    texts = [title.encode(errors="replace").decode() for title in titles]  # no title has a lone surrogate
    hashes = [xxh3_64_intdigest(msgspec.json.encode(text)[1:-1], seed) for text in texts]
    found = [drawn[index.title[drawn] == value][:1] for value in hashes]
    return [int(rows[0]) if len(rows) else None for rows in found]


def _rows(
    prepared: Path, index: _Index, sample: Any, part: str, twins: dict[int, list[int]]
) -> Iterator[dict[str, Any]]:
    """Yield the records of a sample, in its order, each with its part and the smallest uid of the rows equal to it."""
    with open(prepared, "rb") as file, open(_uids(prepared), "rb") as uid_file:

        def uid(row: int) -> bytes:
            uid_file.seek(int(index.uid_offset[row]))
            return uid_file.readline()

        for row in sample:
            file.seek(int(index.offset[row]))
            smallest = min(map(uid, twins.get(int(index.line[row]), [row])))
            try:
                yield {"uid": json.loads(smallest), "part": part, **json.loads(file.readline())}
            except ValueError as error:
                message = f"{prepared}, or its uids, line {row + 1}: {error}. Run 01_prepare again from the top."
                raise Tc3Error(message) from None
