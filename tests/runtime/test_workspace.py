import errno
import os
import shutil
from collections import namedtuple

import fake_colab
import pytest

from tc3lib import settings
from tc3lib.errors import Tc3Error
from tc3lib import runtime
from tc3lib.runtime import preflight, workspace
from tc3lib.runtime import drive as drive_module


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TC3_HOME", str(tmp_path / "work"))
    return tmp_path / "work"


@pytest.fixture
def drive(monkeypatch, tmp_path):
    """Colab with a Drive that is not mounted, and no TC3_HOME."""
    monkeypatch.delenv("TC3_HOME")
    monkeypatch.setattr(drive_module, "MOUNT", tmp_path / "drive")
    return fake_colab.install(monkeypatch, tmp_path / "drive", tmp_path / "cloud")


@pytest.fixture
def free(monkeypatch):
    """A function that sets how many bytes the disk has free."""

    def set_free(free, total=2**40):
        usage = namedtuple("usage", "total used free")(total, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    return set_free


def refuse(fail):
    """Return a stand-in for a system call that raises the error number."""

    def call(*args, **kwargs):
        raise OSError(fail, os.strerror(fail))

    return call


def told(*arguments):
    """Return the one line of the Tc3Error that `setup` raises."""
    with pytest.raises(Tc3Error) as error:
        runtime.setup(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_work_folder_is_made_and_told(home, capsys):
    assert runtime.setup(settings.tiny()) == home
    assert home.is_dir()
    assert list(home.iterdir()) == []
    assert capsys.readouterr().out == f"preset tiny, work folder {home}\n"


def test_without_tc3_home_it_is_runs_preset(monkeypatch, tmp_path):
    monkeypatch.delenv("TC3_HOME")
    monkeypatch.setattr(runtime, "REPOSITORY", tmp_path)
    assert runtime.setup(settings.tiny()) == tmp_path / "runs" / "tiny"


def test_on_colab_the_folder_is_the_users():
    assert str(runtime.DRIVE / "MyDrive" / "tc3") == "/content/drive/MyDrive/tc3"


@pytest.mark.parametrize("home", ["/proc/tc3", "/dev/null/tc3"])
def test_a_folder_that_cannot_be_written_is_told(home, monkeypatch):
    monkeypatch.setenv("TC3_HOME", home)
    with pytest.raises(
        Tc3Error,
        match=rf"cannot write to the work folder {home}: .* is wanted: make it one, or set TC3_HOME to another",
    ):
        runtime.setup(settings.tiny())


@pytest.mark.parametrize(
    ("stage", "missing", "writer"),
    [
        ("02_pretest", "questions.jsonl", "01_prepare"),
        ("03_train", "train.jsonl", "01_prepare"),
        ("04_posttest", "lora_model/", "03_train"),
    ],
)
def test_a_stage_run_too_early_names_what_is_missing_and_who_writes_it(stage, missing, writer):
    with pytest.raises(Tc3Error, match=rf"{stage} needs {missing}, which is not in .*: run {writer} first"):
        runtime.setup(settings.tiny(), stage)


def test_the_posttest_needs_the_pretest(home):
    home.mkdir()
    (home / "lora_model").mkdir()
    for name in ("run.json", "train.jsonl", "eval.jsonl", "questions.jsonl"):
        (home / name).touch()
    with pytest.raises(Tc3Error, match=r"04_posttest needs pretest\.jsonl, .*: run 02_pretest first"):
        runtime.setup(settings.tiny(), "04_posttest")
    (home / "pretest.jsonl").touch()
    assert runtime.setup(settings.tiny(), "04_posttest") == home


@pytest.mark.parametrize("stage", ["02_pretest", "03_train", "04_posttest"])
def test_the_8b_preset_without_a_gpu_is_told_what_to_do(stage, home, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(Tc3Error, match=r"'llama3_8b' needs an NVIDIA GPU and there is none: .*TC3_PRESET=tiny"):
        runtime.setup(settings.llama3_8b(), stage)


def test_what_the_stage_cannot_do_without_is_told_before_drive_is_asked_for(drive, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "needs an NVIDIA GPU" in told(settings.llama3_8b(), "02_pretest")
    assert drive.mounts == []


@pytest.mark.parametrize("stage", sorted(runtime.STAGES))
def test_a_stage_begins_with_a_table_and_setup_alone_with_none(home, stage, capsys):
    for name in runtime.STAGES[stage].reads:
        (home / name).mkdir(parents=True)
    runtime.setup(settings.tiny(), stage)
    lines = capsys.readouterr().out.splitlines()
    names = ["Python", "packages", "GPU", "memory", *(["token"] if stage != "01_prepare" else []), "work", "Drive"]
    assert [line.split()[1] for line in lines[:-1]] == names
    assert {line[0] for line in lines[:-1]} <= {"✓", "!"}
    runtime.setup(settings.tiny())
    assert len(capsys.readouterr().out.splitlines()) == 1


SECRET = "hf_planted0123456789"
GATED = settings.llama3_8b().change(model_name="meta-llama/Meta-Llama-3-8B")


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))


def test_a_token_is_looked_for_in_the_environment_then_what_was_saved_then_colabs_secrets(
    no_token, drive, monkeypatch, tmp_path
):
    import google.colab

    name, userdata = GATED.model.model_name, google.colab.userdata
    assert runtime._token(name) == ""
    userdata.secrets["HF_TOKEN"] = SECRET
    assert runtime._token(name) == "Colab's secrets"
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface" / "token").write_text(SECRET)
    assert runtime._token(name) == "what `hf auth login` saved"
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert runtime._token(name) == "HF_TOKEN"
    assert userdata.asked == ["HF_TOKEN"] * 2


def test_colab_is_asked_for_the_secret_of_a_gated_model_alone(no_token, drive):
    import google.colab

    assert runtime._token("unsloth/llama-3-8b-bnb-4bit") == ""
    assert google.colab.userdata.asked == []


def test_a_secret_that_the_user_refuses_is_none(no_token, drive):
    import google.colab

    userdata = google.colab.userdata
    for error in (userdata.NotebookAccessError("no"), google.colab.errors.Error("no"), " "):
        userdata.secrets["HF_TOKEN"] = error
        assert runtime._token(GATED.model.model_name) == ""


@pytest.mark.parametrize("where", ["environment", "secrets", "saved"])
@pytest.mark.parametrize("stage", sorted(runtime.STAGES))
def test_the_token_is_shown_and_written_nowhere(no_token, drive, monkeypatch, tmp_path, capfd, where, stage):
    import traceback

    import google.colab

    monkeypatch.setattr(preflight, "_gpu", lambda config, in_colab: [preflight.Row("GPU", "there")])
    google.colab.userdata.secrets["HF_TOKEN"] = SECRET if where == "secrets" else ""
    if where == "saved":
        (tmp_path / "huggingface").mkdir()
        (tmp_path / "huggingface" / "token").write_text(SECRET)
    if where == "environment":
        monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(Tc3Error) as error:
        runtime.setup(GATED, stage)
        runtime.check_inputs(tmp_path, "04_posttest")  # 01 needs nothing: any error will do
    trace = "".join(traceback.TracebackException.from_exception(error.value, capture_locals=True).format())
    monkeypatch.setattr(runtime, "check_inputs", lambda work, stage: None)
    work = runtime.setup(GATED, stage)
    said = capfd.readouterr()
    assert ("  token" in said.out) == (stage != "01_prepare")
    assert "is gated" not in said.out
    assert SECRET not in said.out + said.err + trace
    assert [path for path in work.rglob("*") if path.is_file() and SECRET in path.read_text(errors="replace")] == []


def test_preparing_needs_no_gpu(home):
    assert runtime.setup(settings.llama3_8b(), "01_prepare") == home


def test_a_wrong_stage_is_told():
    with pytest.raises(Tc3Error, match=r"no stage '03_trian'\. Did you mean '03_train'\?"):
        runtime.setup(settings.tiny(), "03_trian")


def test_the_catalogue_is_the_users_then_gzip_then_the_embedded_one(tmp_path):
    config = settings.tiny()
    assert runtime.catalogue(config, tmp_path) == runtime.REPOSITORY / "data" / "trn.json"
    (tmp_path / "trn.json.zip").touch()
    assert runtime.catalogue(config, tmp_path) == tmp_path / "trn.json.zip"
    (tmp_path / "trn.json.gz").touch()
    assert runtime.catalogue(config, tmp_path) == tmp_path / "trn.json.gz"
    (tmp_path / "trn.json").touch()
    assert runtime.catalogue(config, tmp_path) == tmp_path / "trn.json"


def test_a_misspelt_source_is_not_replaced_by_the_embedded_catalogue(tmp_path):
    with pytest.raises(Tc3Error, match=r"no mine\.json in "):
        runtime.catalogue(settings.tiny().change(source="mine.json"), tmp_path)


@pytest.mark.parametrize("name", ["train.jsonl", "trn_output.json", "quarantine.jsonl"])
def test_a_catalogue_that_would_be_overwritten_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(Tc3Error, match=rf"would overwrite the catalogue .*{name}"):
        runtime.catalogue(settings.tiny().change(source=name), tmp_path)
    (tmp_path / "elsewhere").mkdir()
    assert runtime.catalogue(settings.tiny().change(source=str(tmp_path / name)), tmp_path / "elsewhere")


def test_a_home_that_does_not_exist_is_told(monkeypatch):
    monkeypatch.setenv("TC3_HOME", "~nobody-of-that-name/tc3")
    with pytest.raises(Tc3Error, match="TC3_HOME='~nobody-of-that-name/tc3'"):
        runtime.setup(settings.tiny())


def test_no_catalogue_is_told(tmp_path):
    with pytest.raises(Tc3Error, match=r"no trn\.json in .*: put your catalogue there .*`title` and `content`"):
        runtime.catalogue(settings.llama3_8b(), tmp_path)


def test_a_catalogue_elsewhere_is_a_setting(tmp_path):
    (tmp_path / "mine.jsonl").touch()
    config = settings.llama3_8b().change(source=str(tmp_path / "mine.jsonl"))
    assert runtime.catalogue(config, tmp_path / "work") == tmp_path / "mine.jsonl"


def test_in_colab_it_is_on_drive_which_gets_mounted(drive, monkeypatch, tmp_path):
    assert runtime.setup(settings.tiny()) == tmp_path / "drive" / "MyDrive" / "tc3"
    assert drive.mounted
    assert (tmp_path / "drive" / "MyDrive" / "tc3").is_dir()
    assert drive.mounts == [False]

    monkeypatch.setenv("TC3_HOME", str(tmp_path / "drive" / "MyDrive" / "other"))
    assert runtime.setup(settings.tiny()) == tmp_path / "drive" / "MyDrive" / "other"
    assert drive.mounts == [False, False]
    monkeypatch.setenv("TC3_HOME", str(tmp_path / "elsewhere"))
    runtime.setup(settings.tiny())
    assert drive.mounts == [False, False]


def test_a_link_to_drive_gets_it_mounted_too(drive, monkeypatch, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "drive" / "MyDrive")
    monkeypatch.setenv("TC3_HOME", str(tmp_path / "link" / "tc3"))
    runtime.setup(settings.tiny())
    assert (drive.point / "MyDrive" / "tc3").is_dir()
    assert drive.mounted


def test_outside_colab_nothing_is_mounted(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(drive_module, "MOUNT", tmp_path)
    work = runtime.setup(settings.tiny())
    runtime.finish(work)
    assert capsys.readouterr().out.splitlines()[-1] == f"the results are in {work}"


def test_files_where_drive_should_be_are_named_and_stay(drive):
    kept = [drive.point / "MyDrive" / "tc3" / name for name in ("a.txt", "b.txt", "c.txt", "d.txt")]
    kept[0].parent.mkdir(parents=True)
    for path in kept:
        path.write_text("mine")
    line = told(settings.tiny())
    assert line.startswith(f"Google Drive is not mounted: {drive.point} must be empty for that and holds MyDrive/tc3/a")
    assert "MyDrive/tc3/c.txt (4 in all), written while Drive was away" in line
    assert f"move it with `!mv {drive.point} {drive.point}-kept`, choose Runtime > Restart session" in line
    assert [path.read_text() for path in kept] == ["mine"] * 4

    drive.point.rename(drive.point.with_name("drive-kept"))  # what it says helps
    runtime.setup(settings.tiny())


def test_an_empty_folder_where_drive_should_be_is_named(drive):
    (drive.point / "MyDrive").mkdir(parents=True)
    assert "must be empty for that and holds MyDrive (1 in all)" in told(settings.tiny())


def test_a_shadow_that_the_real_module_takes_for_drive_is_told(drive, capsys):
    (drive.point / "My Drive").mkdir(parents=True)
    (drive.point / "My Drive" / "x").touch()
    assert "Google Drive is not mounted: " in told(settings.tiny())
    assert "Drive already mounted" in capsys.readouterr().out
    assert not (drive.point / "MyDrive").exists()


def test_a_mount_that_did_nothing_is_told(drive, monkeypatch):
    monkeypatch.setattr(drive, "mount", lambda *args, **kwargs: None)
    assert f"not mounted at {drive.point} although it was asked to: choose Runtime > Restart" in told(settings.tiny())
    assert not drive.point.exists()


class MessageError(Exception):
    """google.colab's own, for what the browser refuses."""


@pytest.mark.parametrize(
    ("error", "cause", "advice"),
    [
        (
            ValueError("mount failed: timeout during initial read of root folder; for more info: https://x"),
            "ValueError: mount failed: timeout during initial read of root folder",
            "Run this cell again. If that does not help, move files from the top",
        ),
        (ValueError("mount failed"), "ValueError: mount failed", "Run this cell again and allow all that it asks"),
        (TimeoutError(), "TimeoutError. ", "Run this cell again. If that"),
        (
            MessageError("Error: credential propagation\nwas unsuccessful"),
            "MessageError: Error: credential propagation was unsuccessful",
            "allow all that it asks, with the account of this notebook, or set TC3_HOME to a folder outside Drive",
        ),
        (
            NotImplementedError("Mounting drive is unsupported in this environment. Use PyDrive2 instead."),
            "NotImplementedError: Mounting drive is unsupported",
            "Open the notebook in Colab itself, or set TC3_HOME",
        ),
    ],
)
def test_drives_refusals_are_told_with_what_to_do(drive, error, cause, advice):
    drive.fails = error
    line = told(settings.tiny())
    assert line.startswith(f"cannot mount Google Drive at {drive.point}: {cause}")
    assert advice in line
    assert not drive.point.exists()
    runtime.setup(settings.tiny())


def test_a_long_error_of_drive_is_cut(drive):
    drive.fails = ValueError("word " * 1000)
    assert len(told(settings.tiny())) < 600


def test_a_mount_point_that_is_a_link_or_a_file_is_told(drive, tmp_path):
    (tmp_path / "target").mkdir()
    drive.point.symlink_to(tmp_path / "target")
    line = told(settings.tiny())
    assert "must not be a symlink. An empty folder is wanted there, or none: remove the link with `!rm " in line
    drive.point.unlink()
    drive.point.touch()
    assert "must either be a directory or not exist. Move that file away with `!mv " in told(settings.tiny())


def test_a_mount_that_died_is_mounted_anew_by_force(drive):
    runtime.setup(settings.tiny())
    drive.die()
    assert runtime.setup(settings.tiny()) == drive.point / "MyDrive" / "tc3"
    assert drive.mounts == [False, True]
    assert not drive.stale


def test_a_mount_that_is_dead_again_is_told(drive):
    runtime.setup(settings.tiny())
    drive.die()
    drive.stays_stale = True
    assert f"Google Drive, mounted anew at {drive.point}, does not answer: choose Runtime" in told(settings.tiny())
    assert drive.mounts == [False, True]


def test_a_drive_without_mydrive_is_told(drive):
    drive.empty = True
    assert f"mounted at {drive.point} but there is no MyDrive in it: choose Runtime" in told(settings.tiny())
    assert not (drive.point / "MyDrive").exists()


@pytest.mark.parametrize(
    ("fail", "advice"),
    [
        (errno.ENOSPC, "free some space there (Drive counts its bin too)"),
        (errno.EDQUOT, "free some space there"),
        (errno.EROFS, "make it one"),
        (errno.EIO, "if it is on Drive, choose Runtime > Restart session"),
        (errno.ENOTCONN, "if it is on Drive, choose Runtime > Restart session"),
    ],
)
def test_a_disk_that_refuses_is_told_and_left_clean(home, monkeypatch, fail, advice):
    monkeypatch.setattr(os, "fsync", refuse(fail))
    line = told(settings.tiny())
    assert line.startswith(f"cannot write to the work folder {home}: {os.strerror(fail)}. A folder that keeps")
    assert advice in line
    assert line.endswith(", or set TC3_HOME to another.")
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
def test_a_disk_that_does_not_give_back_what_was_written_is_told_and_left_clean(home, monkeypatch, lose):
    monkeypatch.setattr(os, "fsync", lose)
    assert f"the work folder {home}: what is read back is not what was written. A folder" in told(settings.tiny())
    assert list(home.iterdir()) == []


def test_what_is_tried_out_is_hidden_and_emptied_before_it_is_deleted(home, monkeypatch):
    seen, sync, unlink = [], os.fsync, os.unlink

    def spy(path, *args, **kwargs):
        seen.append((os.path.basename(path), os.path.getsize(path)))
        unlink(path, *args, **kwargs)

    def synced(handle):
        seen.append(os.fstat(handle).st_size)
        sync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "unlink", spy)
    runtime.setup(settings.tiny())
    runtime.setup(settings.tiny())
    (first, left), (second, _) = seen[1], seen[3]
    assert seen[0] == 4096
    assert left == 0
    assert first.startswith(".") and first != second


def test_the_litter_goes_even_if_it_cannot_be_emptied(home, monkeypatch):
    monkeypatch.setattr(os, "truncate", refuse(errno.EIO))
    runtime.setup(settings.tiny())
    assert list(home.iterdir()) == []


def test_a_file_that_cannot_be_deleted_hides_no_other_error(home, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    monkeypatch.setattr(os, "unlink", refuse(errno.EIO))
    assert os.strerror(errno.ENOSPC) in told(settings.tiny())
    assert [path.stat().st_size for path in home.iterdir()] == [0]


MIB = 2**20


@pytest.mark.parametrize(
    ("changes", "checkpoints"),
    [
        ({}, 6 + 3),
        ({"max_steps": 61}, 7 + 3),
        ({"save_total_limit": 2}, 2 + 3),
        ({"save_total_limit": 100}, 6 + 3),
        ({"max_steps": -1}, 10 + 3),
        ({"max_steps": -1, "save_total_limit": 4}, 4 + 3),
        ({"save_strategy": "epoch"}, 10 + 3),
        ({"save_strategy": "no"}, 1),
    ],
)
def test_the_space_a_run_needs_is_that_of_the_checkpoints_that_stay_and_three_more(changes, checkpoints):
    settings = {"r": 16, "max_steps": 60, "save_strategy": "steps", "save_steps": 10, "save_total_limit": None}
    config = settings.llama3_8b().change(**settings | changes)
    assert preflight.space_needed(config) == checkpoints * 270 * MIB
    assert preflight.space_needed(config.change(r=32)) == checkpoints * 540 * MIB


def small():
    return settings.tiny().change(max_steps=300, save_strategy="steps", save_steps=100, save_total_limit=None)


def test_the_small_run_needs_little_space():
    assert preflight.space_needed(small()) == (3 + 3) * 16 * MIB


def test_too_little_space_is_told_before_training_alone(home, free):
    free(96 * MIB - 1)
    line = told(small(), "03_train")
    assert f"the run writes about 96 MiB and {home} has 95 MiB free" in line
    assert (
        "set save_total_limit (now None) lower or save_steps (now 100) higher, free some space, or set TC3_HOME" in line
    )
    runtime.setup(small())
    runtime.setup(small(), "01_prepare")
    free(96 * MIB)
    assert "03_train needs train.jsonl" in told(small(), "03_train")


def test_a_file_system_that_does_not_tell_its_size_is_not_judged(free):
    free(0, total=0)
    assert "03_train needs train.jsonl" in told(small(), "03_train")


def test_a_run_that_continues_needs_what_is_left(home, free):
    (home / "outputs" / "checkpoint-100").mkdir(parents=True)
    with open(home / "outputs" / "checkpoint-100" / "model", "wb") as file:
        file.truncate(90 * MIB)
    free(6 * MIB)
    assert "03_train needs train.jsonl" in told(small(), "03_train")
    assert "MiB free" in told(small().change(resume_from_checkpoint=False), "03_train")


def test_the_quick_checks_come_before_the_slow_ones(drive, free, monkeypatch):
    """Each is told although all that come after it would fail too: the machine, Drive, the folder, its files."""
    free(0)
    drive.fails = ValueError("mount failed")
    config, stage = settings.llama3_8b(), "03_train"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse(errno.EROFS))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert "needs an NVIDIA GPU" in told(config, stage)
        patch.setattr(preflight, "_gpu", lambda config, in_colab: [])
        assert "cannot mount" in told(config, stage)
        assert "cannot write" in told(config, stage)
    monkeypatch.setattr(preflight, "_gpu", lambda config, in_colab: [])
    assert "MiB free" in told(config, stage)
    free(2**40)
    assert "needs train.jsonl" in told(config, stage)


def test_finishing_sends_all_to_drive_and_the_settings_cell_mounts_it_again(drive, capsys):
    work = runtime.setup(settings.tiny())
    (work / "run.json").write_text("{}")
    capsys.readouterr()
    runtime.finish(work)
    assert capsys.readouterr().out == "Drive has everything: safe to disconnect. The settings cell mounts it again.\n"
    assert list(drive.point.iterdir()) == []

    runtime.finish(work)
    assert "Drive is not mounted: there is nothing to send. The settings cell" in capsys.readouterr().out
    assert (runtime.setup(settings.tiny()) / "run.json").read_text() == "{}"


def test_finishing_in_colab_outside_drive_leaves_drive_alone(drive, tmp_path, capsys):
    runtime.finish(tmp_path / "work")
    assert capsys.readouterr().out == f"the results are in {tmp_path / 'work'}\n"
    assert drive.flushes == 0


def unfinished(work):
    """Return the one line of the Tc3Error that `finish` raises."""
    with pytest.raises(Tc3Error) as error:
        runtime.finish(work)
    return str(error.value)


def test_a_flush_that_fails_is_told_and_can_be_tried_again(drive, capsys):
    work = runtime.setup(settings.tiny())
    drive.fails = ValueError("flush_and_unmount failed")
    line = unfinished(work)
    assert line.startswith(f"Google Drive may lack some of what was written to {work} (ValueError: flush_and_unmount f")
    assert "do not disconnect" in line
    assert "then run the settings cell and this one again" in line
    capsys.readouterr()
    runtime.finish(runtime.setup(settings.tiny()))
    assert "Drive has everything" in capsys.readouterr().out


def test_a_drive_that_died_before_the_end_is_told(drive, capsys):
    work = runtime.setup(settings.tiny())
    drive.die()
    assert "(Transport endpoint is not connected)" in unfinished(work)
    assert drive.flushes == 1
    assert "Drive has everything" not in capsys.readouterr().out


def test_files_that_were_written_while_drive_was_away_are_told_at_the_end(drive, capsys):
    work = runtime.setup(settings.tiny())
    drive.vanish()
    work.mkdir(parents=True)
    (work / "report.json").touch()
    assert "Google Drive is not mounted: " in unfinished(work)
    assert "MyDrive/tc3/report.json (1 in all)" in unfinished(work)
    assert "safe" not in capsys.readouterr().out


def test_a_drive_that_stays_mounted_after_the_flush_is_not_taken_for_files_left_behind(drive, monkeypatch, capsys):
    work = runtime.setup(settings.tiny())
    (work / "run.json").touch()
    monkeypatch.setattr(drive, "flush_and_unmount", lambda: None)
    runtime.finish(work)
    assert "Drive has everything" in capsys.readouterr().out
