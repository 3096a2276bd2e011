"""The work folder of a run, and what each notebook reads there and writes to it."""

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tc3lib.errors import Tc3Error, show_alone
from tc3lib.runtime import drive, preflight, processes
from tc3lib.settings import ROOT, Settings, nearest

_SPACE = "Free some space there (Drive counts its bin too)"
_RESTART = "If it is on Drive, choose Runtime > Restart session and run the notebook again"
_ADVICE = {errno.ENOSPC: _SPACE, errno.EDQUOT: _SPACE, errno.EIO: _RESTART, errno.ENOTCONN: _RESTART}


@dataclass(frozen=True)
class Stage:
    """What a notebook reads and writes in the work folder (folders end in a slash); `gpu`: it loads a model."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    gpu: bool = True


STAGES = {
    "01_prepare": Stage(
        reads=(),
        writes=(
            "trn_output.json",
            "trn_output.uid.jsonl",
            "prepare_report.json",
            "train.jsonl",
            "eval.jsonl",
            "questions.jsonl",
        ),
        gpu=False,
    ),
    "02_pretest": Stage(reads=("questions.jsonl", "train.jsonl"), writes=("pretest.jsonl",)),
    "03_train": Stage(
        reads=("train.jsonl", "eval.jsonl"),
        writes=("outputs/", "loss.jsonl", "loss.png", "lora_model/", "run.json"),
    ),
    "04_posttest": Stage(
        reads=("lora_model/", "run.json", "train.jsonl", "eval.jsonl", "questions.jsonl", "pretest.jsonl"),
        writes=("posttest.jsonl", "report.json", "report.html"),
    ),
    "05_export": Stage(
        reads=("lora_model/", "run.json", "train.jsonl", "eval.jsonl", "questions.jsonl"),
        writes=("export/", "export.json"),
    ),
}


def setup(config: Settings, stage: str | None = None) -> Path:
    """Return the run's work folder, ready to be written to, after checking what the stage needs.

    The folder is `$TC3_HOME` if that is set, `tc3` on the user's Google Drive in Colab (which is mounted first), and
    else `runs/<preset>` in the checkout, or in the current folder if the library was installed without one.

    Args:
        config: The run.
        stage: The notebook's name, for example `03_train`: prints a table of what it finds on the machine, and checks
            what it needs there and that the notebooks before it have run. None: only the work folder.

    Raises:
        Tc3Error: The first thing that is missing, and what to do.
    """
    show_alone()
    processes.silence()
    processes.refuse_sharding()
    if stage is None:
        work = _open_work_folder(config)
    elif stage not in STAGES:
        raise Tc3Error(f"there is no stage {stage!r}. {nearest(stage, STAGES)}")
    else:
        gpu, in_colab = STAGES[stage].gpu, drive.in_colab()
        rows = preflight.machine(config, gpu=gpu, in_colab=in_colab)
        preflight.refuse(rows)  # before the user is asked for Drive
        work = _open_work_folder(config)
        rows += preflight.places(config, work, stage, gpu=gpu, on_drive=drive.holds(work), in_colab=in_colab)
        preflight.refuse(rows)
        check_inputs(work, stage)
        print(preflight.table(rows))
    print(f"preset {config.preset}, work folder {work}")
    return work


def finish(work: Path) -> None:
    """Print where the results are. On Google Drive wait until it has them all, and unmount it.

    Raises:
        Tc3Error: Drive may lack some of them.
    """
    if drive.holds(work):
        print(f"{drive.flush(work)}. The settings cell mounts it again.")
    else:
        print(f"the results are in {work}")


def check_inputs(work: Path, stage: str) -> None:
    """Raise Tc3Error if a file that the stage reads is missing, and name the notebook that writes it."""
    for name in STAGES[stage].reads:
        if not (work / name).exists():
            writer = next(other for other in STAGES if name in STAGES[other].writes)
            raise Tc3Error(f"{stage} needs {name}, which is not in {work}: run {writer} first.")


def _open_work_folder(config: Settings) -> Path:
    chosen = os.environ.get("TC3_HOME", "").strip()
    if chosen:
        work = Path(chosen)
    elif drive.in_colab():
        work = drive.MOUNT / "MyDrive" / "tc3"
    else:
        home = ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()
        work = home / "runs" / config.preset
    try:
        work = work.expanduser().absolute()
    except RuntimeError as error:
        raise Tc3Error(f"TC3_HOME={chosen!r}: {error}") from None
    if drive.holds(work):
        drive.mount()
    _check_write(work)
    return work


def _check_write(work: Path) -> None:
    """Raise Tc3Error unless `work` can be made and gives back what is written to it; leave nothing there."""
    path = work / f".tc3-{os.urandom(8).hex()}"
    content = os.urandom(4096)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.read_bytes() != content:
            raise OSError(errno.EIO, "reading back gave other bytes than were written")
    except OSError as error:
        advice = _ADVICE.get(error.errno, "Make it writable")
        raise Tc3Error(
            f"cannot write to the work folder {work}: {error.strerror or error}. {advice}, or set TC3_HOME to another "
            "folder."
        ) from None
    finally:
        with suppress(OSError):
            os.truncate(path, 0)  # what is deleted on Drive stays in its bin, and counts
        with suppress(OSError):
            path.unlink()
