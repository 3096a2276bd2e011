"""Draw the rows of a run from the prepared records: uniform over the file, seeded, each description on one side."""

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

from tc3lib.catalogue.near_twins import MOST_LOOKED_AT, Trained
from tc3lib.errors import Tc3Error
from tc3lib.files import check_folder, read_json, write_json, write_rows
from tc3lib.prompts import PROMPT, description, encode_prompts, format_record, load_tokenizer
from tc3lib.settings import PromptSettings, Settings, rows_needed, used_by_01

FEWEST = 4
"""Minimum number of held-out rows."""
SMALL = 20
"""A catalogue with fewer rows may have fewer than `FEWEST` held out."""


@dataclass(frozen=True)
class SelectReport:
    """Rows that `select` read and drew."""

    rows: int
    duplicates: int
    """Rows with the title and the description of another row; they are drawn as one row."""
    repeated_titles: int
    """Rows with the title of an earlier row."""
    repeated_descriptions: int
    train: int
    eval: int
    questions: int
    near_twins: int
    """Held-out rows that were left out: their description is at least 90 % the same as one trained on, digits aside."""
    near_twins_kept: int
    """Held-out rows that are near twins of a row trained on; they stay because there are too few others."""
    long_titles: int
    """Rows that are not drawn: the title alone fills `max_seq_length`."""


@dataclass
class _Index:
    """Of each record: hashes of line, title and description, size of the title, offsets of line and uid."""

    line: Any
    title: Any
    description: Any
    title_size: Any
    offset: Any
    uid_offset: Any


def select(config: Settings, work: Path) -> SelectReport:
    """Draw the rows of a run from `trn_output.json`: `train.jsonl`, `eval.jsonl`, `questions.jsonl`, with uid and part.

    Whether a description is trained on or held out depends on its hash alone, so adding or moving rows never moves
    one to the other side. On each side the rows with the smallest hashes are drawn, which is a uniform sample of the
    whole file in an order that does not depend on the file's; rows that are equal but for their uid count once, with
    the smallest uid. A held-out row is skipped if its title is trained on, or drawn already.

    The questions are what the model is asked before and after training: the demo titles (`part` is `demo`), then the
    first held-out rows (`eval`), then the first rows to train on (`train`). The row of a demo title is the catalogue's,
    on whichever side; if there is none, `uid` and `response` are null. What was drawn, and
    with which settings, is added to `prepare_report.json` as `selected` and `settings`.

    Args:
        config: A run. Without `train_rows`, as many rows are drawn as its steps use.
        work: The work folder, after `prepare`.

    Raises:
        Tc3Error: `trn_output.json` is missing or not as `prepare` writes it, or no row is left for one of the sides.
    """
    import numpy

    prepared, data = work / "trn_output.json", config.data
    seed = data.sample_seed % 2**64
    index = _index(prepared, seed, config.prompting)
    ranks, distinct, counts = numpy.unique(index.line, return_index=True, return_counts=True)  # in the hashes' order
    distinct, long_titles = _short_titles(config, prepared, index, distinct)

    def split(threshold: int) -> tuple[Any, Any]:
        """Return what is trained on, and what may be held out: the rows with a description's hash below a threshold."""
        held_out = index.description[distinct] < threshold
        train = distinct[~held_out][: data.train_rows or rows_needed(config.training)]
        candidates = distinct[held_out]
        candidates = candidates[~numpy.isin(index.title[candidates], index.title[train])]
        for hashes in (index.title, index.description):  # one row each: equal ones are no independent questions
            _, first = numpy.unique(hashes[candidates], return_index=True)
            candidates = candidates[numpy.sort(first)]
        return train, candidates

    fewest = min(FEWEST, data.eval_rows)
    train, candidates = split(int(data.eval_share * 2**64))
    if len(distinct) >= SMALL and len(candidates) < fewest:
        for last in numpy.unique(index.description[distinct])[: min(len(distinct) // 2, 100)]:
            train, candidates = split(int(last) + 1)
            if len(candidates) >= fewest:
                break
    rows = len(index.line)
    if not len(train) or not len(candidates):
        too_long = f", {long_titles} with a title that fills max_seq_length" if long_titles else ""
        raise Tc3Error(
            f"{prepared} has {rows} rows: {len(train)} to train on and {len(candidates)} held out "
            f"(eval_share={data.eval_share}){too_long}; both need at least one. Add rows or change eval_share."
        )
    chosen, near_twins, kept = _without_near_twins(config, prepared, index, train, candidates, fewest)
    wanted = min(data.eval_rows, len(candidates))
    if kept or len(chosen) < wanted:
        print(
            f"{near_twins + kept} held-out rows are near copies of training rows (another colour or size): "
            f"{len(chosen)} rows are held out instead of {wanted}, {kept or 'none'} of them near copies."
        )
    duplicates: dict[int, list[int]] = {}
    for row in numpy.flatnonzero(numpy.isin(index.line, ranks[counts > 1])):
        duplicates.setdefault(int(index.line[row]), []).append(int(row))
    demo_titles = config.generation.demo_titles
    found = _first_with_title(index, distinct, demo_titles, seed)
    questions = [
        {"uid": None, "part": "demo", **format_record(title, "", config.prompting), "response": None}
        if row is None
        else next(_rows(prepared, index, [row], "demo", duplicates))
        for title, row in zip(demo_titles, found, strict=True)
    ]
    for part, sample in (("eval", chosen), ("train", train)):
        write_rows(work / f"{part}.jsonl", _rows(prepared, index, sample, part, duplicates))
        questions += _rows(prepared, index, sample[: data.question_rows], part, duplicates)
    write_rows(work / "questions.jsonl", questions)
    ordered = (numpy.sort(hashes) for hashes in (index.title, index.description))
    repeated = (int(numpy.count_nonzero(hashes[1:] == hashes[:-1])) for hashes in ordered)
    report = SelectReport(
        rows, rows - len(ranks), *repeated, len(train), len(chosen), len(questions), near_twins, kept, long_titles
    )
    path = work / "prepare_report.json"
    write_json(path, {**read_json(path), "selected": asdict(report), "settings": used_by_01(config)})
    return report


def _uids(prepared: Path) -> Path:
    return prepared.with_suffix(".uid.jsonl")


def _index(prepared: Path, seed: int, template: PromptSettings) -> _Index:
    import numpy

    check_folder(prepared.parent)
    for path in (prepared, _uids(prepared)):
        if not path.is_file():
            raise Tc3Error(f"no file {path}: run 01_prepare first.")
    lines, titles, descriptions, title_sizes, lengths = (array("Q") for _ in range(5))
    # A record's line is `head` title `middle`, what is before the description, that, and what is after it, both joined
    # by the title. Cutting it there is faster than decoding it.
    head, rest = msgspec.json.encode(format_record("\1", "\2", template)).split(b"\\u0001", 1)
    middle = b'","response":"'
    before, after = (part.split(b"\\u0001") for part in (rest.removeprefix(middle) + b"\n").split(b"\\u0002"))
    with open(prepared, "rb", buffering=1 << 20) as file:
        for line in file:
            end = line.find(middle, len(head))
            title, response = line[len(head) : end], end + len(middle)
            opening, closing = title.join(before), title.join(after)
            whole = line.startswith(head) and end > 0 and line.endswith(closing)
            if not whole or not line.startswith(opening, response):
                raise Tc3Error(f"{prepared}, line {len(lines) + 1} is not a record: run 01_prepare again from the top.")
            lines.append(xxh3_64_intdigest(line, seed))
            titles.append(xxh3_64_intdigest(title, seed))
            descriptions.append(xxh3_64_intdigest(line[response + len(opening) : -len(closing)], seed))
            title_sizes.append(len(title))
            lengths.append(len(line))
    values = lines, titles, descriptions, title_sizes, *offsets(prepared, lengths)
    return _Index(*(numpy.frombuffer(value, "u8") for value in values))


def offsets(prepared: Path, lengths: array) -> tuple[array, array]:
    """Return where each line of `trn_output.json` begins, given the lines' lengths, and where its uid does.

    Raises:
        Tc3Error: There are not as many uids.
    """
    with open(_uids(prepared), "rb") as file:
        uid_lengths = array("Q", map(len, file))
    if len(uid_lengths) != len(lengths):
        raise Tc3Error(
            f"{_uids(prepared)} has {len(uid_lengths)} lines, {prepared} {len(lengths)}: run 01_prepare again."
        )
    return tuple(array("Q", accumulate(sizes[:-1], initial=0)) for sizes in (lengths, uid_lengths))


def _short_titles(config: Settings, prepared: Path, index: _Index, distinct: Any) -> tuple[Any, int]:
    """Return the rows whose prompt leaves room for a response in `max_seq_length`, and how many do not.

    A text has no more tokens than bytes, so the tokenizer is rarely needed. If it cannot be loaded, 03 drops such rows.
    """
    import numpy

    longest = config.model.max_seq_length
    template = len(PROMPT.format(config.prompting.instruction, "").encode()) + 1  # a chat's is hardly longer
    if not (index.title_size[distinct] + template >= longest).any():
        return distinct, 0
    try:
        tokenizer = load_tokenizer(config.model.model_name)
    except Tc3Error as error:
        print(f"titles that fill max_seq_length are not looked for: {error}")
        return distinct, 0
    empty = encode_prompts(tokenizer, [{"input_text": ""}], config.prompting)
    template = len(empty[0]) + 8  # which may merge otherwise beside a title
    doubtful = distinct[index.title_size[distinct] + template >= longest]
    too_long = []
    for start in range(0, len(doubtful), 1000):
        some = doubtful[start : start + 1000]
        found = encode_prompts(tokenizer, [*_records(prepared, index, some)], config.prompting)
        too_long += [row for row, ids in zip(some, found, strict=True) if len(ids) >= longest]
    return distinct[~numpy.isin(distinct, too_long)], len(too_long)


def _without_near_twins(
    config: Settings, prepared: Path, index: _Index, train: Any, candidates: Any, fewest: int
) -> tuple[Any, int, int]:
    """Return the first candidates that have no near twin among the rows trained on; how many have one; how many of
    these are returned nevertheless, to have `fewest`."""

    def read(rows: Sequence[int]) -> Iterator[str]:
        return (description(record, config.prompting) for record in _records(prepared, index, rows))

    trained, alone, near = Trained(train, read), [], []
    for place, text in enumerate(read(candidates)):
        (near if trained.near_twin(text) else alone).append(place)
        if len(alone) == config.data.eval_rows or trained.looked_at > MOST_LOOKED_AT:
            break
    kept = near[: max(0, fewest - len(alone))]
    return candidates[sorted(alone + kept)], len(near) - len(kept), len(kept)


def _records(prepared: Path, index: _Index, rows: Sequence[int]) -> Iterator[dict[str, str]]:
    """Yield records by their numbers."""
    with open(prepared, "rb") as file:
        for row in rows:
            file.seek(int(index.offset[row]))
            try:
                yield msgspec.json.decode(file.readline())
            except msgspec.DecodeError as error:
                raise Tc3Error(f"{prepared}, line {row + 1}: {error}. Run 01_prepare again from the top.") from None


def _first_with_title(index: _Index, distinct: Any, titles: tuple[str, ...], seed: int) -> list[int | None]:
    """Return the first distinct row with each title, or None."""
    hashes = [xxh3_64_intdigest(msgspec.json.encode(title)[1:-1], seed) for title in titles]
    found = [distinct[index.title[distinct] == value][:1] for value in hashes]
    return [int(rows[0]) if len(rows) else None for rows in found]


def _rows(
    prepared: Path, index: _Index, sample: Any, part: str, duplicates: dict[int, list[int]]
) -> Iterator[dict[str, Any]]:
    """Yield the records of a sample in order, each with its part and the smallest uid of its duplicates."""
    with open(_uids(prepared), "rb") as file:

        def uid(row: int) -> bytes:
            file.seek(int(index.uid_offset[row]))
            return file.readline()

        for row, record in zip(sample, _records(prepared, index, sample), strict=True):
            smallest = min(map(uid, duplicates.get(int(index.line[row]), [row])))
            try:
                yield {"uid": json.loads(smallest), "part": part, **record}
            except ValueError as error:
                raise Tc3Error(f"{file.name}, line {row + 1}: {error}. Run 01_prepare again from the top.") from None
