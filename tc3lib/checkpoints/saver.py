"""Save a run while it trains: when and where to, what is safe; and stop it after a save when that is asked for."""

import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback

from tc3lib.checkpoints import store
from tc3lib.checkpoints.run_record import check_work
from tc3lib.errors import Tc3Error
from tc3lib.files import read_json, write_json
from tc3lib.runtime import processes
from tc3lib.settings import Settings


class Stop:
    """Remembers that the process was asked to stop; the second time it stops at once.

    Attributes:
        signal: The signal's name, None while there was none.
    """

    signal: str | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
        with suppress(RuntimeError):  # the signal may come while something else is being printed
            tqdm.write("\nstopping after this step, which will be saved (once more: at once, without saving)")


@contextmanager
def stop_asked() -> Iterator[Stop]:
    """Catch SIGINT (Ctrl-C, a notebook's stop button) and SIGTERM within; outside the main thread neither."""
    stop, main = Stop(), threading.current_thread() is threading.main_thread()
    caught = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: signal.signal(number, stop) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Saver(TrainerCallback):
    """Commit each checkpoint to the work folder, and ask for one when time is up or the run is to stop.

    transformers saves a checkpoint to the local disk (`local`); it is sealed there, copied to the work folder, read
    back and committed (`store`). Where that fails training continues, the checkpoint stays on the local disk and is
    tried again at the next save, at the end, and when the run is started again on the same machine.

    The trainer logs before it saves, so that the `log_history` of a checkpoint is complete.

    Attributes:
        local: The trainer's `output_dir` while it trains.
        step: The step of the checkpoint that was resumed, 0 at a start.
        safe: The newest checkpoint known to be in the work folder; in the main process only.

    Args:
        trainer: Its `_save_checkpoint` is wrapped, so that a full local disk does not end training; an earlier
            Saver's callback is removed. The caller adds this one.
        work: The work folder.
        record: What the run is (`run.json`), with its identity in `run`; a copy goes into every checkpoint.
        config: Says how often to save and how many checkpoints to keep.
        stop: Whether the process was asked to stop.
    """

    RETRY_SECONDS = (2, 10)
    """Pauses before the last checkpoint is tried again at the end of training."""

    def __init__(self, trainer: Trainer, work: Path, record: dict[str, Any], config: Settings, stop: Stop):
        self.trainer, self.work, self.record, self.stop = trainer, work, record, stop
        self.run: str = record["run"]
        self.outputs = work / config.training.output_dir
        self.keep, self.minutes = config.training.save_total_limit, config.saving.save_minutes
        self.local = Path(tempfile.gettempdir()) / f"tc3-{self.run}"
        self.local.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.step = 0
        self.safe: Path | None = None
        self.damaged: list[Path] = []
        self.problem = ""
        self.save_error: str | None = None
        self.saved_at = time.monotonic()
        trainer.remove_callback(Saver)
        trainer._save_checkpoint = self._save_checkpoint

    @property
    def safe_step(self) -> int | None:
        """The step of `safe`."""
        return store.step(self.safe) if self.safe else None

    @property
    def pending(self) -> Path | None:
        """The newest checkpoint that is sealed and on the local disk alone."""
        return next(iter(store.committed(self.local)), None)

    def resume(self) -> Path | None:
        """Return a copy, on the local disk, of the newest checkpoint that is whole; None at a start.

        Prints which it is and why, and names those that are skipped. For the main process.

        Raises:
            Tc3Error: There were checkpoints, and none is whole; or the folder cannot be read.
        """
        try:
            return self._newest()
        except OSError as error:
            raise Tc3Error(
                f"cannot read the checkpoints in {self.outputs}: {error}. Mount or fix the folder and try again."
            ) from None

    def resumed(self) -> Path | None:
        """Return, in any process, what `resume` returned in the main one.

        Raises:
            Tc3Error: A process does not find it, as on another host.
        """
        target = self.local / "resume"
        found = target if target.exists() else None
        self.step = read_json(target / "trainer_state.json")["global_step"] if found else 0
        if len(set(processes.gather(self.step))) > 1:
            raise Tc3Error(
                f"not every process finds the checkpoint in {target}: set TMPDIR to a folder that all hosts share."
            )
        return found

    def on_step_end(self, args, state, control, **kwargs):
        due = self.minutes is not None and time.monotonic() - self.saved_at >= 60 * self.minutes
        asked = self.stop.signal  # read once: it may change at any moment
        if processes.count() > 1:
            due, asked = self._agree(due, asked)
        if asked:
            self.stop.signal, control.should_training_stop = asked, True
        control.should_save |= due or bool(asked)
        control.should_log |= control.should_save
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save
        return control

    def on_save(self, args, state, control, **kwargs):
        self.saved_at = time.monotonic()
        errors = [*filter(None, processes.gather(self.save_error))]  # also waits until every process has saved its part
        if not state.is_world_process_zero:
            return
        folder = self.local / f"checkpoint-{state.global_step}"
        try:
            if errors:
                raise OSError(errors[0])
            write_json(folder / "run.json", self.record)
            held_out = [row.get("eval_loss") for row in state.log_history if row["step"] == state.global_step]
            store.seal(folder, self.run, state.global_step, next((loss for loss in held_out if loss is not None), None))
        except (OSError, store.Damaged, Tc3Error) as error:
            _remove(folder)
            self._fail(state.global_step, f"it could not be saved to this machine's disk ({error})")
        else:
            self._commit(folder)

    def finish(self) -> None:
        """Try again what is not in the work folder yet."""
        for seconds in self.RETRY_SECONDS:
            if self.pending is None:
                break
            time.sleep(seconds)
            self._commit(self.pending)

    def report(self) -> None:
        """Print what is safe: the last line of a run."""
        safe = f"step {self.safe_step} is in {self.safe}" if self.safe else "no step is saved"
        if not self.problem:
            tqdm.write(f"safe to disconnect: {safe}" if self.safe else safe)
            _remove(self.local)
            return
        newest = f"; step {store.step(self.pending)} is only in {self.pending}" if self.pending else ""
        tqdm.write(
            f"NOT safe to disconnect: {safe}{newest} ({self.problem}). Run this again on this machine to try again."
        )

    def _newest(self) -> Path | None:
        saved = store.journal(self.outputs) or []
        self._adopt()
        target = self.local / "resume"
        _remove(target)
        for folder in store.checkpoints(self.outputs):
            if folder.name not in saved and not (folder / store.MANIFEST).exists():
                tqdm.write(f"{folder} is ignored: it was not saved by this library")
                continue
            try:
                manifest = store.restore(folder, target, self.run)
            except store.Damaged as error:
                tqdm.write(f"{folder.name} in {self.outputs} is skipped: {error}")
                self.damaged.append(folder)
                continue
            after = f", after {len(self.damaged)} damaged" if self.damaged else ""
            tqdm.write(f"continuing after step {manifest.step}: {folder} is the newest checkpoint that is whole{after}")
            self.safe, self.step = folder, manifest.step
            self._rotate()  # a kill may have come between the last commit and its rotation
            return target
        if saved or self.damaged:
            lost = "; ".join(sorted({*saved, *(folder.name for folder in self.damaged)}))
            raise Tc3Error(
                f"none of the checkpoints that were saved in {self.outputs} is there and whole ({lost}). If they are "
                "only unavailable for now, bring them back. To start anew, set resume_from_checkpoint=False: what is "
                f"in {self.work} moves to a folder of its own."
            )
        return None

    def _adopt(self) -> None:
        """Commit what an earlier process of this run could save to the local disk only; remove unfinished saves."""
        reached = -1
        for folder in store.checkpoints(self.outputs):
            with suppress(store.Damaged):
                reached = max(reached, store.read_manifest(folder, self.run).step)
        for folder in store.checkpoints(self.local):
            try:
                newer = store.read_manifest(folder, self.run).step > reached
            except store.Damaged:
                newer = False
            if not newer:
                _remove(folder)
        if self.pending:
            self._commit(self.pending)

    def _agree(self, due: bool, asked: str | None) -> tuple[bool, str | None]:
        """Return, alike in all processes, whether any has a save due or was asked to stop, and the signal if so."""
        accelerator = self.trainer.accelerator
        if due or asked:
            accelerator.set_trigger()
        if not accelerator.check_trigger():
            return False, None
        return True, next(filter(None, processes.gather(asked)), None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save to the local disk as the trainer's class does; what fails is left to `on_save`."""
        self.save_error = None
        try:
            type(self.trainer)._save_checkpoint(self.trainer, model, trial)
        except Exception as error:  # several libraries write, and each has its own exception for a full disk
            self.save_error = str(error)

    def _commit(self, folder: Path) -> None:
        """Bring the newest checkpoint of the local disk to the work folder; print it if that fails."""
        step = store.step(folder)
        try:
            check_work(self.work, self.run)
            self.safe = store.commit(folder, self.outputs)
        except (OSError, store.Damaged, Tc3Error) as error:
            self._fail(step, str(error))
            return
        if self.problem:
            tqdm.write(f"{self.outputs} can be written again: step {step} is safe")
        self.problem = ""
        for done in store.checkpoints(self.local):
            _remove(done)
        self._rotate()

    def _rotate(self) -> None:
        try:
            store.rotate(self.outputs, self.keep, self.run, self.damaged)
        except OSError as error:
            tqdm.write(f"old checkpoints in {self.outputs} could not be removed: {error.strerror}")

    def _fail(self, step: int, problem: str) -> None:
        self.problem = problem
        safe = f"step {self.safe_step} is, in {self.safe}" if self.safe else "nothing is yet"
        tqdm.write(
            f"WARNING: step {step} is NOT safe in {self.outputs}: {problem}. Training goes on and tries again; {safe}."
        )
        for folder in store.checkpoints(self.local)[1:]:  # the newest is enough
            _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
