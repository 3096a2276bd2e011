import json
import os
import random
import re
import subprocess
import sys

import pytest

from tc3lib import settings
from tc3lib.catalogue import prepare as data
from tc3lib.catalogue import workers
from tc3lib.errors import Tc3Error
from tc3lib.prompts import format_record


def write(path, products):
    path.write_text("".join(json.dumps(product, ensure_ascii=False) + "\n" for product in products), encoding="utf-8")
    return path


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recipe(source):
    """The user's own loop: strip, keep if both are there, format."""
    kept = []
    with open(source, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            title, content = row["title"].strip(), row["content"].strip()
            if title and content:
                response = f"The '{title}' is {content}"
                kept.append({"instruction": "Describe the product [input]", "input_text": title, "response": response})
    return kept


def test_without_cleaning_it_is_the_users_rule_record_for_record(tmp_path):
    source = settings.tiny().data.fallback_source
    report = data.prepare(source, tmp_path / "trn_output.json", clean=False)
    assert records(tmp_path / "trn_output.json") == recipe(source)
    assert report.kept == len(recipe(source))


def test_every_line_is_accounted_for(tmp_path):
    lines = [
        '{"uid": "a", "title": "Mug", "content": "A mug."}',
        '{"title": " ", "content": "A mug."}',
        '{"title": "Mug", "content": ""}',
        '{"title": "", "content": "  "}',
        '{"title": "Mug", "content": "&nbsp; &#xA0;"}',
        "",
        "not json",
        '{"title": 3, "content": "x"}',
        '{"title": "Mug"}',
        '{"title": "Pan", "content": "A pan.", "uid": 7.5, "other": [[{}]]}',
        '{"title": "Cup", "content": null}',
    ]
    (tmp_path / "trn.json").write_text("\n".join(lines))
    report = data.prepare(tmp_path / "trn.json", tmp_path / "out.json", max_damaged=0.3)
    assert (report.read, report.kept) == (11, 2)
    assert report.dropped == {
        "blank_title": 1, "blank_content": 2, "blank_both": 1, "blank_after_cleaning": 1, "empty_line": 1, "damaged": 3,
    }  # fmt: skip
    assert report.read == report.kept + sum(report.dropped.values())
    assert records(tmp_path / "out.json") == [format_record("Mug", "A mug."), format_record("Pan", "A pan.")]
    assert records(tmp_path / "out.uid.jsonl") == ["a", 7.5]
    quarantined = records(tmp_path / "quarantine.jsonl")
    assert [row["line"] for row in quarantined] == [7, 8, 9]
    whole = (tmp_path / "trn.json").read_bytes()
    for row in quarantined:
        assert whole[row["offset"] :].startswith(lines[row["line"] - 1].encode())
    assert "Expected `str | null`, got `int`" in records(tmp_path / "quarantine.jsonl")[1]["reason"]


def test_a_second_run_without_damage_leaves_no_old_quarantine(tmp_path):
    write(tmp_path / "trn.json", [{"title": "Mug", "content": "A mug."}])
    (tmp_path / "quarantine.jsonl").write_text("old")
    data.prepare(tmp_path / "trn.json", tmp_path / "out.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.uid.jsonl", "trn.json"]


def test_any_number_of_workers_writes_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "RANGE_BYTES", 1000)
    rows = [{"uid": str(n), "title": f"Mug {n}", "content": f"A mug {n}." * (n % 7)} for n in range(500)]
    source = write(tmp_path / "trn.json", rows)
    with open(source, "a") as file:
        file.write("damaged\n")
    outputs = []
    for count in (1, 2, 3, 70):
        report = data.prepare(source, tmp_path / "out.json", workers=count)
        files = [(tmp_path / name).read_bytes() for name in ("out.json", "out.uid.jsonl", "quarantine.jsonl")]
        outputs.append((report.read, report.kept, report.dropped, files))
    assert outputs[0] == outputs[1] == outputs[2] == outputs[3]
    assert json.loads(outputs[0][3][2])["line"] == 501


def test_a_missing_file_and_one_without_usable_rows_are_named(tmp_path):
    with pytest.raises(Tc3Error, match=r"no file .*trn\.json: expected JSON Lines with `title` and `content`"):
        data.prepare(tmp_path / "trn.json", tmp_path / "out.json")
    (tmp_path / "trn.json").write_text('{"name": "Mug"}\n')
    with pytest.raises(Tc3Error, match=r"trn\.json has no row with a title and a content in 1 lines.*missing required"):
        data.prepare(tmp_path / "trn.json", tmp_path / "out.json")
    assert [path.name for path in tmp_path.iterdir()] == ["trn.json"]


def test_the_old_output_stays_when_the_new_one_fails(tmp_path):
    write(tmp_path / "trn.json", [{"title": "Mug", "content": ""}])
    (tmp_path / "out.json").write_text("old")
    with pytest.raises(Tc3Error):
        data.prepare(tmp_path / "trn.json", tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == "old"


def test_too_many_damaged_lines_stop_it_and_the_first_three_are_shown(tmp_path):
    rows = [json.dumps({"title": f"Mug {n}", "content": "A mug."}) for n in range(396)]
    for spoilt in (5, 6, 7, 300):
        rows.insert(spoilt, "spoilt")
    (tmp_path / "trn.json").write_text("\n".join(rows))
    assert data.prepare(tmp_path / "trn.json", tmp_path / "out.json").dropped == {"damaged": 4}  # 1 % is put up with
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with open(tmp_path / "trn.json", "a") as file:
        file.write("\nspoilt")
    with pytest.raises(Tc3Error) as caught:
        data.prepare(tmp_path / "trn.json", tmp_path / "out.json")
    message = str(caught.value)
    assert "5 of 401 lines are damaged, 1.2%; at most 1.0% (max_damaged)" in message
    offset = (tmp_path / "trn.json").read_bytes().index(b"spoilt")
    assert [f'"line":{number},' in message for number in (6, 7, 8, 301)] == [True, True, True, False]
    assert f'"offset":{offset},' in message
    del before["trn.json"]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "trn.json"} == before
    assert data.prepare(tmp_path / "trn.json", tmp_path / "out.json", max_damaged=0.02).kept == 396


@pytest.mark.parametrize(
    ("clean", "lines", "usable", "remark"),
    [
        (False, 10, 7, "This is the whole LF-AmazonTitles-1.3MM: 10 lines, 7 usable before cleaning."),
        (True, 10, 7, "This is the whole LF-AmazonTitles-1.3MM: 10 lines, 7 usable before cleaning."),
        (True, 10, 8, "As many lines as LF-AmazonTitles-1.3MM (10), but 7 usable before cleaning, not 8"),
        (True, 11, 7, ""),
    ],
)
def test_the_whole_catalogue_of_the_challenge_is_recognised(tmp_path, monkeypatch, clean, lines, usable, remark):
    monkeypatch.setattr(data, "FULL_LINES", lines)
    monkeypatch.setattr(data, "FULL_USABLE", usable)
    contents = ["A mug."] * 6 + ["&nbsp;"] + [""] * 3
    write(tmp_path / "trn.json", [{"title": "Mug", "content": content} for content in contents])
    report = data.prepare(tmp_path / "trn.json", tmp_path / "out.json", clean=clean)
    assert report.remark.startswith(remark) if remark else report.remark == ""
    assert report.kept == (6 if clean else 7)


def test_the_known_totals_are_those_of_the_real_file():
    assert (data.FULL_LINES, data.FULL_USABLE) == (2_248_619, 1_390_403)


NOTED = "Tea&nbsp;for two.--This text refers to theHardcoveredition."


def test_what_cleaning_changes_is_shown_before_and_after(tmp_path):
    write(
        tmp_path / "trn.json",
        [
            {"uid": "a", "title": "Mug", "content": " A mug. "},
            {
                "uid": "b",
                "title": "Tom &amp; Co",
                "content": "Tea&nbsp;for two.--This text refers to theHardcoveredition.",
            },
            {"uid": "c", "title": None, "content": "1  2"},
        ],
    )
    assert data.before_and_after(tmp_path / "trn.json") == [
        {"uid": "c", "before": "1  2", "after": "1 2"},
        {"uid": "b", "before": "Tom &amp; Co", "after": "Tom & Co"},
        {"uid": "b", "before": NOTED, "after": "Tea for two."},
    ]


def test_the_bar_shows_rows_a_second_and_the_time_left(tmp_path, capsys):
    write(tmp_path / "trn.json", [{"title": "Mug", "content": "A mug."}] * 1234)
    data.prepare(tmp_path / "trn.json", tmp_path / "out.json")
    last = capsys.readouterr().err.split("\r")[-1]
    assert re.search(r"trn\.json: 100%\|.*\|, 1,234 rows, [\d,]+ rows/s \[\d\d:\d\d<\d\d:\d\d\]", last)


def test_running_again_changes_no_byte(tmp_path):
    source = settings.tiny().data.fallback_source
    outputs = []
    for _ in range(2):
        data.prepare(source, tmp_path / "out.json")
        outputs.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert outputs[0] == outputs[1]
    assert set(outputs[0]) == {"out.json", "out.uid.jsonl"}


LARGE = """
import sys
from tc3lib.catalogue import prepare as data
source, target, workers = sys.argv[1:]
data.prepare(source, target, workers=int(workers))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A catalogue that takes long enough to be interrupted: 200,000 rows."""
    path = tmp_path_factory.mktemp("large") / "trn.json"
    line = json.dumps({"uid": "a", "title": "Mug &amp; Co", "content": "A mug of  steel. " * 20})
    path.write_text(f"{line}\n" * 200_000)
    return path


@pytest.mark.parametrize("count", [1, 2])
def test_a_kill_at_any_moment_leaves_the_old_files_and_no_litter(tmp_path, large, count):
    old = dict.fromkeys(("out.json", "out.uid.jsonl", "quarantine.jsonl"), b"old")
    command = [sys.executable, "-c", LARGE, str(large), str(tmp_path / "out.json"), str(count)]
    draw, killed, hidden = random.Random(count), 0, []
    for _ in range(10):
        for name, content in old.items():
            (tmp_path / name).write_bytes(content)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0.05, 0.7))
        except subprocess.TimeoutExpired:
            killed += 1
        process.kill()
        process.wait()
        found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        for name in set(found) - set(old):  # killed in the microseconds in which a whole file gets its name
            assert re.fullmatch(r"\.(out\.json|out\.uid\.jsonl|quarantine\.jsonl)\.[0-9a-f]{8}", name)
            hidden.append(name)
            del found[name]
        if found != old:  # it was done, or about to be
            assert found["out.uid.jsonl"].count(b"\n") == 200_000
            assert found["out.json"] == b"old" or found["out.json"].count(b"\n") == 200_000
    assert killed
    assert len(hidden) <= 3
    data.prepare(large, tmp_path / "out.json", workers=count)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.uid.jsonl"]


def test_memory_does_not_grow_with_a_line(tmp_path):
    """One line of 200 MB among good ones, in a fresh process: it costs itself, and no process holds it."""
    good = b'{"uid": "a", "title": "Mug", "content": "A mug."}\n'
    with open(tmp_path / "trn.json", "wb") as file:
        file.write(good * 150 + b'{"title": "')
        file.writelines(b"x" * (1 << 20) for _ in range(200))
        file.write(b'", "content": "y"}\n' + good * 150)
    code = LARGE + (
        "import re, resource\n"
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"  # unlike ru_maxrss from exec on
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    for count in ("1", "2"):
        command = [sys.executable, "-c", code, str(tmp_path / "trn.json"), str(tmp_path / "out.json"), count]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert max(map(int, done.stdout.split())) < 64 << 10
        (row,) = records(tmp_path / "quarantine.jsonl")
        assert row == {"line": 151, "offset": 150 * len(good), "reason": "longer than 1,048,576 bytes"}
        assert len(records(tmp_path / "out.json")) == 300


def test_a_worker_that_dies_is_told_and_nothing_is_left(tmp_path, large, monkeypatch):
    monkeypatch.setattr(workers, "_MODULE", "tc3lib.no_such_module")
    with pytest.raises(Tc3Error, match=r"a worker of 01_prepare ended too early \(exit status 1"):
        data.prepare(large, tmp_path / "out.json", workers=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.json", "out.uid.jsonl", "quarantine.jsonl"])
def test_the_catalogue_itself_is_never_overwritten(tmp_path, name):
    source = write(tmp_path / name, [{"title": "Mug", "content": "A mug."}])
    before = source.read_bytes()
    with pytest.raises(Tc3Error, match=rf"{name} would overwrite the catalogue"):
        data.prepare(source, tmp_path / "out.json")
    assert source.read_bytes() == before


def peaks(source, target, count):
    """Run `prepare` in a fresh process; return the largest memory of any process, in MiB."""
    code = LARGE.replace("workers=int(workers)", "workers=int(workers), max_damaged=1") + (
        "import re, resource\n"
        "own = re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]\n"
        "print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, source, target, count], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return max(map(int, done.stdout.split())) / 1024


GOOD = b'{"uid": "a", "title": "Mug", "content": "A mug."}'
HEAVY = {
    "damaged lines": b"x\n" * (5 << 19),
    "short rows": b'{"title":"a","content":"b"}\n' * 600_000,
    "long titles": (b'{"title": "' + b"x" * 1_000_000 + b'", "content": "y"}\n') * 12,
    "long title with an emoji": b'{"title": "' + b"x" * 1_000_000 + "😀".encode() + b'", "content": "y"}\n',
    "one word after the other": b'{"title": "a", "content": "\\t' + b"ab " * 340_000 + b'"}\n',
    "text that NFC makes longer": b'{"title": "' + "\U0001d160".encode() * 250_000 + b'", "content": "y"}\n',
    "an array of nothing": b"[" + b"{}," * (1 << 19) + GOOD + b"]",
    "an array": b"[" + b",".join([GOOD] * 200_000) + b"]",
    "an array with many escapes": b'[{"title": "a", "content": "x' + b"\\n" * 500_000 + b'"}]',
    "an array of openers": b'[{"x":' + b"[" * (4 << 20),
}


@pytest.mark.parametrize(
    ("name", "count"),
    [*((name, "1") for name in HEAVY), *((name, "2") for name in HEAVY if not HEAVY[name].startswith(b"["))],
)
def test_memory_stays_below_64_mib_whatever_the_file_holds(tmp_path, name, count):
    first = b"" if HEAVY[name].startswith(b"[") else GOOD + b"\n"
    (tmp_path / "trn.json").write_bytes(first + HEAVY[name].replace(b'{"x":', GOOD + b',{"x":'))
    assert peaks(str(tmp_path / "trn.json"), str(tmp_path / "out.json"), count) < 64


def test_a_defect_in_a_worker_reaches_the_reader(tmp_path, large, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import tc3lib.catalogue.records\ndef convert(*_): raise KeyError('broken')\ntc3lib.records.convert = convert\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    with pytest.raises(Tc3Error, match="a defect of tc3lib, please report it: KeyError: 'broken'"):
        data.prepare(large, tmp_path / "out.json", workers=2)


def test_a_source_with_any_name_is_read_by_workers_too(tmp_path):
    source = tmp_path / os.fsdecode(b"caf\xe9.json")
    write(source, [{"title": "Mug", "content": "A mug."}])
    assert data.prepare(source, tmp_path / "out.json", workers=2).kept == 1


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_workers_that_makes_no_sense_is_told(tmp_path, count):
    with pytest.raises(Tc3Error, match=rf"workers={count}: expected 1 or more"):
        data.prepare(tmp_path / "trn.json", tmp_path / "out.json", workers=count)


@pytest.mark.parametrize(
    "name", [".", "/", "a\0b", "quarantine.jsonl", "x" * 300, "file/out.json", "loop", "no/out.json"]
)
def test_a_target_that_cannot_be_written_is_told(tmp_path, name):
    source = write(tmp_path / "trn.json", [{"title": "Mug", "content": "A mug."}])
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(Tc3Error, match=r"cannot write|cannot be the file to write"):
        data.prepare(source, name if name in "./" else tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_worker_imports_what_its_caller_does(tmp_path, monkeypatch):
    """A file of the current folder with a module's name is not that module."""
    source = write(tmp_path / "trn.json", [{"title": "Mug", "content": "A mug."}])
    (tmp_path / "msgspec.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert data.prepare(source, tmp_path / "out.json", workers=2).kept == 1


def test_many_damaged_lines_come_from_workers_as_from_one_process(tmp_path, monkeypatch):
    """A worker answers early when it holds many damaged lines, and goes on with the rest of its range."""
    monkeypatch.setattr(workers, "RANGE_BYTES", 100_000)
    draw = random.Random(0)
    lines = [b"spoilt" if draw.random() < 0.5 else GOOD for _ in range(20_000)]
    (tmp_path / "trn.json").write_bytes(b"\n".join(lines))
    outputs = []
    for count in (1, 2, 3):
        report = data.prepare(tmp_path / "trn.json", tmp_path / "out.json", workers=count, max_damaged=1)
        names = ("out.json", "out.uid.jsonl", "quarantine.jsonl")
        outputs.append((report.read, report.kept, report.dropped, [(tmp_path / name).read_bytes() for name in names]))
    assert outputs[0] == outputs[1] == outputs[2]
    assert [row["line"] for row in records(tmp_path / "quarantine.jsonl")] == [
        number for number, line in enumerate(lines, 1) if line == b"spoilt"
    ]
