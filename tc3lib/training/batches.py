"""Rows to batches without padding, in which what all prompts begin with is computed once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def collate(rows: Sequence[Mapping[str, Any]], share_prefix: bool = True) -> dict[str, Any]:
    """Return rows as one line of tokens: first the prefix that their prompts share, then the rest of each row.

    A causal model gives a shared prefix the same states in every row, so it needs them once. The line means the same
    as the rows one by one only to a model whose attention knows its segments (see `attention`).

    Args:
        rows: `input_ids` and `labels` (-100 over the prompt) of each, as arrays of one length.
        share_prefix: False repeats the prefix in every row, as dropout, which is drawn for each token, needs it.

    Returns:
        `input_ids`, `labels` and `position_ids` (each row's own), int64 tensors of shape (1, tokens); `lengths`: the
        tokens of the prefix (0 if none), then those of each row's rest; and `labelled`: the tokens with a label.
    """
    import numpy
    import torch

    ids = [numpy.asarray(row["input_ids"]) for row in rows]
    labels = [numpy.asarray(row["labels"]) for row in rows]
    prefix = _shared_prefix(ids, labels) if share_prefix else 0
    positions = [numpy.arange(prefix), *(numpy.arange(prefix, len(row)) for row in ids)]

    def line(parts: Sequence[Any]) -> Any:
        return torch.from_numpy(numpy.concatenate(parts).astype(numpy.int64))[None]

    return {
        "input_ids": line([ids[0][:prefix], *(row[prefix:] for row in ids)]),
        "labels": line([labels[0][:prefix], *(row[prefix:] for row in labels)]),
        "position_ids": line(positions),
        "lengths": (prefix, *(len(row) - prefix for row in ids)),
        "labelled": _labelled(rows),
    }


def split(batch: Mapping[str, Any], max_tokens: int) -> Iterator[dict[str, Any]]:
    """Cut a batch of `collate` between rows into micro-batches of at most `max_tokens`, each with the prefix.

    A row that is longer than `max_tokens` has a micro-batch of its own. The rows keep their order.
    """
    import torch

    prefix, *lengths = batch["lengths"]
    start, taken = prefix, []
    for number, length in enumerate(lengths, 1):
        taken.append(length)
        if number < len(lengths) and prefix + sum(taken) + lengths[number] <= max_tokens:
            continue
        stop = start + sum(taken)
        parts = {
            name: torch.cat([value[:, :prefix], value[:, start:stop]], dim=1)
            for name, value in batch.items()
            if torch.is_tensor(value)
        }
        yield {**parts, "lengths": (prefix, *taken)}
        start, taken = stop, []


def pad(batch: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Return a batch of `collate` or `split` with one more row, without labels, that makes its line `tokens` long."""
    import torch

    prefix, *lengths = batch["lengths"]
    missing = tokens - batch["input_ids"].shape[1]
    row = {
        "input_ids": torch.zeros(1, missing, dtype=torch.int64),
        "labels": torch.full((1, missing), -100),
        "position_ids": torch.arange(prefix, prefix + missing)[None],
    }
    parts = {name: torch.cat([batch[name], value.to(batch[name].device)], dim=1) for name, value in row.items()}
    return {**parts, "lengths": (prefix, *lengths, missing)}


def share(
    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    index: int,
    count: int,
) -> dict[str, Any]:
    """Collate the part of a batch's rows that one of several processes takes; its `labelled`, if any, is that of all.

    The rows are dealt out so that all have about as much to do: the longest first, each to the one that has least. A
    process for which there is none, in the last step of an epoch, gets a row without labels: it takes part in the step,
    and adds nothing to it.

    Args:
        collate: Makes a batch of rows.
        rows: All rows of the batch, with `input_ids` and `labels`.
        index: The process's number.
        count: How many there are.
    """
    import torch

    parts: list[list[Mapping[str, Any]]] = [[] for _ in range(count)]
    tokens, most = [0] * count, -(-len(rows) // count)
    for row in sorted(rows, key=lambda row: len(row["input_ids"]), reverse=True):
        to = min((number for number in range(count) if len(parts[number]) < most), key=tokens.__getitem__)
        parts[to].append(row)
        tokens[to] += len(row["input_ids"])
    mine = parts[index]
    batch = {**collate(mine or rows[:1])}
    if "labelled" in batch:
        batch["labelled"] = _labelled(rows)
    return batch if mine else {**batch, "labels": torch.full_like(batch["labels"], -100)}


def count_tokens(batch: Mapping[str, Any]) -> int:
    """Return the tokens of a batch's rows, the shared prefix counted once for each of them."""
    prefix, *lengths = batch["lengths"]
    return prefix * len(lengths) + sum(lengths)


def _labelled(rows: Sequence[Mapping[str, Any]]) -> int:
    import numpy

    return sum(int((numpy.asarray(row["labels"]) != -100).sum()) for row in rows)


def _shared_prefix(ids: Sequence[Any], labels: Sequence[Any]) -> int:
    """Return how many tokens all rows begin with; the last token of the shortest prompt is never among them."""
    import numpy

    shortest = min(int(numpy.argmax(row != -100)) for row in labels) - 1
    first = ids[0][:shortest]
    same = numpy.logical_and.reduce([row[:shortest] == first for row in ids])
    return shortest if same.all() else int(numpy.argmin(same))
