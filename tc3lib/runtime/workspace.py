"""The work folder of a run, and what each notebook reads there and writes to it."""

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tc3lib.errors import Tc3Error, show_alone
from tc3lib.files import ADVICE, read_json
from tc3lib.runtime import drive, kept_settings, preflight, processes
from tc3lib.settings import Settings, get, nearest, runs


@dataclass(frozen=True)
class Stage:
    """What a notebook reads and writes in the work folder (folders end in a slash); `gpu`: the 8B model needs one."""

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
            kept_settings.NAME,
        ),
        gpu=False,
    ),
    "02_pretest": Stage(
        reads=("questions.jsonl", "train.jsonl", "settings.json"),
        writes=("pretest.jsonl", "pretest.made_by.json"),
    ),
    "03_train": Stage(
        reads=("train.jsonl", "eval.jsonl", "settings.json"),
        writes=("outputs/", "loss.jsonl", "loss.png", "lora_model/", "run.json"),
    ),
    "04_posttest": Stage(
        reads=(
            "lora_model/",
            "run.json",
            "train.jsonl",
            "eval.jsonl",
            "questions.jsonl",
            "pretest.jsonl",
            "pretest.made_by.json",
            "settings.json",
        ),
        writes=("posttest.jsonl", "posttest.made_by.json", "report.json", "report.html"),
    ),
    "05_export": Stage(
        reads=("lora_model/", "run.json", "train.jsonl", "eval.jsonl", "questions.jsonl", "settings.json"),
        writes=("export/", "export.json"),
        gpu=False,
    ),
}


def setup(stage: str, preset: str | None = None, /, **changes: Any) -> tuple[Settings, Path]:
    """Return the settings of a run and its work folder, after checking what the stage needs and printing it.

    The folder is `$TC3_HOME` if that is set, and `tc3` on the user's Google Drive in Colab (which is mounted first).
    Else it is in `runs/`: notebook 01 takes the folder with the preset's name, the others the newest run.

    Settings are the preset's, then those in `settings.json`, then `changes`, which are saved there.

    Args:
        stage: The notebook's name, for example `03_train`.
        preset: The form field of notebook 01. TC3_PRESET, or the preset in `settings.json`, comes before it.
        **changes: Settings by name, for example `max_steps=120`.

    Raises:
        Tc3Error: The first thing that is wrong or missing, and what to do.
    """
    _begin()
    if stage not in STAGES:
        raise Tc3Error(f"there is no stage {stage!r}. {nearest(stage, STAGES)}")
    if preset is not None:
        get(preset)
    gpu, in_colab = STAGES[stage].gpu, drive.in_colab()
    rows = preflight.software(loads=stage != "01_prepare", in_colab=in_colab)
    preflight.refuse(rows)  # before the user is asked for Drive
    work = _open_work_folder(preset)
    check_inputs(work, stage)
    if stage != "01_prepare":
        kept_settings.refuse_other_preset(work)
    config = kept_settings.load(work, preset)
    if preset and preset != config.preset:
        print(kept_settings.instead_of(preset, config, work))
    wanted = config.change(**changes)
    rows += preflight.machine(wanted, gpu=gpu, in_colab=in_colab)
    rows += preflight.places(wanted, work, stage, gpu=gpu, on_drive=drive.holds(work), in_colab=in_colab)
    preflight.refuse(rows)  # before anything is kept
    config = kept_settings.change(config, work, changes)
    if stage != "01_prepare":
        rows += preflight.prepared(config, work)
        preflight.refuse(rows)  # it is kept: 01 is to run with it
    print(preflight.table(rows))
    print(kept_settings.describe(config, work))
    return config, work


def reopen(folder: Path | None = None) -> tuple[Settings, Path]:
    """Return the kept settings and the work folder of a run: `folder`, or the one that notebooks 02 to 04 would take.

    The preset is the run's own: TC3_PRESET counts only where nothing names one.

    Raises:
        Tc3Error: It cannot be written to, or its `settings.json` is wrong.
    """
    _begin()
    work = _open_work_folder(None, folder)
    recorded = read_json(work / "run.json").get("preset")
    config = kept_settings.load(work, recorded or kept_settings.chosen_preset() or "llama3_8b", override=False)
    print(kept_settings.describe(config, work))
    return config, work


def _begin() -> None:
    show_alone()
    processes.silence()
    processes.refuse_sharding()


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
            error = (read_json(work / "run.json").get("result") or {}).get("error") if writer == "03_train" else None
            ended = f" It ended without it: {error}" if error else ""
            raise Tc3Error(f"{stage} needs {name}, which is not in {work}: run {writer} first.{ended}")


def _open_work_folder(preset: str | None, folder: Path | None = None) -> Path:
    chosen = str(folder or os.environ.get("TC3_HOME", "").strip())
    if chosen:
        work = Path(chosen)
    elif drive.in_colab():
        work = drive.MOUNT / "MyDrive" / "tc3"
    elif name := kept_settings.chosen_preset() or preset:
        work = runs() / name
    else:
        work = _newest()
    try:
        work = work.expanduser().absolute()
    except RuntimeError as error:
        raise Tc3Error(f"TC3_HOME={chosen!r}: {error}") from None
    if drive.holds(work):
        drive.mount()
    _check_write(work)
    return work


def _newest() -> Path:
    """Return the run whose settings were written last."""
    kept = [(path.stat().st_mtime_ns, path) for path in runs().glob(f"*/{kept_settings.NAME}")]
    if not kept:
        raise Tc3Error(f"there is no run in {runs()}: run 01_prepare first, or set TC3_HOME to its work folder.")
    work = max(kept)[1].parent
    print(f"the newest run is {work.name}; TC3_HOME chooses another folder")
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
    except FileExistsError:
        raise Tc3Error(f"{work} is a file, or a link to nothing, not a folder: set TC3_HOME to one.") from None
    except OSError as error:
        advice = ADVICE.get(error.errno, "Make it writable")
        raise Tc3Error(
            f"cannot write to the work folder {work}: {error.strerror or error}. {advice}, or set TC3_HOME to another "
            "folder."
        ) from None
    finally:
        with suppress(OSError):
            os.truncate(path, 0)  # what is deleted on Drive stays in its bin, and counts
        with suppress(OSError):
            path.unlink()
