"""Nothing that is committed may get lost, whatever the disk does: each call fails once, or is the process's last."""

import errno
import itertools
import json
import os
import shutil
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from faults import CODES, OPERATIONS, Disk, Killed, mounts, on_small_disk

from tc3lib.checkpoints import store
from tc3lib.checkpoints.store import JOURNAL, MANIFEST

RUN, OTHER = "0123abcd", "89abcdef"
SIZES = {"adapter.bin": 150, "empty": 0, "losses.json": 40, "optimizer.bin": 64}
MOMENTS = "before", "after", "half"
ERRORS = [*((code, "before") for code in CODES), (errno.EIO, "after")]


def named(value):
    return errno.errorcode.get(value, value and str(value))


def content(name, step, run=RUN):
    return (f"{name} {step} {run} " * 30).encode()[: SIZES[name]]


def expected(step):
    return {name: content(name, step) for name in SIZES}


def sealed(folder, step, run=RUN, loss=None):
    folder.mkdir(parents=True)
    for name in SIZES:
        (folder / name).write_bytes(content(name, step, run))
    store.seal(folder, run, step, loss)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Several chunks to a file; and no waiting for a real disk, whose power nobody cuts here."""
    monkeypatch.setattr(store, "_CHUNK", 64)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def source(tmp_path):
    """What the machine's own disk holds, by step: checkpoints ready to be committed; 10 has the lowest loss."""
    return {step: sealed(tmp_path / f"source-{step}", step, loss=step / 8) for step in (10, 20, 30)}


@pytest.fixture
def outputs(tmp_path, source):
    """A folder of checkpoints with step 10 in it."""
    store.begin(tmp_path / "outputs")
    store.commit(source[10], tmp_path / "outputs")
    return tmp_path / "outputs"


def restored(folder, run=RUN):
    """Return what comes back of a checkpoint, None if it is damaged; either way nothing else may be left behind."""
    target = folder.parent.parent / "restored"
    try:
        store.restore(folder, target, run)
    except store.Damaged:
        assert not target.exists()
        return None
    back = {path.name: path.read_bytes() for path in target.iterdir()}
    shutil.rmtree(target)
    return back


def steps(outputs):
    """Return the steps whose checkpoints come back; none may come back different."""
    found = []
    for folder in store.checkpoints(outputs):
        if (back := restored(folder)) is not None:
            assert back == expected(store.step(folder))
            found.append(store.step(folder))
    return found


def folders(outputs):
    """Return the names of what is there except the journal."""
    return sorted(set(os.listdir(outputs)) - {JOURNAL})


def on(monkeypatch, disk, job, *arguments):
    """Do the job on that disk; return what it returned or raised."""
    with monkeypatch.context() as patch:
        patch.setattr(store, "os", disk)
        try:
            return job(*arguments)
        except (OSError, store.Damaged, Killed) as error:
            return error


def committing(source):
    return lambda outputs: store.commit(source, outputs)


def faults(monkeypatch, outputs, job, *, ends=None, **fault):
    """Do the job on a copy of `outputs` for each n at which the disk can fail; yield the copy, the disk, the outcome.

    Without a fault it ends well, or as `ends` says.
    """
    for n in itertools.count(1):
        copy = outputs.parent / f"{n}" / "outputs"
        shutil.copytree(outputs, copy)
        disk = Disk(n, **fault)
        outcome = on(monkeypatch, disk, job, copy)
        if disk.hit is None:
            assert isinstance(outcome, ends or (Path, type(None)))
            assert n > 1 or len(fault["operations"]) == 1  # a commit that goes well deletes nothing, for example
            return
        yield copy, disk, outcome
        shutil.rmtree(copy.parent)


def check_next_run(outputs, source):
    """What was committed is there; the next run sweeps, commits, and then each folder is a whole checkpoint."""
    assert 10 in steps(outputs)
    store.begin(outputs)
    last = store.commit(source, outputs)
    found = steps(outputs)
    assert len(found) == len(folders(outputs))
    assert set(found) == {20, 10}
    assert {f"checkpoint-10-{RUN}", last.name} <= set(store.journal(outputs)) <= set(folders(outputs))


@pytest.mark.parametrize(("code", "when"), ERRORS, ids=named)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_call_of_a_commit_fails_nothing_is_lost_and_the_next_succeeds(
    monkeypatch, source, outputs, when, operation, code
):
    fault = {"operations": [operation], "when": when, "code": code}
    for copy, disk, outcome in faults(monkeypatch, outputs, committing(source[20]), **fault):
        if operation != "mkdir" and disk.hit[1] in (copy, copy / f"checkpoint-20-{RUN}", copy / JOURNAL):
            # Not each file system can put a folder's entries on the disk; and a line of the journal may be lost.
            assert restored(outcome) == expected(20)
        else:
            assert isinstance(outcome, (OSError, store.Damaged))
            assert os.strerror(code) in str(outcome)
            assert folders(copy) == [f"checkpoint-10-{RUN}"] or (operation, when) == ("mkdir", "after")
        check_next_run(copy, source[20])


@pytest.mark.parametrize(("code", "when"), [*ERRORS, (errno.ENOSPC, "half")], ids=named)
def test_a_disk_that_fails_for_good_leaves_what_the_next_run_clears(monkeypatch, source, outputs, when, code):
    """From some call on all fail, those that would clear up included."""
    fault = {"where": "outputs", "lasting": True, "when": when, "code": code}
    for copy, _, _ in faults(monkeypatch, outputs, committing(source[20]), **fault):
        check_next_run(copy, source[20])


@pytest.mark.parametrize("when", MOMENTS)
def test_whatever_call_of_a_commit_is_the_last_nothing_is_lost_and_the_next_succeeds(
    monkeypatch, source, outputs, when
):
    for copy, _, outcome in faults(monkeypatch, outputs, committing(source[20]), when=when):
        assert isinstance(outcome, Killed)
        check_next_run(copy, source[20])


def tidy(outputs):
    """Keep the last and the best, as a run does after each commit."""
    store.rotate(outputs, 1, RUN)


def check_tidy(outputs):
    """Step 20 is whole or no checkpoint at all; the next run leaves the last and the best."""
    whole = steps(outputs)
    assert whole in ([30, 20, 10], [30, 10])
    for folder in store.checkpoints(outputs):
        if store.step(folder) not in whole:
            with pytest.raises(store.Damaged):
                store.read_manifest(folder)
    store.begin(outputs)
    tidy(outputs)
    assert folders(outputs) == [f"checkpoint-{step}-{RUN}" for step in (10, 30)]
    assert steps(outputs) == [30, 10]


@pytest.fixture
def three(source, outputs):
    store.commit(source[20], outputs)
    store.commit(source[30], outputs)
    return outputs


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize(("code", "when"), [*ERRORS, (None, "before"), (None, "after")], ids=named)
def test_a_removal_cut_short_leaves_a_whole_checkpoint_or_none(monkeypatch, three, code, when, lasting):
    for copy, _, _ in faults(monkeypatch, three, tidy, when=when, code=code, lasting=lasting):
        check_tidy(copy)


def test_what_cannot_lose_its_manifest_stays_whole(monkeypatch, three):
    disk = Disk(1, ["truncate", "unlink"], where=MANIFEST, code=errno.EIO, lasting=True)
    on(monkeypatch, disk, tidy, three)
    assert disk.hit
    assert steps(three) == [30, 20, 10]
    check_tidy(three)


def test_each_file_is_emptied_before_it_is_deleted_the_manifest_first(monkeypatch, three):
    disk, folder = Disk(), three / f"checkpoint-20-{RUN}"
    on(monkeypatch, disk, tidy, three)
    calls = disk.of("truncate", "unlink")
    assert [call[1].name for call in calls[:2]] == [MANIFEST, MANIFEST]
    for name in (MANIFEST, *SIZES):
        assert calls.index(("truncate", folder / name)) < calls.index(("unlink", folder / name))
    assert disk.calls[-1] == ("rmdir", folder)
    assert steps(three) == [30, 10]


@pytest.mark.parametrize(("code", "when"), [*ERRORS, (None, "before"), (None, "after")], ids=named)
def test_clearing_up_after_a_failed_commit_may_fail_too(monkeypatch, source, outputs, when, code):
    """The source is damaged, so each commit has something to clear up."""
    whole = shutil.copytree(source[20], source[20].with_name("whole"))
    (source[20] / "optimizer.bin").write_bytes(b"x")
    fault = {"operations": ["listdir", "truncate", "unlink", "rmdir"], "when": when, "code": code}
    for copy, _, outcome in faults(monkeypatch, outputs, committing(source[20]), ends=store.Damaged, **fault):
        assert isinstance(outcome, store.Damaged if code else Killed)
        assert str(outcome) == ("optimizer.bin is not what was saved: its size or SHA-256 differs" if code else "")
        check_next_run(copy, whole)


@pytest.mark.parametrize("name", [name for name, size in SIZES.items() if size])
def test_what_reads_back_different_is_not_committed(monkeypatch, source, outputs, name):
    disk = Disk(flip=(outputs / f"checkpoint-20-{RUN}" / name, 8 * SIZES[name] - 1))
    error = on(monkeypatch, disk, store.commit, source[20], outputs)
    assert isinstance(error, store.Damaged)
    assert str(error).startswith(f"{name} came back different from what was written")
    assert folders(outputs) == [f"checkpoint-10-{RUN}"]
    check_next_run(outputs, source[20])


def test_a_manifest_that_reads_back_different_is_not_committed(monkeypatch, source, outputs):
    for bit in range(0, 8 * (source[20] / MANIFEST).stat().st_size, 9):
        disk = Disk(flip=(outputs / f"checkpoint-20-{RUN}" / MANIFEST, bit))
        assert isinstance(on(monkeypatch, disk, store.commit, source[20], outputs), store.Damaged)
        assert folders(outputs) == [f"checkpoint-10-{RUN}"]


def test_all_is_on_the_disk_before_the_manifest_and_no_file_stays_open(monkeypatch, source, outputs):
    disk = Disk()
    folder = on(monkeypatch, disk, store.commit, source[20], outputs)
    calls = [(call, path.name) for call, path in disk.calls if call == "fsync" or path == folder / MANIFEST]
    assert calls[: len(SIZES) + 2] == [*(("fsync", name) for name in (*SIZES, folder.name)), ("open", MANIFEST)]
    synced = [path for _, path in disk.of("fsync")]
    assert synced[len(SIZES) :] == [folder, folder / MANIFEST, folder, outputs, outputs / JOURNAL]
    assert len(disk.of("open")) == len(disk.of("close"))


def test_what_cannot_be_read_for_now_is_not_swept(monkeypatch, three):
    (three / JOURNAL).write_bytes(b"")
    for copy, _, _ in faults(monkeypatch, three, store.begin, code=errno.EIO):
        assert steps(copy) == [30, 20, 10]


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(monkeypatch, source, outputs):
    disk = Disk(short=7)
    assert restored(on(monkeypatch, disk, store.commit, source[20], outputs)) == expected(20)
    assert len(disk.of("write")) > 50


def test_a_file_of_more_than_one_chunk_comes_back(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "_CHUNK", 1 << 20)
    (tmp_path / "source").mkdir()
    big = os.urandom((1 << 20) + 1)
    (tmp_path / "source" / "big").write_bytes(big)
    store.seal(tmp_path / "source", RUN, 5, None)
    assert restored(store.commit(tmp_path / "source", tmp_path / "outputs")) == {"big": big}


def flip(path, bit):
    damaged = bytearray(path.read_bytes())
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)


DAMAGES = {
    "missing": lambda path, other: path.unlink(),
    "empty": lambda path, other: os.truncate(path, 0),
    "truncated": lambda path, other: os.truncate(path, path.stat().st_size - 2),
    "longer": lambda path, other: path.write_bytes(path.read_bytes() + b"x"),
    "first bit": lambda path, other: flip(path, 0),
    "a bit within": lambda path, other: flip(path, 4 * path.stat().st_size),
    "last bit": lambda path, other: flip(path, 8 * path.stat().st_size - 1),
    "another run's": lambda path, other: shutil.copy(other / path.name, path),
    "another step's": lambda path, other: shutil.copy(path.parent.parent / f"checkpoint-10-{RUN}" / path.name, path),
}


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (damage, name)
        for damage in DAMAGES
        for name in (MANIFEST, *SIZES)
        if name != "empty" or damage in ("missing", "longer")  # the others leave an empty file as it is
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_whole(tmp_path, three, damage, name):
    newest = three / f"checkpoint-30-{RUN}"
    DAMAGES[damage](newest / name, sealed(tmp_path / "other", 30, OTHER))
    naming = "another run|adapter.bin is not what was saved" if (name, damage[:7]) == (MANIFEST, "another") else name
    with pytest.raises(store.Damaged, match=naming):
        store.restore(newest, tmp_path / "target", RUN)
    assert not (tmp_path / "target").exists()
    store.begin(three)
    assert os.path.isdir(newest)  # once committed, it is there to be named
    assert steps(three) == [20, 10]
    store.rotate(three, 2, RUN, [newest])
    assert steps(three) == [20, 10]  # it does not count
    assert not newest.exists() or name == MANIFEST


def test_any_bit_of_a_manifest_matters(outputs):
    path = outputs / f"checkpoint-10-{RUN}" / MANIFEST
    for bit in range(8 * path.stat().st_size):
        flip(path, bit)
        with pytest.raises(store.Damaged, match=MANIFEST):
            store.read_manifest(path.parent)
        flip(path, bit)
    assert steps(outputs) == [10]


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", ""])
def test_a_manifest_may_name_no_file_outside(tmp_path, outputs, name):
    (outputs / "x").write_text("x")
    path = outputs / f"checkpoint-10-{RUN}" / MANIFEST
    body = json.loads(path.read_text())
    del body["sha256"]
    body["files"][name] = [1, sha256(b"x").hexdigest()]
    digest = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(body | {"sha256": digest}))
    with pytest.raises(store.Damaged, match=r"manifest\.json names a file outside the checkpoint"):
        store.restore(path.parent, tmp_path / "target", RUN)
    assert not (tmp_path / "target").exists()


def test_another_runs_checkpoint_is_not_restored_and_planted_files_are_not_either(tmp_path, outputs):
    folder = store.commit(sealed(tmp_path / "other", 20, OTHER), outputs)
    folder = folder.rename(outputs / f"checkpoint-20-{RUN}")
    with pytest.raises(store.Damaged, match=f"belongs to another run .{OTHER}"):
        store.restore(folder, tmp_path / "target", RUN)
    (outputs / f"checkpoint-10-{RUN}" / "training_args.bin").write_text("planted")
    assert restored(outputs / f"checkpoint-10-{RUN}") == expected(10)


def committed(tmp_path, losses, run=RUN):
    store.begin(tmp_path / "outputs")
    for step, loss in losses.items():
        store.commit(sealed(tmp_path / f"{run}-{step}", step, run, loss), tmp_path / "outputs")
    return tmp_path / "outputs"


@pytest.mark.parametrize(
    ("keep", "losses", "kept"),
    [
        (None, [3, 1, 2], [3, 2, 1]),
        (1, [3, 1, 2], [3, 2]),
        (1, [1, 1, 2], [3, 2]),  # of equals the last
        (1, [2, 1, float("nan")], [3, 2]),
        (1, [None, None, None], [3]),
        (2, [1, 2, 3], [3, 2, 1]),
        (2, [3, 2, 1], [3, 2]),
        (4, [3, 2, 1], [3, 2, 1]),
    ],
)
def test_the_last_and_the_best_are_kept(tmp_path, keep, losses, kept):
    outputs = committed(tmp_path, dict(enumerate(losses, 1)))
    store.rotate(outputs, keep, RUN)
    assert steps(outputs) == kept


def test_what_was_not_saved_by_this_run_is_never_touched(tmp_path):
    committed(tmp_path, {1: 0.1, 2: 3, 9: 3}, OTHER)
    outputs = committed(tmp_path, {3: 2, 4: 1, 5: 3})
    for name in ("checkpoint-5", "notes", f"checkpoint-x-{RUN}"):
        (outputs / name).mkdir()
        (outputs / name / "adapter.bin").write_text("foreign")
    (outputs / f"checkpoint-7-{RUN}").write_text("a file")
    before = {path.relative_to(outputs): path.is_file() and path.read_bytes() for path in outputs.rglob("*")}
    store.begin(outputs)
    store.rotate(outputs, 1, RUN)
    after = {path.relative_to(outputs): path.is_file() and path.read_bytes() for path in outputs.rglob("*")}
    gone = {path.parts[0] for path in before.keys() - after.keys()}
    assert gone == {f"checkpoint-3-{RUN}"}
    assert after.items() <= before.items()


def test_without_a_journal_nothing_is_swept(three):
    """The checkpoints are those of an earlier version, or of another program."""
    (three / JOURNAL).unlink()
    (three / f"checkpoint-20-{RUN}" / MANIFEST).unlink()
    before = sorted(three.rglob("*"))
    store.begin(three)
    assert sorted(three.rglob("*")) == sorted([*before, three / JOURNAL])
    assert store.journal(three) == []


def test_a_damaged_line_of_the_journal_costs_that_line_alone(three, source):
    names = [f"checkpoint-{step}-{RUN}" for step in (10, 20, 30)]
    assert store.journal(three) == names
    whole = (three / JOURNAL).read_bytes()
    for size in range(len(whole)):
        (three / JOURNAL).write_bytes(whole[:size])
        lines = (whole + b"\n")[1 : size + 1].count(b"\n")  # each begins with a line break
        assert store.journal(three) == names[:lines]
        again = store.commit(source[30], three)
        assert store.journal(three) == [*names[:lines], again.name]
        store.remove(again)
    (three / JOURNAL).write_bytes(b'\xff\n[1]\n"x"\n{}\n1\n' + whole)
    assert store.journal(three) == names
    assert steps(three) == [30, 20, 10]


def test_the_journal_is_not_made_in_a_folder_that_has_none(tmp_path, source):
    """The folder may have taken the place of a lost mount."""
    store.commit(source[10], tmp_path / "outputs")
    assert steps(tmp_path / "outputs") == [10]
    assert store.journal(tmp_path / "outputs") is None


def test_damaged_ones_go_when_enough_good_ones_are_there(tmp_path):
    outputs = committed(tmp_path, {1: 3, 2: 2, 3: 1})
    damaged = [outputs / f"checkpoint-3-{RUN}"]
    store.rotate(outputs, 3, RUN, damaged)
    assert steps(outputs) == [3, 2, 1]
    store.rotate(outputs, 1, RUN, damaged)
    assert steps(outputs) == [2]


def test_a_manifest_cut_off_anywhere_is_swept_unless_it_was_committed(three):
    newest, journal = three / f"checkpoint-30-{RUN}", (three / JOURNAL).read_bytes()
    whole = (newest / MANIFEST).read_bytes().rstrip()

    def swept(noted):
        (three / JOURNAL).write_bytes(noted)
        store.begin(three)
        return not newest.exists()

    for size in range(len(whole) + 1):
        newest.mkdir(exist_ok=True)
        (newest / MANIFEST).write_bytes(whole[:size])
        assert not swept(journal)
        assert swept(b"") == (size < len(whole))
    (newest / MANIFEST).unlink()
    assert not swept(journal)
    assert swept(b"")
    assert steps(three) == [20, 10]


@pytest.mark.parametrize("shown", [(), (10,), (10, 20), (10, 20, 30, 40)])
def test_a_stale_or_slow_listing_costs_nothing_that_is_committed(monkeypatch, source, three, shown):
    """It lacks the newest, or shows one that is gone."""
    disk = Disk(stale={three: [f"checkpoint-{step}-{RUN}" for step in shown]}, slow=0.01)
    assert len(on(monkeypatch, disk, store.checkpoints, three)) == len(shown)
    on(monkeypatch, disk, store.begin, three)
    assert steps(three) == [30, 20, 10]
    again = on(monkeypatch, disk, store.commit, source[30], three)
    assert again.name == f"checkpoint-30-{RUN}.1"
    assert on(monkeypatch, disk, tidy, three) is None
    assert {30, 10} <= set(steps(three))
    tidy(three)
    assert store.checkpoints(three) == [again, three / f"checkpoint-10-{RUN}"]


@pytest.mark.parametrize("lacking", [MANIFEST, "empty", "optimizer.bin"])
def test_what_a_stale_listing_lacks_goes_another_time(monkeypatch, three, lacking):
    folder = three / f"checkpoint-20-{RUN}"
    disk = Disk(stale={folder: [name for name in os.listdir(folder) if name != lacking] + ["gone"]})
    on(monkeypatch, disk, tidy, three)
    check_tidy(three)


def test_sealing_anew_takes_what_is_there_now(source, tmp_path):
    (source[20] / "optimizer.bin").write_bytes(b"later")
    (source[20] / "training_args.bin").write_bytes(b"pickled")
    store.seal(source[20], RUN, 20, float("nan"))
    folder = store.commit(source[20], tmp_path / "outputs")
    assert store.read_manifest(folder).eval_loss is None
    assert restored(folder) == expected(20) | {"optimizer.bin": b"later"}


MOUNTED = """
import sys
from pathlib import Path
from tc3lib.checkpoints import store

outputs, first, second, run = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
for source in (first, second, second):
    try:
        print(store.commit(source, outputs).name)
    except OSError as error:
        print(error.strerror)
print(*sorted(path.name for path in outputs.iterdir()))
store.rotate(outputs, 1, run)
try:
    print(store.commit(second, outputs).name)
except OSError as error:
    print(error.strerror)
store.restore(store.committed(outputs)[0], Path(sys.argv[5]), run)
"""


@pytest.mark.parametrize("mount", mounts())
def test_on_a_real_disk_that_is_full_or_read_only(tmp_path, mount):
    """It has room for two checkpoints."""
    if mount not in ("full", "read-only"):
        pytest.skip("this machine does not let a user mount a file system")
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for step in (1, 2):
        (tmp_path / str(step)).mkdir()
        (tmp_path / str(step) / "adapter.bin").write_bytes(bytes([step]) * 200_000)
        store.seal(tmp_path / str(step), RUN, step, None)
    first, second = f"checkpoint-1-{RUN}", f"checkpoint-2-{RUN}"
    fill = f"cp -r {tmp_path}/1 {outputs}/{first}" if mount == "read-only" else "true"
    command = [sys.executable, "-c", MOUNTED, outputs, tmp_path / "1", tmp_path / "2", RUN, tmp_path / "target"]
    done = on_small_disk(outputs, "512k", fill, mount, command)
    printed = [first, second, "No space left on device", f"{first} {second}", f"{second}.1"]
    if mount == "read-only":
        printed = [*["Read-only file system"] * 3, first, "Read-only file system"]
    assert (done.stdout.splitlines(), done.stderr) == (printed, "")
    whole = bytes([1 if mount == "read-only" else 2]) * 200_000
    assert (tmp_path / "target" / "adapter.bin").read_bytes() == whole


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder: needs another user")
def test_a_folder_that_may_not_be_written(source, outputs):
    outputs.chmod(0o555)
    with pytest.raises(PermissionError):
        store.commit(source[20], outputs)
    tidy(outputs)
    assert steps(outputs) == [10]
    outputs.chmod(0o755)
    check_next_run(outputs, source[20])
