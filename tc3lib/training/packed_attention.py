"""Attention over a line of rows that share a prefix (`batches.collate`): a row sees the prefix and itself."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from tc3lib import model_loading
from tc3lib.errors import Tc3Error

NAME = "tc3lib_shared_prefix"
_segments: "Segments | None" = None


class Segments:
    """Where the keys of each segment are in a line of tokens.

    The first segment is the prefix and sees itself; each other one is a row's rest and sees the prefix and itself.
    Flash attention is given the keys of each segment one after another, with a copy of the prefix's for each.

    Args:
        lengths: Tokens of each segment; the first may have none.
        device: Of the index tensors.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device):
        self.lengths, self.prefix = tuple(lengths), lengths[0]
        self.calls = 0  # of `attend`
        starts = numpy.cumsum([0, *lengths])
        prefix = numpy.arange(self.prefix)
        keys = [prefix]
        for start, stop in itertools.pairwise(starts[1:]):
            keys += [prefix, numpy.arange(start, stop)]
        key_lengths = [self.prefix, *(self.prefix + length for length in lengths[1:])]
        key_starts = numpy.cumsum([0, *key_lengths])
        copies = (key_starts[:-1, None] + prefix).ravel()

        def index(values: numpy.ndarray, dtype: torch.dtype) -> torch.Tensor:
            tensor = torch.from_numpy(values).to(dtype)
            return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

        self.keys = index(numpy.concatenate(keys), torch.int64)
        self.copies = index(copies, torch.int64)
        self.own = index(numpy.setdiff1d(numpy.arange(key_starts[-1]), copies), torch.int64)
        self.query_starts = index(starts, torch.int32)
        self.key_starts = index(key_starts, torch.int32)
        self.longest_query, self.longest_key = max(lengths), max(key_lengths)


@contextmanager
def shared_prefix(model: PreTrainedModel, lengths: Sequence[int], device: torch.device) -> Iterator[None]:
    """Let the model read a line of `batches.collate` within, forward and backward.

    Raises:
        Tc3Error: The model used another attention; what it computed is wrong. `ways.choose` finds that out beforehand.
    """
    global _segments
    _segments = line = Segments(lengths, device)
    try:
        with model_loading.replaced_attention(model, NAME, attend, attend_in_transformers):
            yield
    finally:
        _segments = None
    if line.calls < model.config.get_text_config().num_hidden_layers:
        raise Tc3Error(
            f"plan='auto' does not know the attention of {model.config.model_type!r} models (model_name): set "
            "plan='recipe'."
        )


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: Any,
    softmax_scale: float | None = None,
    window_size: tuple[int, int] | None = None,
    softcap: float | None = None,
    **__: Any,
) -> torch.Tensor:
    """Return the attention of a line, shape (tokens, heads, width), called as flash_attn's `varlen` function is.

    A call that asks for a soft cap is answered without one and not counted, which `shared_prefix` then reports.

    Args:
        query: Shape (tokens, heads, width).
        key: Shape (tokens, key heads, width); `heads` is a multiple of `key heads`.
        value: As `key`.
        softmax_scale: What scores are multiplied by. None: `width ** -0.5`.
        window_size: How many tokens before its own a query sees, and how many after it, which is always none here.
            Positions are those in a row: the prefix is just before each rest. None or -1: all.
        softcap: Largest score.

    Raises:
        RuntimeError: Outside `shared_prefix`.
    """
    if _segments is None:
        raise RuntimeError("attend was called outside shared_prefix()")
    if not softcap:
        _segments.calls += 1
    before = -1 if window_size is None else window_size[0]
    if before >= _segments.longest_key - 1:
        before = -1
    if _has_flash(query.dtype, query.device):
        return _SharedPrefixFlash.apply(query, key, value, _segments, softmax_scale, before)
    return _attend_by_segment(query, key, value, _segments, softmax_scale, before)


def attend_in_transformers(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return `attend` for a transformers model, whose tensors have the shape (1, heads, tokens, width)."""
    line = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    window = None if sliding_window is None else (sliding_window - 1, 0)
    return attend(*line, softmax_scale=scaling, window_size=window, softcap=softcap)[None], None


def _attend_by_segment(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, line: Segments, scale: float | None, before: int
) -> torch.Tensor:
    """Return the attention of one segment after another, with PyTorch's own function: for CPUs, float32, old cards."""
    groups = query.shape[1] // key.shape[1]
    outputs, start = [], 0
    for number, length in enumerate(line.lengths):
        if not length:
            continue
        stop = start + length
        seen = line.prefix if number else 0
        keys, values = (torch.cat([x[:seen], x[start:stop]]).repeat_interleave(groups, dim=1) for x in (key, value))
        mask = torch.ones(length, seen + length, dtype=torch.bool, device=query.device).tril(seen)
        if before >= 0:
            mask = mask.triu(seen - before)
        heads_first = (x.transpose(0, 1)[None] for x in (query[start:stop], keys, values))
        outputs.append(scaled_dot_product_attention(*heads_first, mask, scale=scale)[0].transpose(0, 1))
        start = stop
    return torch.cat(outputs)


def _has_flash(dtype: torch.dtype, device: torch.device) -> bool:
    half = dtype in (torch.float16, torch.bfloat16)
    return half and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


class _SharedPrefixFlash(torch.autograd.Function):
    """PyTorch's flash attention, which needs no package.

    The public `torch.nn.attention.varlen.varlen_attn` (torch 2.11) has no grouped heads, and the prefix's gradient must
    be summed in float32; so this calls the operators below it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        line: Segments,
        scale: float | None,
        before: int,
    ) -> torch.Tensor:
        keys, values = key.index_select(0, line.keys), value.index_select(0, line.keys)
        lengths = (line.query_starts, line.key_starts, line.longest_query, line.longest_key)
        # A window ends where its query does, so it comes in the place of the causal mask.
        settings = {"scale": scale} | ({} if before < 0 else {"window_size_left": before, "window_size_right": 0})
        output, *statistics = torch.ops.aten._flash_attention_forward(
            query, keys, values, *lengths, 0.0, before < 0, return_debug_mask=False, **settings
        )
        ctx.line, ctx.lengths, ctx.causal, ctx.settings = line, lengths, before < 0, settings
        ctx.save_for_backward(query, key, value, output, *statistics[:3])
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, log_sum, seed, offset = ctx.saved_tensors
        keys, values = key.index_select(0, ctx.line.keys), value.index_select(0, ctx.line.keys)
        by_query, by_key, by_value = torch.ops.aten._flash_attention_backward(
            gradient.contiguous(), query, keys, values, output, log_sum, *ctx.lengths, 0.0, ctx.causal, seed, offset,
            **ctx.settings,
        )  # fmt: skip
        return by_query, _fold(by_key, ctx.line), _fold(by_value, ctx.line), None, None, None


def _fold(gradient: torch.Tensor, line: Segments) -> torch.Tensor:
    """Return the gradient of the line's keys from that of the segments' keys; the prefix's copies add up in float32."""
    copies = gradient.index_select(0, line.copies).view(len(line.lengths), line.prefix, *gradient.shape[1:])
    own = gradient.index_select(0, line.own)
    return torch.cat([copies.sum(0, dtype=torch.float32).to(gradient.dtype), own])
