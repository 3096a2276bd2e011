"""Save a run while it trains: when, where to, what is safe; and end it well when it is told to stop."""

import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from tc3lib import files
from tc3lib.checkpoints import store
from tc3lib.errors import Tc3Error
from tc3lib.runtime import processes
from transformers import TrainerCallback
from tqdm.auto import tqdm

say = tqdm.write

LOSSES, RECORD = "losses.json", "run.json"
"""What a checkpoint holds besides what transformers saves: the loss history, and what the run is."""


class Stop:
    """Remembers that the process was told to stop; the second time it stops at once.

    Attributes:
        signal: The signal's name, None while there was none.
    """

    signal: str | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
        with suppress(RuntimeError):  # the signal may come while something else is being printed
            step = "this step" if processes.count() == 1 else "this step or the next"
            print(f"\nstopping after {step}, which will be saved (once more: at once, without saving)", flush=True)


@contextmanager
def stop_asked() -> Iterator[Stop]:
    """Catch SIGINT (Ctrl-C, a notebook's stop button) and SIGTERM within; outside of the main thread neither."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Saver(TrainerCallback):
    """A trainer callback that commits each checkpoint to the work folder, and has one made when time is up.

    transformers writes a checkpoint to the machine's own disk; it is sealed there, copied to the work folder, read back
    and committed (`store`). Where that fails training goes on, the checkpoint stays on the machine and is tried again
    at the next save, at the end, and when the run is started again on the same machine. It answers every event of
    `transformers.TrainerCallback`.

    Args:
        trainer: Of `trainer_class`, with its `LossLogger`.
        losses: That logger.
        work: The work folder.
        outputs: The checkpoints' folder in it.
        record: What the run is: `run.json`, with its identity in `run`.
        keep: Checkpoints to keep besides the one of the lowest held-out loss. None: all.
        minutes: Most time between two saves. None: no matter.
        stop: Whether the process was told to stop.
    """

    RETRY_SECONDS = (2, 10)
    """Pauses before the last checkpoint is tried again at the end of training."""

    def __init__(self, trainer, work, record, config, stop):
        self.trainer, self.work, self.outputs = trainer, work, work / config.training.output_dir
        self.record, self.keep, self.minutes, self.stop = (
            record,
            config.training.save_total_limit,
            config.saving.save_minutes,
            stop,
        )
        self.run = record["run"]
        self.local = local_folder(self.run)
        self.local.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.saved_at = time.monotonic()
        self.evaluated: tuple[int, float] | None = None
        self.safe: Path | None = None
        self.step = 0
        self.pending: Path | None = None
        self.problem = ""
        self.damaged: list[Path] = []
        self.trainer.save_error = None

    @property
    def safe_step(self):
        return store.step(self.safe) if self.safe else None

    def resume(self) -> Path | None:
        """Return a copy, on the machine's own disk, of the newest checkpoint that is whole; None at a start.

        Says which it is and why, and names those that are passed over.

        Raises:
            Tc3Error: There were checkpoints, and none is whole.
        """
        saved = []
        store.sweep(self.outputs, saved)
        self._adopt()
        target = self.local / "resume"
        _remove(target)
        for folder in store.checkpoints(self.outputs):
            if folder.name not in saved and folder not in store.committed(self.outputs):
                print(f"{folder} is left alone: it was not saved here")
                continue
            try:
                manifest = store.restore(folder, target, self.run)
            except store.Damaged as error:
                print(f"{folder.name} in {self.outputs} is passed over: {error}")
                self.damaged.append(folder)
                continue
            passed = f", after {len(self.damaged)} damaged" if self.damaged else ""
            print(f"continuing after step {manifest.step}: {folder} is the newest checkpoint that is whole{passed}")
            self.safe, self.step = folder, manifest.step
            self._rotate()  # a kill may have come between the last commit and this
            return target
        if saved or self.damaged:
            lost = "; ".join(sorted(set(saved) | {folder.name for folder in self.damaged}))
            raise Tc3Error(
                f"none of the checkpoints that were saved in {self.outputs} is there and whole ({lost}). If they are "
                "only away for now, bring them back. To start anew, set resume_from_checkpoint=False: what is in "
                f"{self.work} moves to a folder of its own."
            )
        return None

    def resumed(self) -> Path | None:
        """Return, in any process, what `resume` returned in the main one.

        Raises:
            Tc3Error: A process does not find it, as on another host.
        """
        target = self.local / "resume"
        found = target if target.exists() else None
        self.step = files.read_json(target / "trainer_state.json")["global_step"] if found else 0
        if len(set(processes.gather(self.step))) > 1:
            raise Tc3Error(
                f"not every process finds what the main one has put into {target}: set TMPDIR to a folder that all "
                "hosts share."
            )
        return found

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved_at = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "eval_loss" in logs:
            self.evaluated = state.global_step, float(logs["eval_loss"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        due = bool(self.minutes) and time.monotonic() - self.saved_at >= 60 * self.minutes
        told = self.stop.signal  # looked at once: it may come at any moment
        save = due or told
        if told:
            self.stop.signal, control.should_training_stop = told, True
        control.should_save |= bool(save)
        control.should_log |= control.should_save
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved_at = time.monotonic()
        self.trainer.accelerator.wait_for_everyone()  # each process wrote the state of its random numbers
        if not state.is_world_process_zero:
            return
        folder = self.local / f"checkpoint-{state.global_step}"
        loss = self.evaluated[1] if self.evaluated and self.evaluated[0] == state.global_step else None
        try:
            if self.trainer.save_error is not None:
                raise self.trainer.save_error
            files.write_json(folder / RECORD, self.record)
            store.seal(folder, self.run, state.global_step, loss)
        except Exception as error:  # whatever the writers of several libraries raise on a full disk
            _remove(folder)
            self.pending = None if self.pending == folder else self.pending
            self._fail(state.global_step, f"this machine's disk does not take it ({error})")
        else:
            self.pending = folder
            self._commit()

    def finish(self) -> None:
        """Try again what is not in the work folder yet."""
        for seconds in self.RETRY_SECONDS:
            if self.pending is None:
                break
            time.sleep(seconds)
            self._commit()

    def report(self) -> None:
        """Print what is safe: the last word on a run."""
        safe = f"step {store.step(self.safe)} is in {self.safe}" if self.safe else "no step is saved"
        if not self.problem:
            print(f"safe to disconnect: {safe}" if self.safe else safe)
            _remove(self.local)
            return
        newest = f"; step {store.step(self.pending)} is only in {self.pending}" if self.pending else ""
        print(f"NOT safe to disconnect: {safe}{newest} ({self.problem}). Run this again on this machine to try again.")

    def _commit(self) -> bool:
        """Bring the newest checkpoint of this machine to the work folder; say so if that fails."""
        step = store.step(self.pending)
        try:
            check_work(self.work, self.run)
            self.safe = store.commit(self.pending, self.outputs)
        except (OSError, store.Damaged, Tc3Error) as error:
            self._fail(step, str(error))
            return False
        if self.problem:
            say(f"{self.outputs} can be written again: step {step} is safe")
        self.problem, self.pending = "", None
        for folder in store.checkpoints(self.local):
            _remove(folder)
        self._rotate()
        return True

    def _rotate(self) -> None:
        try:
            store.rotate(self.outputs, self.keep, self.run, self.damaged)
        except OSError as error:
            say(f"old checkpoints in {self.outputs} could not be removed: {error.strerror}")

    def _fail(self, step: int, problem: str) -> None:
        self.problem = problem
        safe = f"step {store.step(self.safe)} is, in {self.safe}" if self.safe else "nothing is yet"
        say(f"WARNING: step {step} is NOT safe in {self.outputs}: {problem}. Training goes on and tries again; {safe}.")
        for folder in store.checkpoints(self.local)[1:]:  # the newest is enough
            _remove(folder)

    def _adopt(self) -> None:
        """Commit what an earlier process of this run could only save on this machine; clear what it left half done."""
        reached = -1
        for folder in store.checkpoints(self.outputs):
            with suppress(store.Damaged):
                reached = max(reached, store.read_manifest(folder, self.run).step)
        for folder in store.checkpoints(self.local):
            try:
                whole = store.read_manifest(folder, self.run).step > reached
            except store.Damaged:
                whole = False
            if whole and self.pending is None:
                self.pending = folder
                self._commit()
            elif folder != self.pending:
                _remove(folder)


def local_folder(run: str) -> Path:
    """Return where a run keeps on this machine's own disk what is not committed yet; the same in every process."""
    return Path(tempfile.gettempdir()) / f"tc3-{run}"


def check_work(work: Path, run: str) -> None:
    """Raise Tc3Error unless the work folder is the run's: not an empty folder where a lost mount had been."""
    if files.read_json(work / RECORD).get("run") != run:
        raise Tc3Error(f"{work} is not the folder that the run began in: run.json is away or another run's")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
