"""The work folder: where it is, that it keeps what is written, and what a stage needs there."""

import errno
import json
import os
import shutil

import pytest

from tc3lib import runtime, settings
from tc3lib.errors import Tc3Error
from tc3lib.runtime import drive as drive_module
from tc3lib.runtime import preflight, workspace

MIB = 2**20


FIRST = "01_prepare", "tiny"


def write(folder, **kept):
    """Keep settings, by hand or as a notebook did."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(kept))


def kept(folder):
    return json.loads((folder / "settings.json").read_text())


def test_the_work_folder_is_made_and_named(home, capsys):
    config, work = runtime.setup(*FIRST)
    assert (config, work) == (settings.get("tiny"), home)
    assert [path.name for path in home.iterdir()] == ["settings.json"]
    assert (home / "settings.json").read_text() == '{\n  "preset": "tiny"\n}\n'
    assert capsys.readouterr().out.splitlines()[-1] == f"preset tiny, work folder {home}"
    runtime.finish(home)
    assert capsys.readouterr().out == f"the results are in {home}\n"


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The folder of all runs, without TC3_HOME and TC3_PRESET."""
    monkeypatch.delenv("TC3_HOME", raising=False)
    monkeypatch.delenv("TC3_PRESET", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "ROOT", tmp_path / "root")
    return tmp_path / "runs"


def test_without_tc3_home_01_takes_runs_preset_in_the_checkout_or_else_in_the_current_folder(runs, tmp_path):
    assert runtime.setup(*FIRST)[1] == runs / "tiny"
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "pyproject.toml").touch()
    assert runtime.setup(*FIRST)[1] == tmp_path / "root" / "runs" / "tiny"


def test_the_notebooks_after_01_take_the_newest_run_and_name_it(runs, monkeypatch, capsys, refused):
    assert refused("02_pretest") == (
        f"there is no run in {runs}: run 01_prepare first, or set TC3_HOME to its work folder."
    )
    monkeypatch.setattr(workspace, "check_inputs", lambda work, stage: None)
    for name in ("one", "two"):
        monkeypatch.setenv("TC3_HOME", str(runs / name))
        runtime.setup(*FIRST, eval_rows={"one": 5, "two": 6}[name])
    monkeypatch.delenv("TC3_HOME")
    os.utime(runs / "one" / "settings.json", ns=(0, 0))
    capsys.readouterr()
    config, work = runtime.setup("02_pretest")
    assert (config.data.eval_rows, work) == (6, runs / "two")
    assert "the newest run is two; TC3_HOME chooses another folder\n" in capsys.readouterr().out
    os.utime(runs / "two" / "settings.json", ns=(0, 0))
    os.utime(runs / "one" / "settings.json")
    assert workspace.reopen()[1] == runtime.setup("03_train")[1] == runs / "one"
    monkeypatch.setenv("TC3_PRESET", "tiny")  # that of 01 with this variable
    write(runs / "tiny", preset="tiny")
    os.utime(runs / "tiny" / "settings.json", ns=(0, 0))
    assert runtime.setup("03_train")[1] == runs / "tiny"


def test_a_wrong_preset_makes_no_folder(runs, monkeypatch, refused):
    assert refused("01_prepare", "tinny") == "there is no preset 'tinny'. Did you mean 'tiny'?"
    monkeypatch.setenv("TC3_PRESET", "lama")
    assert refused(*FIRST).startswith("TC3_PRESET: there is no preset 'lama'. There are: llama3_2_1b, llama3_8b, qwen")
    assert not runs.exists()


def test_in_colab_it_is_the_users_folder_on_drive():
    assert str(drive_module.MOUNT / "MyDrive" / "tc3") == "/content/drive/MyDrive/tc3"


@pytest.mark.parametrize("folder", ["/proc/tc3", "/dev/null/tc3"])
def test_a_folder_that_cannot_be_written_is_an_error(folder, monkeypatch, refused):
    monkeypatch.setenv("TC3_HOME", folder)
    line = refused(*FIRST)
    assert line.startswith(f"cannot write to the work folder {folder}: ")
    assert line.endswith(". Make it writable, or set TC3_HOME to another folder.")


def test_a_work_folder_that_is_none_is_an_error(home, refused):
    home.symlink_to("nowhere")
    line = f"{home} is a file, or a link to nothing, not a folder: set TC3_HOME to one."
    assert refused(*FIRST) == line
    home.unlink()
    home.touch()
    assert refused(*FIRST) == line


def test_a_home_that_does_not_exist_is_an_error(monkeypatch, refused):
    monkeypatch.setenv("TC3_HOME", "~nobody-of-that-name/tc3")
    assert "TC3_HOME='~nobody-of-that-name/tc3'" in refused(*FIRST)


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
    line = refused(*FIRST)
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
    assert f"the work folder {home}: reading back gave other bytes than were written" in refused(*FIRST)
    assert list(home.iterdir()) == []


def test_the_trial_file_is_hidden_and_emptied_before_it_is_deleted(home, monkeypatch):
    seen, unlink = [], os.unlink

    def spy(path, *args, **kwargs):
        seen.append((os.path.basename(path), os.path.getsize(path)))
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(os, "unlink", spy)
    workspace.reopen()
    workspace.reopen()
    (first, size), (second, _) = seen
    assert size == 0
    assert first.startswith(".") and first != second


def test_a_trial_file_that_cannot_be_emptied_or_deleted_hides_no_other_error(home, monkeypatch, fail, refused):
    monkeypatch.setattr(os, "truncate", fail(errno.EIO))
    workspace.reopen()
    assert list(home.iterdir()) == []
    monkeypatch.setattr(os, "fsync", fail(errno.ENOSPC))
    monkeypatch.setattr(os, "unlink", fail(errno.EIO))
    assert os.strerror(errno.ENOSPC) in refused(*FIRST)


def test_a_wrong_stage_is_an_error(refused):
    assert refused("03_trian") == "there is no stage '03_trian'. Did you mean '03_train'?"


@pytest.fixture
def inputs(home):
    """A function that makes what a stage reads, as far as it is looked at."""

    def make(stage, **changes):
        for name in workspace.STAGES[stage].reads:
            if name == "settings.json":
                write(home, preset="tiny", **changes)
            else:
                (home / name).mkdir(parents=True)

    return make


@pytest.mark.parametrize("stage", sorted(workspace.STAGES))
def test_a_stage_run_too_early_names_what_is_missing_and_who_writes_it(home, stage, capsys):
    """File by file until all are there; then the table is shown."""
    writers = {name: other for other, found in workspace.STAGES.items() for name in found.writes}
    for name in workspace.STAGES[stage].reads:
        message = f"{stage} needs {name}, which is not in {home}: run {writers[name]} first."
        with pytest.raises(Tc3Error, match=message.replace("(", r"\(")):
            runtime.setup(stage)
        if name == "settings.json":
            write(home, preset="tiny")
        else:
            (home / name).mkdir(parents=True)
    capsys.readouterr()
    runtime.setup(stage, *(["tiny"] if stage == "01_prepare" else []))
    lines = capsys.readouterr().out.splitlines()
    token = ["token"] if workspace.STAGES[stage].gpu else []
    names = ["Python", "packages", "GPU", "memory", *token, "work", "Drive"]
    assert [line.split()[1] for line in lines[:-1]] == names
    assert {line[0] for line in lines[:-1]} <= {"✓", "!"}


SPACE = {"max_steps": 300, "save_steps": 100, "save_total_limit": None}


def test_too_little_space_stops_training_alone(home, free, refused, inputs):
    inputs("03_train", **SPACE)
    free(96 * MIB - 1)
    line = refused("03_train")
    assert f"the run writes about 96 MiB and {home} has 95 MiB free" in line
    assert (
        "set save_total_limit (now None) lower or save_steps (now 100) higher, free some space, or set TC3_HOME" in line
    )
    workspace.reopen()
    runtime.setup(*FIRST)
    free(96 * MIB)
    runtime.setup("03_train")
    free(0, total=0)  # a file system that does not report its size
    runtime.setup("03_train")


def test_a_run_that_continues_needs_what_is_left(home, free, refused, inputs):
    inputs("03_train", **SPACE)
    (home / "outputs" / "checkpoint-100").mkdir(parents=True)
    with open(home / "outputs" / "checkpoint-100" / "model", "wb") as file:
        file.truncate(90 * MIB)
    free(6 * MIB)
    runtime.setup("03_train")
    assert "MiB free" in refused("03_train", resume_from_checkpoint=False)


def test_the_quick_checks_come_before_the_slow_ones(drive, free, fail, monkeypatch, refused):
    """Each is reported although all that come after it would fail too: packages, Drive, folder, files, machine."""
    free(0)
    drive.fails = ValueError("mount failed")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("TC3_PRESET", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail(errno.EROFS))
        with monkeypatch.context() as missing:
            missing.setattr(preflight.packages, "installed", lambda name: None)
            for stage in ("03_train", "05_export"):
                assert "the stage cannot run without" in refused(stage)
        assert drive.mounts == []
        assert "cannot mount" in refused("03_train")
        assert "cannot write" in refused("03_train")
    assert "needs train.jsonl" in refused("03_train")
    monkeypatch.setattr(workspace, "check_inputs", lambda work, stage: None)
    assert "names no preset" in refused("03_train")
    write(drive.point / "MyDrive" / "tc3", preset="llama3_8b")
    assert "needs an NVIDIA GPU" in refused("03_train")
    monkeypatch.setattr(preflight, "_gpu", lambda config, in_colab: preflight.Row("GPU", "there"))
    assert "MiB free" in refused("03_train")


def test_settings_are_said_once_and_every_change_is_printed_and_kept(home, inputs, capsys):
    inputs("03_train", max_steps=40)
    assert runtime.setup(*FIRST, learning_rate=3e-5)[0] == settings.get("tiny").change(max_steps=40, learning_rate=3e-5)
    assert kept(home) == {"preset": "tiny", "learning_rate": 3e-5, "max_steps": 40}
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "learning_rate 0.003 -> 3e-05, kept"
    assert out[-4:] == [
        f"preset tiny, work folder {home}",
        "  learning_rate = 3e-05 (preset: 0.003)",
        "  max_steps = 40 (preset: 300)",
        f"To go back to the preset, set a value to the preset's, or remove its line from {home / 'settings.json'}.",
    ]
    assert runtime.setup("03_train")[0].training.learning_rate == 3e-5
    assert "kept" not in capsys.readouterr().out
    config, _ = runtime.setup("03_train", learning_rate=1e-4, max_steps=300, demo_titles=["a", "b"])
    assert config == settings.get("tiny").change(learning_rate=1e-4, demo_titles=["a", "b"])
    assert kept(home) == {"preset": "tiny", "learning_rate": 1e-4, "demo_titles": ["a", "b"]}
    out = capsys.readouterr().out
    assert "learning_rate 3e-05 -> 0.0001, kept\n" in out and "max_steps 40 -> 300, kept\n" in out
    assert "  learning_rate = 0.0001 (preset: 0.003)\n" in out and "max_steps = " not in out
    assert workspace.reopen()[0] == config
    assert "  learning_rate = 0.0001 (preset: 0.003)\n" in capsys.readouterr().out


def test_a_run_set_aside_once_is_not_set_aside_every_time(home, inputs, capsys, refused):
    inputs("03_train")
    assert runtime.setup("03_train", resume_from_checkpoint=False)[0].training.resume_from_checkpoint is False
    assert "resume_from_checkpoint True -> False, this time alone\n" in capsys.readouterr().out
    assert runtime.setup("03_train")[0].training.resume_from_checkpoint is True
    write(home, preset="tiny", resume_from_checkpoint=False)
    assert "resume_from_checkpoint is for one call of 03_train alone: remove it" in refused("03_train")


def test_the_preset_is_tc3_presets_then_settings_jsons_then_the_fields(home, monkeypatch, capsys, inputs):
    monkeypatch.delenv("TC3_PRESET", raising=False)
    assert runtime.setup("01_prepare", "llama3_8b")[0].preset == "llama3_8b"
    inputs("02_pretest")
    assert runtime.setup("01_prepare", "llama3_8b")[0].preset == "tiny"
    said = "settings.json keeps preset tiny, so the form field's llama3_8b is not used; to use it, delete "
    assert f"{said}{home / 'settings.json'} and run this cell again\n" in capsys.readouterr().out
    monkeypatch.setenv("TC3_PRESET", "llama3_8b")
    assert runtime.setup(*FIRST)[0].preset == "llama3_8b"
    out = capsys.readouterr().out
    assert "TC3_PRESET is llama3_8b, so the form field's tiny is not used; to use it, unset TC3_PRESET\n" in out
    assert "preset tiny -> llama3_8b, kept\n" in out
    assert kept(home) == {"preset": "llama3_8b"}


def test_after_01_another_tc3_preset_is_refused_and_a_finished_run_keeps_its_own(home, inputs, refused, monkeypatch):
    inputs("03_train", max_steps=40)
    monkeypatch.setenv("TC3_PRESET", "llama3_8b")
    assert refused("03_train") == (
        f"TC3_PRESET is llama3_8b, but the run in {home} has the preset tiny: unset TC3_PRESET, or run 01_prepare "
        "first, with TC3_HOME at another folder."
    )
    assert kept(home) == {"preset": "tiny", "max_steps": 40}
    assert workspace.reopen()[0] == settings.get("tiny").change(max_steps=40)
    (home / "settings.json").unlink()
    assert workspace.reopen()[0].preset == "llama3_8b"
    (home / "run.json").write_text('{"preset": "smollm2"}')
    assert workspace.reopen()[0].preset == "smollm2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"preset": "tiny", "max_steps": 40',
            "is damaged (Expecting ',' delimiter: line 1 column 35 (char 34)). Expected",
        ),
        ("", "is damaged (Expecting value: line 1 column 1 (char 0)). Expected"),
        ("[1]", 'is damaged (it is not an object). Expected e.g. {"preset": "tiny", "max_steps": 40}: fix it, or'),
        ('{"preset": "tinny"}', ": there is no preset 'tinny'. Did you mean 'tiny'?"),
        ('{"preset": ["tiny"]}', ": there is no preset ['tiny']. There are: "),
        ('{"max_step": 40}', ": there is no setting 'max_step'. Did you mean 'max_steps'?"),
        ('{"lr": 1}', ": there is no setting 'lr'. It is 'learning_rate' here."),
        ('{"max_steps": "40"}', ": a setting does not fit: Expected `int`, got `str` - at `max_steps`"),
        ('{"training": {"max_steps": 4}}', ": there is no setting 'training'. "),
    ],
)
def test_a_settings_json_that_is_wrong_is_one_line_with_file_and_setting(home, monkeypatch, refused, text, message):
    monkeypatch.delenv("TC3_PRESET", raising=False)
    home.mkdir()
    (home / "settings.json").write_text(text)
    assert refused(*FIRST).startswith(f"{home / 'settings.json'}{'' if message[0] == ':' else ' '}{message}")
    assert (home / "settings.json").read_text() == text


def test_a_wrong_change_is_an_error_and_nothing_is_kept(home, refused):
    assert refused(*FIRST, lr=1e-4) == "there is no setting 'lr'. It is 'learning_rate' here."
    assert refused(*FIRST, preset="tiny").startswith("there is no setting 'preset'. Choose it in ")
    assert list(home.iterdir()) == []


def test_a_setting_of_01_that_is_changed_afterwards_asks_for_01_again(home, inputs, refused, capsys):
    inputs("03_train")
    ran = settings.get("tiny").change(workers=1)
    (home / "prepare_report.json").write_text(json.dumps({"settings": settings.used_by_01(ran)}))
    runtime.setup("03_train", learning_rate=1e-4, max_steps=200, workers=2)
    assert "rows" not in {line.split()[1] for line in capsys.readouterr().out.splitlines()}
    line = refused("03_train", eval_rows=7)
    assert line == (
        "01_prepare ran with eval_rows=160, and now it is 7: run 01_prepare again, then the notebooks after it, or "
        "set eval_rows=160 in this cell."
    )
    assert "01_prepare ran with eval_rows=160" in refused("03_train")  # it was kept: 01 will use it
    assert runtime.setup(*FIRST)[0].data.eval_rows == 7
    assert "ran with demo_titles=['Nice for Mice', " in refused("03_train", eval_rows=160, demo_titles=["a"])
    runtime.setup("03_train", demo_titles=ran.generation.demo_titles, max_steps=400)
    out = capsys.readouterr().out
    assert "rows         01_prepare drew 2,400 to train on: run it again to have 3,200 for these settings\n" in out
    runtime.setup("03_train", max_steps=-1)
    assert "run it again to have all for these settings\n" in capsys.readouterr().out


def test_a_01_that_was_broken_off_is_to_be_run_again(home, inputs, refused):
    inputs("03_train")
    (home / "prepare_report.json").write_text('{"read": 9, "kept": 9}')  # without what `select` adds
    assert refused("03_train") == "01_prepare did not finish: run it again, then the notebooks after it."


def test_a_model_that_is_to_be_made_first_is_one_line_with_the_command(home, refused, monkeypatch, tmp_path):
    monkeypatch.delenv("TC3_PRESET", raising=False)
    monkeypatch.setattr(settings, "ROOT", tmp_path / "root")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "smollm2-model"
    line = refused("01_prepare", "smollm2")
    assert line == f"there is no folder {folder}: `python {settings.EMBEDDED / 'make_smollm2.py'}` makes it."
    assert list(home.iterdir()) == []
    folder.mkdir(parents=True)
    config, _ = runtime.setup("01_prepare", "smollm2")
    assert config.model.model_name == str(folder)
    line = refused("01_prepare", "smollm2", model_name=str(tmp_path / "gone"))
    assert line.startswith(f"there is no folder {tmp_path / 'gone'}: set model_name to a folder that is there")
    assert kept(home) == {"preset": "smollm2"}
    runtime.setup("01_prepare", "smollm2")


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
    runtime.setup(*FIRST)  # no launcher
    shutil.rmtree(home)
    for key, launched in (("LOCAL_RANK", "0"), ("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(key, launched)
    if name is None:
        runtime.setup(*FIRST)
    else:
        line = refused("03_train")
        assert line.startswith(f"{name} ({variable}={value}) is not supported, each card must hold the whole model: ")
        assert not home.exists()
