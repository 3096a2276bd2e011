import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import mounts, on_small_disk

from tc3lib import files
from tc3lib.errors import Tc3Error


def test_rows_come_back_and_a_damaged_line_is_named(tmp_path):
    rows = [{"uid": None, "title": "né"}, {"n": 1}]
    files.write_rows(tmp_path / "rows.jsonl", rows)
    assert files.read_rows(tmp_path / "rows.jsonl") == rows
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"b":\n')
    assert files.read_rows(tmp_path / "rows.jsonl", 1) == [{"a": 1}]
    with pytest.raises(Tc3Error, match=r"rows\.jsonl, line 2: .*Delete the file and run its notebook again"):
        files.read_rows(tmp_path / "rows.jsonl")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(Tc3Error, match=r"cannot write .*nowhere/rows\.jsonl: No such file or directory"):
        files.write_rows(tmp_path / "nowhere" / "rows.jsonl", [])


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "rows.jsonl").write_text("old")

    def rows():
        yield {"n": 1}
        assert (tmp_path / "rows.jsonl").read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_rows(tmp_path / "rows.jsonl", rows())
    assert (tmp_path / "rows.jsonl").read_text() == "old"
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_relative_path_is_relative_to_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    for text in ("1", "2"):
        with files.replacing(Path("below/file")) as file:
            file.write(text.encode())
        assert (tmp_path / "below" / "file").read_text() == text
    assert os.listdir("below") == ["file"]


def test_a_json_document_is_readable_by_people(tmp_path):
    files.write_json(tmp_path / "report.json", {"n": 1, "name": "né"})
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == '{\n  "n": 1,\n  "name": "né"\n}\n'


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(Tc3Error, match=r"no file .*rows\.jsonl: run the notebooks before this one first"):
        files.read_rows(tmp_path / "rows.jsonl")


def test_where_the_folder_is_gone_too_the_settings_cell_mounts_drive_again(tmp_path):
    with pytest.raises(Tc3Error, match=r"there is no folder .*gone\. Run the settings cell again \(it mounts Drive"):
        files.read_rows(tmp_path / "gone" / "rows.jsonl")
    with pytest.raises(Tc3Error, match=r"cannot write .*gone/rows\.jsonl: .*\. Run the settings cell again"):
        files.write_rows(tmp_path / "gone" / "rows.jsonl", [])


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOTCONN, "If it is on Drive, choose Runtime > Restart session"), (errno.EACCES, "Make it readable")],
)
def test_a_file_that_cannot_be_read_is_named(folder, monkeypatch, number, advice):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "open", fail, raising=False)
    with pytest.raises(Tc3Error, match=rf"cannot read .*rows\.jsonl: {os.strerror(number)}\. {advice}"):
        files.read_rows(folder / "rows.jsonl")


@pytest.fixture
def folder(tmp_path):
    """A folder with an old file."""
    (tmp_path / "rows.jsonl").write_text("old")
    return tmp_path


def test_a_file_takes_the_old_ones_place_and_the_usual_permissions(folder):
    mask = os.umask(0o027)
    try:
        files.write_rows(folder / "rows.jsonl", [{"n": 1}])
    finally:
        os.umask(mask)
    assert files.read_rows(folder / "rows.jsonl") == [{"n": 1}]
    assert os.listdir(folder) == ["rows.jsonl"]
    assert (folder / "rows.jsonl").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTCONN])
def test_whatever_call_fails_the_old_file_stays_and_no_other(folder, monkeypatch, call, code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(Tc3Error, match=f"{os.strerror(code)}.* The file that was there before is unchanged"):
        files.write_rows(folder / "rows.jsonl", [{"n": 1}])
    assert (folder / "rows.jsonl").read_text() == "old"
    assert os.listdir(folder) == ["rows.jsonl"]


@pytest.mark.parametrize("failing", ["a", "b", "c"])
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_of_files_that_belong_together_none_is_replaced_if_one_fails(tmp_path, monkeypatch, call, failing):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.write_text("old")
    real = {"open": open, "fsync": os.fsync}[call]

    def fail(file, *arguments, **options):
        name = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else file
        if os.path.basename(name).startswith(f".{failing}."):
            raise OSError(errno.EIO, "Input/output error")
        return real(file, *arguments, **options)

    monkeypatch.setattr(os if call == "fsync" else files, call, fail, raising=False)
    with (
        pytest.raises(Tc3Error, match=f"cannot write .*/{failing}: Input/output error"),
        files.replacing_all(*paths) as opened,
    ):
        for file in opened:
            file.write(b"new")
    monkeypatch.undo()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old", "c": "old"}


def test_a_folder_in_a_files_place_is_reported_before_any_is_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("old")
    with (
        pytest.raises(Tc3Error, match=r"cannot write .*/a: Is a directory"),
        files.replacing_all(tmp_path / "a", tmp_path / "b"),
    ):
        pass
    assert (tmp_path / "b").read_text() == "old"


def test_two_runs_into_one_folder_are_kept_apart(tmp_path):
    with files.alone(tmp_path):
        refused = pytest.raises(Tc3Error, match=r"another run is writing to .*: wait until it is done")
        with refused, files.alone(tmp_path):
            pass
        (tmp_path / "other").mkdir()
        with files.alone(tmp_path / "other"):
            pass
    with files.alone(tmp_path):
        pass
    with (
        pytest.raises(Tc3Error, match=r"cannot write .*/gone: No such file or directory"),
        files.alone(tmp_path / "gone"),
    ):
        pass


def test_what_a_killed_process_left_goes_and_what_a_live_one_writes_stays(tmp_path):
    (tmp_path / ".rows.jsonl.0123abcd").write_text("left by a killed process")
    (tmp_path / ".rows.jsonl.notes").write_text("the user's own")
    with files.replacing(tmp_path / "rows.jsonl") as file:
        file.write(b"first")
        files.write_rows(tmp_path / "rows.jsonl", [{"n": 2}])
        assert len(os.listdir(tmp_path)) == 3
    assert (tmp_path / "rows.jsonl").read_bytes() == b"first"
    assert sorted(os.listdir(tmp_path)) == [".rows.jsonl.notes", "rows.jsonl"]


FULL = """
import sys
from pathlib import Path
from tc3lib import files
from tc3lib.errors import Tc3Error

folder, source = Path(sys.argv[1]), Path(sys.argv[2])
names = "trn_output.json", "trn_output.uid.jsonl", "quarantine.jsonl"
try:
    with files.replacing_all(*(folder / name for name in names)) as opened, files.blaming(folder / names[0]):
        for file in opened:
            file.write(source.read_bytes())
except Tc3Error as error:
    print(error)
print(sorted((path.name, path.read_text()) for path in folder.iterdir()))
"""


@pytest.mark.parametrize("mount", mounts())
def test_a_full_or_read_only_disk_leaves_the_old_files_and_no_litter(tmp_path, mount):
    if mount not in ("full", "read-only"):
        pytest.skip("this machine does not let a user mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "content").write_bytes(b"x" * (3 << 20))
    olds = ("trn_output.json", "trn_output.uid.jsonl", "quarantine.jsonl")
    fill = f"cd {disk}; for name in {' '.join(olds)}; do printf old > $name; done; cd -"
    done = on_small_disk(disk, "2m", fill, mount, [sys.executable, "-c", FULL, disk, tmp_path / "content"])
    message, left = done.stdout.splitlines()[-2:]
    reason = "No space left on device. Free some space" if mount == "full" else "Read-only file system. Make its folder"
    assert f"cannot write {disk}/trn_output.json: {reason}" in message
    assert message.endswith("choose another folder with TC3_HOME. The file that was there before is unchanged.")
    assert left == str(sorted((name, "old") for name in olds))


def test_a_file_that_outgrows_its_limit_is_reported(tmp_path):
    """The same refusal where no file system can be mounted: the process may write no file over 1 MB."""
    (tmp_path / "content").write_bytes(b"x" * (3 << 20))
    (tmp_path / "out").mkdir()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    run = [sys.executable, "-c", limit + FULL, str(tmp_path / "out"), str(tmp_path / "content")]
    message, left = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "out/trn_output.json: File too large." in message
    assert left == "[]"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "out"
    with files.replacing_folder(folder) as new:
        (new / "a").write_text("1")
    with pytest.raises(ValueError), files.replacing_folder(folder) as new:
        (new / "a").write_text("2")
        raise ValueError
    assert (folder / "a").read_text() == "1"
    with files.replacing_folder(folder) as new:
        (new / "b").write_text("3")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {"out", "out/b"}
    folder.rename(tmp_path / ".out.old")  # where a break between the two renames leaves it
    with pytest.raises(ValueError), files.replacing_folder(folder):
        raise ValueError
    assert (folder / "b").read_text() == "3"
    with pytest.raises(FileNotFoundError), files.replacing_folder(tmp_path / "none" / "out"):
        pass
    (tmp_path / "link").symlink_to(folder)
    for text in ("4", "5"):
        with files.replacing_folder(tmp_path / "link") as new:
            (new / "c").write_text(text)
        assert [path.read_text() for path in folder.iterdir()] == [text]
    assert (tmp_path / "link").is_symlink()
