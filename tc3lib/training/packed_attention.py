"""Attention over a line of rows that share a prefix (`batches.collate`): a row sees the prefix and itself."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

NAME = "tc3lib_shared_prefix"
_segments: "Segments | None" = None


class Segments:
    """Where the keys of each segment lie in a line of tokens.

    The first segment is the prefix and sees itself; each other one is a row's rest and sees the prefix and itself.
    Flash attention is given the keys of each segment one after another, the prefix's as often as they are seen.

    Args:
        lengths: Tokens of each segment; the first may have none.
        device: Of the index tensors.
        longest: What no segment's keys are longer than. None: as long as they are.
    """

    def __init__(self, lengths: Sequence[int], device: Any, longest: int | None = None):
        import numpy
        import torch

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

        def index(values: Any, dtype: Any) -> Any:
            tensor = torch.from_numpy(values).to(dtype)
            return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

        self.keys = index(numpy.concatenate(keys), torch.int64)
        self.copies = index(copies, torch.int64)
        self.own = index(numpy.setdiff1d(numpy.arange(key_starts[-1]), copies), torch.int64)
        self.query_starts = index(starts, torch.int32)
        self.key_starts = index(key_starts, torch.int32)
        self.longest_query, self.longest_key = longest or max(lengths), longest or max(key_lengths)

    def load(self, other: "Segments") -> None:
        """Become another line with as many tokens, segments and tokens in the prefix, in the same memory."""
        for name in ("keys", "copies", "own", "query_starts", "key_starts"):
            getattr(self, name).copy_(getattr(other, name), non_blocking=True)


@contextmanager
def segments(line: Segments) -> Iterator[Segments]:
    """Say how the line is cut whose forward and backward passes are made within."""
    global _segments
    _segments = line
    try:
        yield _segments
    finally:
        _segments = None


def attend(query: Any, key: Any, value: Any, *_: Any, **settings: Any) -> Any:
    """Return the attention of a line, shape (tokens, heads, width), called as flash_attn's `varlen` function is.

    A call that asks for more than Llama does (a window, a soft cap, another scale) is answered without that and is not
    counted, by which `models.shared_prefix` sees it.

    Args:
        query: Shape (tokens, heads, width).
        key: Shape (tokens, key heads, width); `heads` is a multiple of `key heads`.
        value: As `key`.

    Raises:
        RuntimeError: Outside `segments`.
    """
    if _segments is None:
        raise RuntimeError("attend was called outside segments()")
    scale = settings.get("softmax_scale")
    window = settings.get("window_size") not in (None, (-1, -1))
    if scale in (None, query.shape[-1] ** -0.5) and not window and not settings.get("softcap"):
        _segments.calls += 1
    if is_flash(query.dtype, query.device):
        return _flash_function().apply(query, key, value, _segments)
    return _attend_by_segment(query, key, value, _segments)


def is_flash(dtype: Any, device: Any) -> bool:
    """Tell whether `attend` goes by tensors on the device, as a CUDA graph must, and not by lengths on the host."""
    import torch

    half = dtype in (torch.float16, torch.bfloat16)
    return half and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def attend_in_transformers(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Any, None]:
    """Return the same to a transformers model, whose tensors have the shape (1, heads, tokens, width)."""
    line = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    window = None if sliding_window is None else (sliding_window, 0)
    return attend(*line, softmax_scale=scaling, window_size=window, softcap=softcap)[None], None


def _attend_by_segment(query: Any, key: Any, value: Any, line: Segments) -> Any:
    """Return the attention of one segment after another, by PyTorch's own: for CPUs, float32, old cards."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    groups = query.shape[1] // key.shape[1]
    outputs, start = [], 0
    for number, length in enumerate(line.lengths):
        if not length:
            continue
        stop = start + length
        seen = line.prefix if number else 0
        keys, values = (torch.cat([x[:seen], x[start:stop]]).repeat_interleave(groups, dim=1) for x in (key, value))
        mask = torch.ones(length, seen + length, dtype=torch.bool, device=query.device).tril(seen)
        heads_first = (x.transpose(0, 1)[None] for x in (query[start:stop], keys, values))
        outputs.append(scaled_dot_product_attention(*heads_first, mask)[0].transpose(0, 1))
        start = stop
    return torch.cat(outputs)


@functools.cache
def _flash_function() -> Any:
    """Return the autograd function over PyTorch's flash attention, which is there without any package."""
    import torch

    class SharedPrefixFlash(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any, line: Segments) -> Any:
            keys, values = key.index_select(0, line.keys), value.index_select(0, line.keys)
            lengths = (line.query_starts, line.key_starts, line.longest_query, line.longest_key)
            output, *statistics = torch.ops.aten._flash_attention_forward(
                query, keys, values, *lengths, 0.0, True, return_debug_mask=False
            )
            ctx.line, ctx.lengths = line, lengths
            ctx.save_for_backward(query, key, value, output, *statistics[:3])
            return output

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            query, key, value, output, log_sum, seed, offset = ctx.saved_tensors
            keys, values = key.index_select(0, ctx.line.keys), value.index_select(0, ctx.line.keys)
            by_query, by_key, by_value = torch.ops.aten._flash_attention_backward(
                gradient.contiguous(), query, keys, values, output, log_sum, *ctx.lengths, 0.0, True, seed, offset
            )
            return by_query, _fold(by_key, ctx.line), _fold(by_value, ctx.line), None

    return SharedPrefixFlash


def _fold(gradient: Any, line: Segments) -> Any:
    """Return the gradient of the line's keys from that of the segments' keys; the prefix's copies add up."""
    import torch

    copies = gradient.index_select(0, line.copies).view(len(line.lengths), line.prefix, *gradient.shape[1:])
    own = gradient.index_select(0, line.own)
    return torch.cat([copies.sum(0, dtype=torch.float32).to(gradient.dtype), own])
