"""TRL's SFTTrainer on packed rows: micro-batches limited by tokens, an exact eval loss, retries when memory runs out.

`plan="recipe"` uses none of it: that is `SFTTrainer` itself.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer
from trl import SFTTrainer

from tc3lib.errors import Tc3Error
from tc3lib.training.batches import Batch, Row, shard, split
from tc3lib.training.packed_attention import shared_prefix


class PackedTrainer(SFTTrainer):
    """Trains on batches of `batches.collate`, each a whole step, in micro-batches of at most `max_tokens` tokens.

    The gradient of a step is that of the mean loss over its labels, however the step is split. If memory runs out, the
    micro-batches are halved and the step is computed again, so that no row is skipped.

    Several processes share the rows of each step. They meet once a step, when each has its part of the gradient, so
    that one may cut its part otherwise than the others, or make it again.

    Args:
        max_tokens: Most tokens of a micro-batch.
        arguments: Those of `SFTTrainer`.
    """

    def __init__(self, *, max_tokens: int, **arguments: Any):
        super().__init__(**arguments)
        self.max_tokens = max_tokens

    def get_train_dataloader(self) -> DataLoader:
        """Return batches of a step's rows as in one process, of which each process collates its part."""
        if self.args.world_size == 1:
            return super().get_train_dataloader()
        collate = self.data_collator
        self.data_collator = functools.partial(
            shard, collate, index=self.args.process_index, count=self.args.world_size
        )
        loader = super().get_train_dataloader()
        self.data_collator = collate
        # accelerate would give whole batches to the processes in turn, and repeat rows where an epoch ends.
        sampler = loader.batch_sampler
        sampler.num_processes, sampler.process_index, sampler.even_batches = 1, 0, False
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], None]:
        """Return batches alone: each knows the labels of its step, so that no process has to ask the others."""
        return [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)], None

    def training_step(self, model: torch.nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        if not model.training:
            model.train()
        labels = torch.full((), inputs["labelled"], device=self.args.device)

        def learn(part: Batch) -> torch.Tensor:
            loss = self._loss(part, labels)
            self.accelerator.backward(loss)
            return loss.detach()

        loss = self._in_parts(inputs, learn)
        if self.args.world_size > 1:
            learned = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
            # All at once: a message for each of an adapter's hundreds of weights takes longer.
            whole = torch.cat([parameter.grad.flatten() for parameter in learned])
            parts = self.accelerator.reduce(whole, "mean").split([parameter.numel() for parameter in learned])
            for parameter, part in zip(learned, parts, strict=True):
                parameter.grad = part.view_as(parameter)
        return loss

    def evaluate(
        self, eval_dataset: Sequence[Row] | None = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return and log the mean loss over all labels of the held-out rows, or of other ones.

        They pass through the card as in training, so there is room for them where there is room to train.
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        size = self.args.per_device_train_batch_size
        batches = [
            self.data_collator([rows[index] for index in range(start, min(start + size, len(rows)))])
            for start in range(0, len(rows), size)
        ]
        labels = sum(batch["labelled"] for batch in batches)
        training = self.model.training
        self.model.eval()
        loss = torch.zeros((), device=self.args.device)
        with torch.no_grad():
            for batch in batches[self.args.process_index :: self.args.world_size]:
                loss += self._in_parts(batch, lambda part: self._loss(part, labels))
        self.model.train(training)
        metrics = {f"{metric_key_prefix}_loss": float(self.accelerator.reduce(loss, "mean"))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _loss(self, part: Batch, labels: int | torch.Tensor) -> torch.Tensor:
        """Return the sum of a micro-batch's losses, divided by `labels`.

        With several processes it is as many times that, so that their mean is the step's.
        """
        inputs = {name: part[name].to(self.args.device) for name in ("input_ids", "labels", "position_ids")}
        # The lengths stay on the host: unsloth reads them there, and a copy from the device would wait for it.
        inputs |= {"packed_seq_lengths": torch.tensor(part["lengths"], dtype=torch.int32), "use_cache": False}
        with self.compute_loss_context_manager():
            return Trainer.compute_loss(self, self.model, inputs, num_items_in_batch=labels)

    def _in_parts(self, batch: Batch, work: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """Return the sum of `work` over the micro-batches; halve them and begin again where memory runs out."""
        refused = 0
        while True:
            state = torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None
            part = batch  # until it is split
            try:
                total = 0.0
                for part in split(batch, self.max_tokens):
                    with shared_prefix(self.model, part["lengths"], self.args.device):
                        total = total + work(part)
                return total
            except torch.OutOfMemoryError:
                tokens, rows = part["input_ids"].shape[1], len(part["lengths"]) - 1
            if rows == 1 and tokens == refused:  # the second time, with nothing else in the way
                raise Tc3Error(
                    f"the card's memory does not hold one row of {tokens:,} tokens: set memory_gib below the card's "
                    "size, so that smaller micro-batches and checkpointing are planned; or a lower max_seq_length with "
                    "resume_from_checkpoint=False."
                )
            refused = tokens
            del part
            self.model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            torch.set_rng_state(state[0])
            if state[1] is not None:
                torch.cuda.set_rng_state(state[1])
            if rows > 1:
                self.max_tokens = tokens // 2
            print(
                f"out of memory with {tokens:,} tokens in a micro-batch, after step {self.state.global_step}: the same "
                f"rows again, in micro-batches of at most {self.max_tokens:,} tokens from here on"
            )
