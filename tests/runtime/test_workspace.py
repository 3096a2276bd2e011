"""The work folder: where it is, that it keeps what is written, and what a stage needs there."""

import errno
import os
import shutil

import pytest

from tc3lib import runtime, settings
from tc3lib.errors import Tc3Error
from tc3lib.runtime import drive as drive_module
from tc3lib.runtime import preflight, workspace

MIB = 2**20


def test_the_work_folder_is_made_and_named(home, capsys):
    assert runtime.setup(settings.tiny()) == home
    assert list(home.iterdir()) == []
    assert capsys.readouterr().out == f"preset tiny, work folder {home}\n"
    runtime.finish(home)
    assert capsys.readouterr().out == f"the results are in {home}\n"


def test_without_tc3_home_it_is_runs_preset_in_the_checkout_or_else_in_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("TC3_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(workspace, "ROOT", root)
    assert runtime.setup(settings.tiny()) == tmp_path / "runs" / "tiny"
    (root / "pyproject.toml").touch()
    assert runtime.setup(settings.tiny()) == root / "runs" / "tiny"


def test_in_colab_it_is_the_users_folder_on_drive():
    assert str(drive_module.MOUNT / "MyDrive" / "tc3") == "/content/drive/MyDrive/tc3"


@pytest.mark.parametrize("folder", ["/proc/tc3", "/dev/null/tc3"])
def test_a_folder_that_cannot_be_written_is_an_error(folder, monkeypatch, refused):
    monkeypatch.setenv("TC3_HOME", folder)
    line = refused(settings.tiny())
    assert line.startswith(f"cannot write to the work folder {folder}: ")
    assert line.endswith(". Make it writable, or set TC3_HOME to another folder.")


def test_a_home_that_does_not_exist_is_an_error(monkeypatch, refused):
    monkeypatch.setenv("TC3_HOME", "~nobody-of-that-name/tc3")
    assert "TC3_HOME='~nobody-of-that-name/tc3'" in refused(settings.tiny())


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some space there (Drive counts its bin too)"),
        (errno.EDQUOT, "Free some space there"),
        (errno.EROFS, "Make it writable"),
        (errno.EIO, "If it is on Drive, choose Runtime > Restart session"),
        (errno.ENOTCONN, "If it is on Drive, choose Runtime > Restart session"),
    ],
)
def test_a_disk_that_refuses_is_an_error_and_left_clean(home, monkeypatch, fail, refused, number, advice):
    monkeypatch.setattr(os, "fsync", fail(number))
    line = refused(settings.tiny())
    assert line.startswith(f"cannot write to the work folder {home}: {os.strerror(number)}. {advice}")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    "lose",
    [
        lambda handle: os.pwrite(handle, b"lost", 1000),
        lambda handle: os.ftruncate(handle, 9),
        lambda handle: os.pwrite(handle, bytes(4096), 0),
    ],
    ids=["changed", "cut", "zeros"],
)
def test_a_disk_that_gives_back_other_bytes_is_an_error_and_left_clean(home, monkeypatch, refused, lose):
    monkeypatch.setattr(os, "fsync", lose)
    assert f"the work folder {home}: reading back gave other bytes than were written" in refused(settings.tiny())
    assert list(home.iterdir()) == []


def test_the_trial_file_is_hidden_and_emptied_before_it_is_deleted(home, monkeypatch):
    seen, unlink = [], os.unlink

    def spy(path, *args, **kwargs):
        seen.append((os.path.basename(path), os.path.getsize(path)))
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(os, "unlink", spy)
    runtime.setup(settings.tiny())
    runtime.setup(settings.tiny())
    (first, size), (second, _) = seen
    assert size == 0
    assert first.startswith(".") and first != second


def test_a_trial_file_that_cannot_be_emptied_or_deleted_hides_no_other_error(home, monkeypatch, fail, refused):
    monkeypatch.setattr(os, "truncate", fail(errno.EIO))
    runtime.setup(settings.tiny())
    assert list(home.iterdir()) == []
    monkeypatch.setattr(os, "fsync", fail(errno.ENOSPC))
    monkeypatch.setattr(os, "unlink", fail(errno.EIO))
    assert os.strerror(errno.ENOSPC) in refused(settings.tiny())


def test_a_wrong_stage_is_an_error(refused):
    assert refused(settings.tiny(), "03_trian") == "there is no stage '03_trian'. Did you mean '03_train'?"


@pytest.mark.parametrize("stage", sorted(workspace.STAGES))
def test_a_stage_run_too_early_names_what_is_missing_and_who_writes_it(home, stage, capsys):
    """File by file until all are there; then the table is shown."""
    writers = {name: other for other, found in workspace.STAGES.items() for name in found.writes}
    for name in workspace.STAGES[stage].reads:
        message = f"{stage} needs {name}, which is not in {home}: run {writers[name]} first."
        with pytest.raises(Tc3Error, match=message.replace("(", r"\(")):
            runtime.setup(settings.tiny(), stage)
        (home / name).mkdir(parents=True)
    capsys.readouterr()
    runtime.setup(settings.tiny(), stage)
    lines = capsys.readouterr().out.splitlines()
    names = ["Python", "packages", "GPU", "memory", *(["token"] if stage != "01_prepare" else []), "work", "Drive"]
    assert [line.split()[1] for line in lines[:-1]] == names
    assert {line[0] for line in lines[:-1]} <= {"✓", "!"}


def test_too_little_space_stops_training_alone(home, free, refused):
    config = settings.tiny().change(max_steps=300, save_steps=100, save_total_limit=None)
    free(96 * MIB - 1)
    line = refused(config, "03_train")
    assert f"the run writes about 96 MiB and {home} has 95 MiB free" in line
    assert (
        "set save_total_limit (now None) lower or save_steps (now 100) higher, free some space, or set TC3_HOME" in line
    )
    runtime.setup(config)
    runtime.setup(config, "01_prepare")
    free(96 * MIB)
    assert "03_train needs train.jsonl" in refused(config, "03_train")
    free(0, total=0)  # a file system that does not report its size
    assert "03_train needs train.jsonl" in refused(config, "03_train")


def test_a_run_that_continues_needs_what_is_left(home, free, refused):
    config = settings.tiny().change(max_steps=300, save_steps=100, save_total_limit=None)
    (home / "outputs" / "checkpoint-100").mkdir(parents=True)
    with open(home / "outputs" / "checkpoint-100" / "model", "wb") as file:
        file.truncate(90 * MIB)
    free(6 * MIB)
    assert "03_train needs train.jsonl" in refused(config, "03_train")
    assert "MiB free" in refused(config.change(resume_from_checkpoint=False), "03_train")


def test_the_quick_checks_come_before_the_slow_ones(drive, free, fail, monkeypatch, refused):
    """Each is reported although all that come after it would fail too: the machine, Drive, the folder, its files."""
    free(0)
    drive.fails = ValueError("mount failed")
    config, stage = settings.llama3_8b(), "03_train"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail(errno.EROFS))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert "needs an NVIDIA GPU" in refused(config, stage)
        assert drive.mounts == []
        patch.setattr(preflight, "_gpu", lambda config, in_colab: preflight.Row("GPU", "there"))
        assert "cannot mount" in refused(config, stage)
        assert "cannot write" in refused(config, stage)
    monkeypatch.setattr(preflight, "_gpu", lambda config, in_colab: preflight.Row("GPU", "there"))
    assert "MiB free" in refused(config, stage)
    free(2**40)
    assert "needs train.jsonl" in refused(config, stage)


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed"),
        ("UNSLOTH_FSDP2", "native", "unsloth's FSDP2"),
        ("UNSLOTH_FSDP2", "0", None),
    ],
)
def test_a_launch_that_shards_the_model_is_refused_in_a_line(home, monkeypatch, refused, variable, value, name):
    monkeypatch.setenv(variable, value)
    runtime.setup(settings.tiny())  # no launcher
    shutil.rmtree(home)
    for key, launched in (("LOCAL_RANK", "0"), ("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(key, launched)
    if name is None:
        runtime.setup(settings.tiny())
    else:
        line = refused(settings.tiny(), "03_train")
        assert line.startswith(f"{name} ({variable}={value}) is not supported, each card must hold the whole model: ")
        assert not home.exists()
