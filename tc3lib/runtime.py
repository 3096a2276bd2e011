"""Where am I: the work folder, Google Drive, the GPU. The only module that imports google.colab."""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tc3lib.config import Config, nearest
from tc3lib.errors import Tc3Error, show_alone

REPOSITORY = Path(__file__).resolve().parents[1]
DRIVE = Path("/content/drive")
SOURCE = "trn.json"


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
            "trn_output.json", "trn_output.uid.jsonl", "prepare_report.json", "train.jsonl", "eval.jsonl", "demo.jsonl",
        ),
        gpu=False,
    ),
    "02_pretest": Stage(reads=("eval.jsonl", "demo.jsonl"), writes=("pretest.jsonl",), gpu=True),
    "03_train": Stage(
        reads=("train.jsonl", "eval.jsonl"),
        writes=("outputs/", "loss.jsonl", "loss.png", "lora_model/", "run.json"),
        gpu=True,
    ),
    "04_posttest": Stage(
        reads=("lora_model/", "run.json", "train.jsonl", "eval.jsonl", "demo.jsonl", "pretest.jsonl"),
        writes=("posttest.jsonl", "report.json"),
        gpu=True,
    ),
}  # fmt: skip


def setup(config: Config, stage: str | None = None) -> Path:
    """Return the run's work folder, ready to be written to, after checking what the stage needs.

    The folder is `$TC3_HOME` if that is set, `tc3` on the user's Google Drive in Colab, and `runs/<preset>` in the
    repository elsewhere. In Colab a folder on Drive is mounted first.

    Args:
        config: The run.
        stage: The notebook's name, for example `03_train`: checks that the stages before it have run and that there
            is a GPU if the preset needs one. None: neither.

    Raises:
        Tc3Error: The folder cannot be written, a file that the stage reads is missing, there is no GPU, or there is
            no such stage.
    """
    show_alone()
    if stage is not None and stage not in STAGES:
        raise Tc3Error(f"there is no stage {stage!r}. {nearest(stage, STAGES)}")
    work = _work_folder(config)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work):
            pass
    except OSError as error:
        raise Tc3Error(f"cannot write to the work folder {work}: {error.strerror}. Set TC3_HOME to another.") from None
    if stage is not None:
        if STAGES[stage].gpu and config.requires_gpu:
            _check_gpu(config)
        check_inputs(work, stage)
    print(f"preset {config.preset}, work folder {work}")
    return work


def catalogue(config: Config, work: Path) -> Path:
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


def _work_folder(config: Config) -> Path:
    chosen = os.environ.get("TC3_HOME", "").strip()
    work = Path(chosen) if chosen else DRIVE / "MyDrive" / "tc3" if in_colab() else REPOSITORY / "runs" / config.preset
    try:
        work = work.expanduser().absolute()
    except RuntimeError as error:
        raise Tc3Error(f"TC3_HOME={chosen!r}: {error}") from None
    if in_colab() and work.is_relative_to(DRIVE):
        from google.colab import drive

        drive.mount(str(DRIVE))
    return work


def _check_gpu(config: Config) -> None:
    import torch

    if not torch.cuda.is_available():
        advice = "in Colab choose Runtime > Change runtime type > L4 GPU" if in_colab() else "run it in Colab"
        raise Tc3Error(
            f"the preset {config.preset!r} needs an NVIDIA GPU and there is none: {advice}, or set TC3_PRESET=tiny for "
            "the small run on a CPU."
        )
