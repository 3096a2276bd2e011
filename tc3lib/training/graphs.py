"""CUDA graphs of a model's layers: a pass is launched as one, where launching kernel by kernel is what takes time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tc3lib import models
from tc3lib.training import packed_attention as attention
from tc3lib.training.batches import pad

TOKENS = 256
"""Lines are padded to a multiple of it, so that few lengths are recorded."""
LONGEST = 2048
"""What lines are recorded for whose longest row is not longer; others are told apart by powers of two. A lower bound is
hardly faster, and makes more shapes."""


class Graphs:
    """Records a line's way through the layers, forward and backward, and replays it for lines of the same shape.

    A shape is recorded when it comes for the second time; the first time its kernels are launched one by one. Only the
    layers are recorded: the loss, whose kernels depend on how many labels there are, is computed as ever. Without
    gradient checkpointing and dropout only. If a shape cannot be recorded, none is from then on.

    Attributes:
        replays: How many passes were replays so far.

    Args:
        model: With LoRA.
        device: The card.
    """

    def __init__(self, model: Any, device: Any):
        import torch

        self.model, self.device = model, device
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.places = [parameter.data_ptr() for parameter in self.parameters]
        self.pool = torch.cuda.graph_pool_handle()
        self.seen: set[tuple[int, ...]] = set()
        self.recorded: dict[tuple[int, ...], _Recorded] = {}
        self.on, self.replays = True, 0

    def begin(self) -> None:
        """Make the gradients, to which graphs add, zero; call it before the passes of a step."""
        import torch

        places = [parameter.data_ptr() for parameter in self.parameters]
        if places != self.places:  # graphs read where the weights were
            self.places = places
            self.recorded.clear()
        torch._foreach_zero_(self.gradients)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient

    def stop(self, reason: str) -> None:
        """Give the graphs' memory back, and record none from now on."""
        import torch

        self.on = False
        self.recorded.clear()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        print(f"without CUDA graphs from here on, which is slower: {reason}")

    @contextmanager
    def replayed(self, part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield a micro-batch of `batches.split`, padded, whose forward and backward pass within are a replay."""
        shape = _shape(part)
        part = pad(part, shape[0])
        if self.on and shape in self.seen and shape not in self.recorded:
            try:
                self.recorded[shape] = _Recorded(self, part, longest=shape[-1])
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                self.stop(str(error).splitlines()[0])
        self.seen.add(shape)
        if recorded := self.recorded.get(shape):
            recorded.load(part)
            self.replays += 1
            with models.other_forward(models.backbone(self.model), recorded):
                yield part
        else:
            with models.shared_prefix(self.model, part["lengths"], self.device):
                yield part


class _Recorded:
    """The two graphs of one shape; called as the model's layers are, on what `load` was given."""

    def __init__(self, graphs: Graphs, part: Mapping[str, Any], longest: int):
        import torch

        self.inputs = {name: part[name].to(graphs.device) for name in ("input_ids", "position_ids")}
        self.line = attention.Segments(part["lengths"], graphs.device, longest)
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        layers = models.backbone(graphs.model)
        settings = {"pool": graphs.pool, "capture_error_mode": "thread_local"}  # NCCL's own thread asks for events
        inputs = self.inputs | models.one_segment(self.inputs["input_ids"])
        # The parameters' own nodes of the autograd graph belong to another stream, where they may be kept alive.
        stand_ins = _stand_ins(graphs.model, graphs.parameters)
        with attention.segments(self.line), models.own_attention(graphs.model), stand_ins as parameters:
            with torch.cuda.graph(self.forward, **settings):
                self.output = layers(**inputs, use_cache=False)[0]
            self.gradient = torch.zeros_like(self.output)
            with torch.cuda.graph(self.backward, **settings):
                found = torch.autograd.grad(self.output, parameters, self.gradient)
                torch._foreach_add_(graphs.gradients, [gradient.float() for gradient in found])
        self.output = self.output.detach()
        self.anchor = torch.zeros((), device=graphs.device, requires_grad=True)

    def load(self, part: Mapping[str, Any]) -> None:
        """Take the next line."""
        for name, value in self.inputs.items():
            value.copy_(part[name], non_blocking=True)
        self.line.load(attention.Segments(part["lengths"], self.line.keys.device))

    def __call__(self, *_: Any, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPast

        return BaseModelOutputWithPast(last_hidden_state=_replay().apply(self.anchor, self))


def _replay() -> Any:
    import torch

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, anchor: Any, recorded: _Recorded) -> Any:
            ctx.recorded = recorded
            recorded.forward.replay()
            return recorded.output.view_as(recorded.output)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            ctx.recorded.gradient.copy_(gradient)
            ctx.recorded.backward.replay()
            return None, None

    return Replay


@contextmanager
def _stand_ins(model: Any, parameters: Sequence[Any]) -> Iterator[list[Any]]:
    """Put others on the same memory in the place of a model's parameters."""
    import torch

    others = {id(parameter): torch.nn.Parameter(parameter.detach()) for parameter in parameters}
    places = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if id(parameter) in others
    ]
    try:
        for module, name, parameter in places:
            module._parameters[name] = others[id(parameter)]
        yield list(others.values())
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter


def _shape(part: Mapping[str, Any]) -> tuple[int, ...]:
    """Return what lines must have in common: tokens, shared prefix, segments and bound of the longest row."""
    prefix, *lengths = part["lengths"]
    tokens = -(-(part["input_ids"].shape[1] + 1) // TOKENS) * TOKENS
    longest = max(LONGEST, 2 ** (prefix + max(lengths) - 1).bit_length())
    return tokens, prefix, len(lengths), longest
