"""Google Drive as Colab has it: refusals, a folder in its place, a mount that has died, and the flush at the end."""

import pytest

from tc3lib import runtime
from tc3lib.errors import Tc3Error
from tc3lib.runtime import drive as drive_module

FIRST = "01_prepare", "tiny"


def setup():
    return runtime.setup(*FIRST)[1]


@pytest.fixture
def unfinished():
    """A function that returns the one line of the Tc3Error that `finish` raises."""

    def line(work):
        with pytest.raises(Tc3Error) as error:
            runtime.finish(work)
        return str(error.value)

    return line


def test_it_is_mounted_where_the_work_folder_is_on_it_perhaps_behind_a_link(drive, monkeypatch, tmp_path):
    assert setup() == tmp_path / "drive" / "MyDrive" / "tc3"
    assert drive.mounted
    assert (tmp_path / "drive" / "MyDrive" / "tc3").is_dir()
    assert drive.mounts == [False]
    monkeypatch.setenv("TC3_HOME", str(tmp_path / "elsewhere"))
    setup()
    assert drive.mounts == [False]
    (tmp_path / "link").symlink_to(tmp_path / "drive" / "MyDrive")
    monkeypatch.setenv("TC3_HOME", str(tmp_path / "link" / "other"))
    setup()
    assert drive.mounts == [False, False]
    assert (drive.point / "MyDrive" / "other").is_dir()


def test_outside_colab_nothing_is_mounted(home, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(drive_module, "MOUNT", tmp_path)
    work = setup()
    runtime.finish(work)
    assert capsys.readouterr().out.splitlines()[-1] == f"the results are in {work}"


def test_files_where_drive_should_be_are_named_and_stay(drive, refused):
    kept = [drive.point / "MyDrive" / "tc3" / name for name in ("a.txt", "b.txt", "c.txt", "d.txt")]
    kept[0].parent.mkdir(parents=True)
    for path in kept:
        path.write_text("mine")
    line = refused(*FIRST)
    assert line.startswith(f"Google Drive is not mounted: {drive.point} must be empty for that and holds MyDrive/tc3/a")
    assert "MyDrive/tc3/c.txt (4 in all), written while Drive was away" in line
    assert f"move them with `!mv {drive.point} {drive.point}-kept`, choose Runtime > Restart session" in line
    assert [path.read_text() for path in kept] == ["mine"] * 4

    drive.point.rename(drive.point.with_name("drive-kept"))  # the advice helps
    setup()


def test_a_folder_that_google_colab_takes_for_drive_is_found_out(drive, refused, capsys):
    (drive.point / "MyDrive").mkdir(parents=True)
    assert "must be empty for that and holds MyDrive (1 in all)" in refused(*FIRST)
    (drive.point / "MyDrive").rename(drive.point / "My Drive")
    (drive.point / "My Drive" / "x").touch()
    assert "Google Drive is not mounted: " in refused(*FIRST)
    assert "Drive already mounted" in capsys.readouterr().out
    assert not (drive.point / "MyDrive").exists()


def test_a_mount_that_did_nothing_is_an_error(drive, monkeypatch, refused):
    monkeypatch.setattr(drive, "mount", lambda *args, **kwargs: None)
    assert f"not mounted at {drive.point}, and Colab gave no error: choose Runtime > Restart" in refused(*FIRST)
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
        (ValueError("mount failed"), "ValueError: mount failed", "Run this cell again and allow everything it asks"),
        (TimeoutError(), "TimeoutError. ", "Run this cell again. If that"),
        (
            MessageError("Error: credential propagation\nwas unsuccessful"),
            "MessageError: Error: credential propagation was unsuccessful",
            "with this notebook's account, or set TC3_HOME to a folder outside Drive",
        ),
        (
            NotImplementedError("Mounting drive is unsupported in this environment. Use PyDrive2 instead."),
            "NotImplementedError: Mounting drive is unsupported",
            "Open the notebook in Colab itself, or set TC3_HOME",
        ),
        (ValueError("word " * 1000), "ValueError: word", "Run this cell again"),
    ],
)
def test_a_refusal_is_one_line_with_what_to_do(drive, refused, error, cause, advice):
    drive.fails = error
    line = refused(*FIRST)
    assert line.startswith(f"cannot mount Google Drive at {drive.point}: {cause}")
    assert advice in line
    assert len(line) < 600
    assert not drive.point.exists()
    setup()


def test_a_mount_point_that_is_a_link_or_a_file_is_an_error(drive, refused, tmp_path):
    drive.point.symlink_to(tmp_path)
    assert "must not be a symlink" in refused(*FIRST)
    drive.point.unlink()
    drive.point.touch()
    assert "must either be a directory or not exist" in refused(*FIRST)


def test_a_mount_that_died_is_forced_once_and_then_an_error(drive, refused):
    setup()
    drive.die()
    assert setup() == drive.point / "MyDrive" / "tc3"
    assert drive.mounts == [False, True]
    assert not drive.stale
    drive.die()
    drive.stays_stale = True
    assert f"Google Drive, mounted again at {drive.point}, does not answer: choose Runtime" in refused(*FIRST)
    assert drive.mounts == [False, True, True]


def test_a_drive_without_mydrive_is_an_error(drive, refused):
    drive.empty = True
    assert f"mounted at {drive.point} but there is no MyDrive in it: choose Runtime" in refused(*FIRST)
    assert not (drive.point / "MyDrive").exists()


def test_finishing_sends_everything_and_the_settings_cell_mounts_again(drive, capsys):
    work = setup()
    (work / "run.json").write_text("{}")
    capsys.readouterr()
    runtime.finish(work)
    assert capsys.readouterr().out == "Drive has everything: safe to disconnect. The settings cell mounts it again.\n"
    assert list(drive.point.iterdir()) == []

    runtime.finish(work)
    assert "Drive is not mounted: there is nothing to send. The settings cell" in capsys.readouterr().out
    assert (setup() / "run.json").read_text() == "{}"


def test_finishing_outside_drive_leaves_drive_alone(drive, tmp_path, capsys):
    runtime.finish(tmp_path / "work")
    assert capsys.readouterr().out == f"the results are in {tmp_path / 'work'}\n"
    assert drive.flushes == 0


def test_a_flush_that_fails_is_an_error_and_can_be_tried_again(drive, unfinished, capsys):
    work = setup()
    drive.fails = ValueError("flush_and_unmount failed")
    line = unfinished(work)
    assert line.startswith(f"Google Drive may lack some of what was written to {work} (ValueError: flush_and_unmount f")
    assert "do not disconnect" in line
    assert "then run the settings cell and this one again" in line
    capsys.readouterr()
    runtime.finish(setup())
    assert "Drive has everything" in capsys.readouterr().out


def test_a_drive_that_died_before_the_end_is_an_error(drive, unfinished, capsys):
    work = setup()
    drive.die()
    assert "(Transport endpoint is not connected)" in unfinished(work)
    assert drive.flushes == 1
    assert "Drive has everything" not in capsys.readouterr().out


def test_files_that_were_written_while_drive_was_away_are_named_at_the_end(drive, unfinished, capsys):
    work = setup()
    drive.vanish()
    work.mkdir(parents=True)
    (work / "report.json").touch()
    line = unfinished(work)
    assert "Google Drive is not mounted: " in line
    assert "MyDrive/tc3/report.json (1 in all)" in line
    assert "safe" not in capsys.readouterr().out


def test_a_drive_that_stays_mounted_after_the_flush_is_not_taken_for_files_left_behind(drive, monkeypatch, capsys):
    work = setup()
    (work / "run.json").touch()
    monkeypatch.setattr(drive, "flush_and_unmount", lambda: None)
    runtime.finish(work)
    assert "Drive has everything" in capsys.readouterr().out
