"""Where am I: the work folder, Google Drive, secrets. The only module that imports google.colab."""

import errno
import os
import secrets
import sys
import textwrap
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tc3lib.errors import Tc3Error, show_alone
from tc3lib.runtime import preflight, processes
from tc3lib.settings import Settings, nearest

REPOSITORY = Path(__file__).resolve().parents[2]
DRIVE = Path("/content/drive")
SOURCE = "trn.json"

_RESTART = "choose Runtime > Restart session and run the notebook again"
_ELSEWHERE = "set TC3_HOME to a folder outside Drive, which goes when the session ends"
_MOUNT_ADVICE = {
    "symlink": f"An empty folder is wanted there, or none: remove the link with `!rm {DRIVE}`, run this cell again",
    "either be a directory": f"Move that file away with `!mv {DRIVE} {DRIVE}-kept`, and run this cell again",
    "timeout": "Run this cell again. If that does not help, move files from the top of your Drive into folders",
    "unsupported": f"Open the notebook in Colab itself, or {_ELSEWHERE}",
    "": f"Run this cell again and allow all that it asks, with the account of this notebook, or {_ELSEWHERE}",
}
_WRITE_ADVICE = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space there (Drive counts its bin too)")
_WRITE_ADVICE |= dict.fromkeys((errno.EIO, errno.ENOTCONN), f"if it is on Drive, {_RESTART}")


@dataclass(frozen=True)
class Stage:
    """What a notebook needs and leaves in the work folder; folders end in a slash."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    gpu: bool


STAGES = {
    "01_prepare": Stage(
        reads=(),
        writes=(
            "trn_output.json", "trn_output.uid.jsonl", "prepare_report.json", "train.jsonl", "eval.jsonl",
            "questions.jsonl",
        ),
        gpu=False,
    ),
    "02_pretest": Stage(reads=("questions.jsonl", "train.jsonl"), writes=("pretest.jsonl",), gpu=True),
    "03_train": Stage(
        reads=("train.jsonl", "eval.jsonl"),
        writes=("outputs/", "loss.jsonl", "loss.png", "lora_model/", "run.json"),
        gpu=True,
    ),
    "04_posttest": Stage(
        reads=("lora_model/", "run.json", "train.jsonl", "eval.jsonl", "questions.jsonl", "pretest.jsonl"),
        writes=("posttest.jsonl", "report.json", "report.html"),
        gpu=True,
    ),
}  # fmt: skip


def setup(config: Settings, stage: str | None = None) -> Path:
    """Return the run's work folder, ready to be written to, after checking what the stage needs.

    The folder is `$TC3_HOME` if that is set, `tc3` on the user's Google Drive in Colab, and `runs/<preset>` in the
    repository elsewhere. In Colab a folder on Drive is mounted first. With a stage, what it finds on the machine is
    shown as a table: versions, GPU, memory, disk, token, each with a tick or a line of advice.

    Args:
        config: The run.
        stage: The notebook's name, for example `03_train`: shows the table, and checks that the stages before it have
            run, that there is a GPU if the preset needs one, and that there is space to train. None: none of these.

    Raises:
        Tc3Error: Drive cannot be mounted, the folder does not give back what is written to it or has too little
            space, a file that the stage reads is missing, there is no GPU or a package is missing without which no
            model is loaded, or there is no such stage.
    """
    show_alone()
    processes.hush()
    if stage is not None and stage not in STAGES:
        raise Tc3Error(f"there is no stage {stage!r}. {nearest(stage, STAGES)}")
    rows, model = [], stage is not None and STAGES[stage].gpu
    if stage is not None:
        token = _token(config.model.model_name) if model else ""
        rows = preflight.machine(config, model=model, in_colab=in_colab(), token=token)
        preflight.refuse(rows)  # before the user is asked for Drive
    work = _work_folder(config)
    on_drive = _on_drive(work)
    if on_drive:
        _mount()
    _check_write(work)
    if stage is not None:
        rows += preflight.places(config, work, stage=stage, model=model, on_drive=on_drive, in_colab=in_colab())
        preflight.refuse(rows)
        check_inputs(work, stage)
        print(preflight.table(rows))
    print(f"preset {config.preset}, work folder {work}")
    return work


def finish(work: Path) -> None:
    """Wait until Google Drive has all that was written to a work folder on it, and unmount it. Say where it is.

    Args:
        work: What `setup` returned.

    Raises:
        Tc3Error: Drive may lack some of it.
    """
    if not _on_drive(work):
        print(f"the results are in {work}")
        return
    from google.colab import drive

    mounted, problem = os.path.ismount(DRIVE), os.strerror(errno.ENOTCONN) if _is_stale() else ""
    try:
        drive.flush_and_unmount()
    except Exception as error:
        problem = _reason(error)
    if problem:
        raise Tc3Error(
            f"Google Drive may lack some of what was written to {work} ({problem}): do not disconnect. Look at "
            "drive.google.com which of the newest files are there whole and whether there is space left, then run the "
            "settings cell and this one again."
        )
    if not os.path.ismount(DRIVE) and _files_left():
        raise Tc3Error(_shadow())
    state = "Drive has everything: safe to disconnect" if mounted else "Drive is not mounted: there is nothing to send"
    print(f"{state}. The settings cell mounts it again.")


def catalogue(config: Settings, work: Path) -> Path:
    """Return the catalogue to read: `source` in the work folder, `source` with `.gz` or `.zip`, else the preset's own.

    Raises:
        Tc3Error: There is none, or it has the name of a file that 01_prepare writes.
    """
    name = config.data.source
    path = work / Path(name).expanduser()
    candidates = [path, path.with_name(f"{path.name}.gz"), path.with_name(f"{path.name}.zip")]
    if config.data.fallback_source and name == SOURCE:
        candidates.append(Path(config.data.fallback_source))
    found = next((candidate for candidate in candidates if candidate.exists()), None)
    if found is None:
        raise Tc3Error(
            f"no {path.name} in {path.parent}: put your catalogue there (JSON Lines with `title` and `content`; `.gz` "
            "or `.zip` will do), or give its path as the setting `source`. TC3_PRESET=tiny runs on the embedded one."
        )
    written = (*STAGES["01_prepare"].writes, "quarantine.jsonl")
    if found.parent.resolve() == work.resolve() and found.name in written:
        raise Tc3Error(f"01_prepare would overwrite the catalogue {found}: rename the file, and set source.")
    print(f"catalogue {found}")
    return found


def check_inputs(work: Path, stage: str) -> None:
    """Raise Tc3Error if a file that the stage reads is missing, and name the notebook that writes it."""
    for name in STAGES[stage].reads:
        if not (work / name).exists():
            writer = next(other for other in STAGES if name in STAGES[other].writes)
            raise Tc3Error(f"{stage} needs {name}, which is not in {work}: run {writer} first.")


def in_colab() -> bool:
    """Tell whether this is a Colab kernel, which has google.colab loaded before the first cell runs."""
    return "google.colab" in sys.modules


def _work_folder(config: Settings) -> Path:
    chosen = os.environ.get("TC3_HOME", "").strip()
    work = Path(chosen) if chosen else DRIVE / "MyDrive" / "tc3" if in_colab() else REPOSITORY / "runs" / config.preset
    try:
        return work.expanduser().absolute()
    except RuntimeError as error:
        raise Tc3Error(f"TC3_HOME={chosen!r}: {error}") from None


def _token(name: str) -> str:
    """Return where huggingface_hub will find a token for the model, "" if nowhere. The token itself goes nowhere."""
    if os.environ.get("HF_TOKEN", "").strip():
        return "HF_TOKEN"
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    if Path(os.environ.get("HF_TOKEN_PATH") or Path(home, "token")).expanduser().is_file():
        return "what `hf auth login` saved"
    if not in_colab() or not name.startswith(preflight.GATED):  # Colab asks the user before it gives a secret
        return ""
    from google.colab import errors, userdata

    try:
        return "Colab's secrets" if userdata.get("HF_TOKEN").strip() else ""
    except (errors.Error, userdata.NotebookAccessError):
        return ""


def _on_drive(work: Path) -> bool:
    """Tell whether the folder is on Drive, perhaps behind a link."""
    return in_colab() and (work.is_relative_to(DRIVE) or work.resolve().is_relative_to(DRIVE))


def _mount() -> None:
    """Mount Drive and make sure that it is there: neither a local folder in its place nor a mount that has died."""
    from google.colab import drive

    try:
        drive.mount(str(DRIVE), force_remount=_is_stale())
    except Exception as error:
        reason = _reason(error)
        if "already contain files" in reason:
            raise Tc3Error(_shadow()) from None
        advice = next(text for word, text in _MOUNT_ADVICE.items() if word in reason.lower())
        raise Tc3Error(f"cannot mount Google Drive at {DRIVE}: {reason}. {advice}.") from None
    if _is_stale():
        raise Tc3Error(f"Google Drive, mounted anew at {DRIVE}, does not answer: {_RESTART}, or {_ELSEWHERE}.")
    if not os.path.ismount(DRIVE):
        raise Tc3Error(_shadow())
    if not (DRIVE / "MyDrive").is_dir():
        raise Tc3Error(f"Google Drive is mounted at {DRIVE} but there is no MyDrive in it: {_RESTART}.")


def _is_stale() -> bool:
    """Tell whether Drive is still mounted but its process has died."""
    try:
        os.stat(DRIVE)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def _files_left() -> list[str]:
    """Return the paths, below the mount point, of the files that lie there although Drive is not mounted."""
    return sorted(str(Path(folder, name).relative_to(DRIVE)) for folder, _, names in os.walk(DRIVE) for name in names)


def _shadow() -> str:
    """Say that Drive is not mounted and what stands in its place."""
    left = _files_left() or (sorted(os.listdir(DRIVE)) if DRIVE.is_dir() else [])
    if not left:
        return f"Google Drive is not mounted at {DRIVE} although it was asked to: {_RESTART}."
    return (
        f"Google Drive is not mounted: {DRIVE} must be empty for that and holds {', '.join(left[:3])} ({len(left)} in "
        "all), written while Drive was away. That is on this machine only: move it with "
        f"`!mv {DRIVE} {DRIVE}-kept`, {_RESTART}, then copy to Drive what you need of it."
    )


def _reason(error: Exception) -> str:
    """Return an error of google.colab as one short line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200).rstrip(":. ")


def _check_write(work: Path) -> None:
    """Raise Tc3Error unless `work` can be made and gives back what is written to it; leave nothing there."""
    path = work / f".tc3-{secrets.token_hex(8)}"
    content = os.urandom(4096)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.read_bytes() != content:
            raise OSError(errno.EIO, "what is read back is not what was written")
    except OSError as error:
        advice = _WRITE_ADVICE.get(error.errno, "make it one")
        raise Tc3Error(
            f"cannot write to the work folder {work}: {error.strerror or error}. A folder that keeps what is written "
            f"is wanted: {advice}, or set TC3_HOME to another."
        ) from None
    finally:
        with suppress(OSError):
            os.truncate(path, 0)  # what is deleted on Drive stays in its bin, and counts
        with suppress(OSError):
            path.unlink()
