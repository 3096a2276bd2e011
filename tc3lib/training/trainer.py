"""TRL's SFTTrainer with the plan's steps: micro-batches by tokens, exact eval loss, a way on when memory is short."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tc3lib import models
from tc3lib.errors import Tc3Error
from tc3lib.runtime import processes
from tc3lib.training.batches import count_tokens, share, split
from tc3lib.training.graphs import Graphs


@functools.cache
def trainer_class() -> Any:
    """Return the class; TRL is imported only now, after unsloth has patched it."""
    import torch
    from transformers import Trainer
    from trl import SFTTrainer

    class StepTrainer(SFTTrainer):
        """Trains on batches of `batches.collate`, each a whole step, in micro-batches of at most `max_tokens` tokens.

        The gradient of a step is the mean over its labels however it is cut. Where memory runs out the micro-batches
        are halved and the step is made again, so none is lost. `max_tokens` None leaves everything to TRL.

        Several processes share the rows of each step. They meet once a step, when each has its part of the gradient, so
        that one may cut its part otherwise than the others, or make it again.

        Attributes:
            max_tokens: Most tokens of a micro-batch.
            graphs: Set before training if the layers are to be launched as CUDA graphs.
            step_loss, step_grad_norm: Of the last step, tensors on the device.
            step_tokens: Of the last step, about if there are several processes; with `max_tokens` None padding counts.
            save_error: Why the last checkpoint could not be written, None if it could. Training goes on.
        """

        max_tokens: int | None = None
        graphs: Graphs | None = None
        step_loss: Any = None
        step_grad_norm: Any = None
        step_tokens = 0
        save_error: Exception | None = None

        def get_train_dataloader(self) -> Any:
            """Return batches of a step's rows as in one process, of which each process collates its part."""
            if self.args.world_size == 1:
                return super().get_train_dataloader()
            whole = self.data_collator
            self.data_collator = functools.partial(
                share, whole, index=self.args.process_index, count=self.args.world_size
            )
            loader = super().get_train_dataloader()
            self.data_collator = whole
            # accelerate would give whole batches to the processes in turn, and repeat rows where an epoch ends.
            shard = loader.batch_sampler
            shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
            return loader

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
            """Return batches alone: each knows the labels of its step, so that no process has to ask the others."""
            if self.max_tokens is None:
                return super().get_batch_samples(epoch_iterator, num_batches, device)
            return list(itertools.islice(epoch_iterator, num_batches)), None

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            if self.max_tokens is None:
                loss = super().training_step(model, inputs, num_items_in_batch)
                first = self.step_loss is None
                self.step_loss = loss if first else self.step_loss + loss
                tokens = inputs["input_ids"].numel() * self.args.world_size
                self.step_tokens = (0 if first else self.step_tokens) + tokens
                return loss
            if not model.training:
                model.train()
            if callable(getattr(self.optimizer, "train", None)):  # schedule-free optimisers have two modes
                self.optimizer.train()

            labels = torch.full((), inputs["labelled"], device=self.args.device)

            def learn(part: Mapping[str, Any]) -> Any:
                loss = self._loss(self.model, part, labels)
                self.accelerator.backward(loss)
                return loss.detach()

            self.step_tokens = count_tokens(inputs) * self.args.world_size
            self.step_loss = self._in_parts(inputs, learn)
            if self.args.world_size > 1:
                learned = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
                # All at once: a message for each of an adapter's hundreds of weights takes longer.
                whole = torch.cat([parameter.grad.flatten() for parameter in learned])
                parts = self.accelerator.reduce(whole, "mean").split([parameter.numel() for parameter in learned])
                for parameter, part in zip(learned, parts, strict=True):
                    parameter.grad = part.view_as(parameter)
            return self.step_loss

        def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
            """Return and log the mean loss over all labels of the held-out rows.

            They pass through the card as in training, so there is room for them where there is room to train.
            """
            if self.max_tokens is None:
                return super().evaluate(metric_key_prefix=metric_key_prefix)
            rows, size = self.eval_dataset, self.args.per_device_train_batch_size
            batches = [
                self.data_collator([rows[index] for index in range(start, min(start + size, len(rows)))])
                for start in range(0, len(rows), size)
            ]
            labels = sum(batch["labelled"] for batch in batches)
            training = self.model.training
            self.model.eval()
            mine = batches[self.args.process_index :: self.args.world_size]
            loss = torch.zeros((), device=self.args.device)
            with torch.no_grad():
                for batch in mine:
                    loss += self._in_parts(batch, lambda part: self._loss(self.model, part, labels))
            self.model.train(training)
            metrics = {f"{metric_key_prefix}_loss": float(self.accelerator.reduce(loss, "mean"))}
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            self.save_error = None
            try:
                super()._save_checkpoint(model, trial)
            except Exception as error:  # several libraries write, and each has its own for a full disk
                if processes.is_sharded(self.model):  # the others go on to gather the rest, and would wait for ever
                    raise Tc3Error(
                        f"cannot save step {self.state.global_step} of a sharded model: {error}. Mend it (is "
                        "the disk of TMPDIR full?) and run 03_train again: it goes on from the last safe step."
                    ) from error
                self.save_error = error

        def _clip_grad_norm(self, model: Any) -> Any:
            if self.args.world_size > 1:
                self.step_loss = self.accelerator.reduce(self.step_loss, "mean")
            norm = super()._clip_grad_norm(model)
            # Each process has its share of a sharded model's: all ask here, since the main one alone writes it.
            self.step_grad_norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            return self.step_grad_norm

        def _loss(self, model: Any, part: Mapping[str, Any], labels: Any) -> Any:
            """Return the sum of a micro-batch's losses, divided by `labels`.

            Where there are several processes it is as many times that, so that their mean is the step's.
            """
            inputs = {name: part[name].to(self.args.device) for name in ("input_ids", "labels", "position_ids")}
            # The lengths stay on the host: unsloth reads them there, and a copy from the device would wait for it.
            inputs |= {"packed_seq_lengths": torch.tensor(part["lengths"], dtype=torch.int32), "use_cache": False}
            with self.compute_loss_context_manager():
                return Trainer.compute_loss(self, model, inputs, num_items_in_batch=labels)

        def _in_parts(self, batch: Mapping[str, Any], work: Callable[[Mapping[str, Any]], Any]) -> Any:
            """Return the sum of `work` over the micro-batches; halve them and begin again where memory runs out."""
            refused = 0
            while True:
                state = torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None
                part = batch  # until it is split
                learning = torch.is_grad_enabled()
                if self.graphs and learning:
                    self.graphs.begin()
                try:
                    total = 0.0
                    for part in split(batch, self.max_tokens):
                        with self._passing(part, learning) as passed:
                            total = total + work(passed)
                    return total
                except torch.OutOfMemoryError:
                    if self.graphs and self.graphs.on:
                        self.graphs.stop("the memory does not hold them beside the rows")
                        continue
                    tokens, rows = part["input_ids"].shape[1], len(part["lengths"]) - 1
                if rows == 1 and tokens == refused:  # the second time, with nothing else in the way
                    raise Tc3Error(
                        f"the card's memory does not hold one row of {tokens:,} tokens: set memory_gib lower than it "
                        "is, so that less is planned with, or a lower max_seq_length with resume_from_checkpoint=False."
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
                    f"out of memory with {tokens:,} tokens in a micro-batch, after step {self.state.global_step}: the "
                    f"same rows again, in micro-batches of at most {self.max_tokens:,} tokens from here on"
                )

        @contextmanager
        def _passing(self, part: Mapping[str, Any], learning: bool) -> Iterator[Mapping[str, Any]]:
            """Let a micro-batch pass through the model within, and yield it, padded if graphs are used."""
            if self.graphs and self.graphs.on and learning:
                with self.graphs.replayed(part) as padded:
                    yield padded
            else:
                with models.shared_prefix(self.model, part["lengths"], self.args.device):
                    yield part

    return StepTrainer
