"""The table at the top of a stage: a tick where all is well, a line of advice where not, before anything heavy."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from tc3lib import settings
from tc3lib.errors import Tc3Error
from tc3lib.runtime import packages as colab
from tc3lib.runtime import preflight

ROOT = Path(__file__).parents[2]
GIB, MIB = 2**30, 2**20
L4 = "0, GPU-aaaa, NVIDIA L4, 23034, 22564, 8.9"
T4 = "0, GPU-bbbb, Tesla T4, 15360, 15095, 7.5"


@pytest.fixture(autouse=True)
def tested(monkeypatch):
    """A machine on which everything is as tested, torch for GPUs included."""
    versions = colab.pins(colab.REQUIREMENTS) | {"torch": "2.11.0+cu128"}
    monkeypatch.setattr(colab, "installed", versions.get)
    monkeypatch.setattr(colab, "in_use", lambda wanted: [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return versions


@pytest.fixture
def smi(monkeypatch, tmp_path):
    """A function that puts a stand-in for nvidia-smi into PATH."""

    def say(text, status=0):
        script = tmp_path / "bin" / "nvidia-smi"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\ncat <<'E'\n{text}\nE\nexit {status}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")

    return say


@pytest.fixture
def no_smi(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)


def free(monkeypatch, size, total=2**40):
    usage = namedtuple("usage", "total used free")(total, 0, size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def machine(config=None, model=True, in_colab=True, token=""):
    rows = preflight.machine(config or settings.llama3_8b(), model=model, in_colab=in_colab, token=token)
    return {row.name: row for row in rows}


def places(config, work, stage="03_train", model=True, on_drive=True, in_colab=True):
    rows = preflight.places(config, work, stage=stage, model=model, on_drive=on_drive, in_colab=in_colab)
    return {row.name: row for row in rows}


def test_a_good_machine_gets_ticks_alone(smi, monkeypatch, tmp_path):
    smi(L4)
    free(monkeypatch, 200 * GIB)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    rows = [*machine().values(), *places(settings.llama3_8b(), tmp_path).values()]
    assert [row.name for row in rows] == [
        "Python", "packages", "GPU", "bfloat16", "memory", "token", "work folder", "model", "Drive",
    ]  # fmt: skip
    assert [row for row in rows if row.advice or row.fatal] == []
    preflight.refuse(rows)


def test_the_table_is_aligned_with_a_tick_or_a_line_of_advice_a_row():
    rows = [preflight.Row("Python", "3.13"), preflight.Row("bfloat16", "no", "choose an L4")]
    assert preflight.table(rows) == "✓  Python    3.13\n!  bfloat16  no: choose an L4"


def test_an_output_without_a_tick_gets_letters(monkeypatch):
    plain = namedtuple("stdout", "encoding")("iso-8859-1")
    monkeypatch.setattr(sys, "stdout", plain)
    table = preflight.table([preflight.Row("a", "b"), preflight.Row("c", "d", "e")])
    assert table == "ok  a  b\n!   c  d: e"


def test_what_a_stage_cannot_do_without_is_an_error_with_the_table_before_it(capsys):
    rows = [preflight.Row("a", "fine"), preflight.Row("b", "broken", "mend it", fatal=True)]
    with pytest.raises(Tc3Error, match=r"^broken: mend it\.$"):
        preflight.refuse(rows)
    assert capsys.readouterr().out == "✓  a  fine\n!  b  broken: mend it\n"
    preflight.refuse(rows[:1])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("version", "well"), [("3.10.9", False), ("3.11.0", True), ("3.13.9", True), ("3.14.1", False)]
)
def test_an_untested_python_is_told(monkeypatch, version, well):
    monkeypatch.setattr(preflight.platform, "python_version", lambda: version)
    monkeypatch.setattr(preflight.platform, "python_version_tuple", lambda: tuple(version.split(".")))
    row = machine(model=False)["Python"]
    assert row.found == version
    advice = "tested with 3.11 to 3.13; if it fails, choose "
    assert row.advice == ("" if well else f"{advice}Runtime > Change runtime type > Runtime version")
    assert machine(model=False, in_colab=False)["Python"].advice.endswith("" if well else "make PYTHON=python3.13")


def test_packages_as_tested_are_counted(tested):
    count = len(colab.pins(colab.REQUIREMENTS))
    assert machine(model=False)["packages"].found == f"{count} as tested, torch 2.11.0+cu128"


def test_a_package_in_another_version_is_told(tested, no_smi):
    tested["trl"] = "0.9.0"
    del tested["sacrebleu"]
    row = machine()["packages"]
    pin = colab.pins(colab.REQUIREMENTS)
    assert row.found == f"sacrebleu is absent (tested: {pin['sacrebleu']}), trl 0.9.0 (tested: {pin['trl']})"
    assert row.advice == "run the set-up cell again"
    assert not row.fatal


def test_many_packages_in_other_versions_stay_a_line(tested, no_smi):
    for name in colab.pins(colab.REQUIREMENTS):
        tested[name] = "0"
    assert machine()["packages"].found.endswith(f" and {len(colab.pins(colab.REQUIREMENTS)) - 3} more")


def test_a_package_that_only_colab_needs_is_not_asked_for_elsewhere(tested, no_smi):
    del tested["xformers"]
    assert "xformers is absent" in machine()["packages"].found
    assert machine(in_colab=False)["packages"].advice == ""


@pytest.mark.parametrize("name", preflight.NEEDED)
def test_without_a_package_that_loads_the_model_only_the_stage_that_prepares_goes_on(tested, no_smi, name):
    del tested[name]
    row = machine()["packages"]
    assert (row.found, row.fatal) == (f"no {name}", True)
    assert row.advice == "the stage cannot do without them; run the set-up cell again"
    assert not machine(model=False)["packages"].fatal


def test_a_package_in_use_in_an_older_version_stops_what_loads_the_model(monkeypatch, no_smi):
    monkeypatch.setattr(colab, "in_use", lambda wanted: ["pyarrow 18.1.0"])
    row = machine()["packages"]
    assert row.found == "pyarrow 18.1.0 was in use before its pin was installed"
    assert (row.advice, row.fatal) == ("choose Runtime > Restart session and run all again", True)
    assert machine(model=False)["packages"].advice == ""


def test_an_untested_torch_is_told(tested):
    tested["torch"] = "2.14.0+cu130"
    row = machine(model=False)["packages"]
    assert (row.found, row.fatal) == ("torch 2.14.0+cu130", False)
    assert row.advice.startswith("tested with 2.11.0 and 2.13.0")


def test_a_library_without_its_requirements_file_compares_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(colab, "REQUIREMENTS", tmp_path / "requirements-colab.txt")
    assert machine(model=False)["packages"].found.startswith("not compared")


def test_the_gpu_is_told_with_its_memory_and_bfloat16(smi):
    smi(L4)
    rows = machine()
    assert rows["GPU"].found == "NVIDIA L4, 22.0 of 22.5 GiB free"
    assert rows["bfloat16"].found == "yes, compute capability 8.9"


def test_a_card_without_bfloat16_is_told_and_no_error(smi):
    smi(T4)
    row = machine()["bfloat16"]
    assert (row.found, row.fatal) == ("no, compute capability 7.5", False)
    assert row.advice == "float16 is taken, and it is slower; an L4 or A100 has it"
    assert machine(settings.llama3_8b().change(dtype="bfloat16"))["bfloat16"].advice.startswith("set dtype=None")


@pytest.mark.parametrize(
    ("memory", "changes", "advice"),
    [
        ("6144, 6000", {}, "the 8B model needs about 8 GiB; in Colab choose Runtime > Change runtime type > L4 GPU"),
        ("23034, 4000", {}, "end what else uses it"),
        ("23034, 22564", {"memory_gib": 40}, "memory_gib=40 is more than that: set it lower, or leave it out"),
        ("23034, 22564", {"memory_gib": 12}, ""),
    ],
)
def test_a_card_with_too_little_memory_is_told(smi, memory, changes, advice):
    smi(f"0, GPU-a, Card, {memory}, 8.9")
    row = machine(settings.llama3_8b().change(**changes))["GPU"]
    assert row.advice.startswith(advice) and bool(row.advice) == bool(advice)
    assert not row.fatal


def test_memory_that_the_driver_does_not_tell_is_not_judged(smi):
    smi("0, GPU-a, Card, [N/A], [N/A], [N/A]")
    rows = machine()
    assert (rows["GPU"].found, rows["GPU"].advice) == ("Card, memory not told", "")
    assert (rows["bfloat16"].found, rows["bfloat16"].advice) == ("not told", "")


NONE = "the preset 'llama3_8b' needs an NVIDIA GPU and there is none"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("No devices were found", 6),
        ("No devices were found", 0),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9),
    ],
)
def test_no_gpu_is_an_error_for_the_8b_model_alone(smi, text, status):
    smi(text, status)
    row = machine()["GPU"]
    assert (row.found, row.fatal) == (NONE, True)
    assert row.advice.startswith("in Colab choose Runtime > Change runtime type > L4 GPU, or set TC3_PRESET=tiny")
    assert machine(in_colab=False)["GPU"].advice.startswith("run it in Colab, or set TC3_PRESET=tiny")
    tiny = machine(settings.tiny())["GPU"]
    assert (tiny.found, tiny.advice, tiny.fatal) == ("none, the preset tiny runs on a CPU", "", False)
    assert machine(model=False)["GPU"].found == "not needed here"


def test_without_nvidia_smi_and_driver_there_is_no_gpu(no_smi, monkeypatch):
    assert machine()["GPU"].found == NONE
    monkeypatch.setattr(preflight.Path, "exists", lambda path: str(path) == "/dev/nvidiactl")
    row = machine()["GPU"]  # the driver is there: torch may find the GPU
    assert (row.found, row.fatal) == ("not told", False)
    assert row.advice == "nvidia-smi does not tell: no nvidia-smi in PATH"


@pytest.mark.parametrize(("hidden", "gpu"), [("", False), ("-1", False), ("1", True), ("GPU-bb", True), ("7", False)])
def test_the_card_is_the_one_that_the_process_may_use(smi, monkeypatch, hidden, gpu):
    smi(f"{L4}\n{T4.replace('0, ', '1, ', 1)}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    row = machine()["GPU"]
    assert row.found.startswith("Tesla T4") if gpu else row.found == NONE


@pytest.mark.parametrize(("text", "status"), [("Unknown Error", 4), ("not a table", 0)])
def test_a_driver_that_does_not_answer_as_it_should_is_told_and_no_error(smi, text, status):
    smi(text, status)
    row = machine()["GPU"]
    assert (row.found, row.fatal) == ("not told", False)
    assert row.advice.startswith("nvidia-smi does not tell: ")


def test_a_driver_that_hangs_is_told(smi, monkeypatch):
    smi(L4)

    def hang(command, **arguments):
        assert arguments["timeout"] <= 10
        raise subprocess.TimeoutExpired(command, arguments["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    assert "timed out after" in machine()["GPU"].advice


def test_a_torch_that_cannot_use_the_gpu_is_an_error(smi, tested):
    smi(L4)
    tested["torch"] = "2.13.0+cpu"
    row = machine()["GPU"]
    assert (row.found, row.fatal) == ("NVIDIA L4, which torch 2.13.0+cpu cannot use", True)
    assert row.advice.startswith("install the build with CUDA")
    assert not machine(settings.tiny())["GPU"].fatal


def test_little_memory_is_told(monkeypatch, no_smi):
    monkeypatch.setattr(preflight.Path, "read_text", lambda path, **_: f"MemTotal: 9 kB\nMemAvailable: {3 * MIB} kB\n")
    monkeypatch.setattr(preflight, "_packages", lambda model, in_colab: preflight.Row("packages", ""))
    row = machine()["memory"]
    assert row.found == "3.0 GiB free"
    assert row.advice == "about 6 GiB are wanted: choose High-RAM under Runtime > Change runtime type"
    assert machine(in_colab=False)["memory"].advice == "about 6 GiB are wanted: end other programs"
    assert machine(model=False)["memory"].advice == ""
    assert machine(settings.tiny())["memory"].advice == ""


def test_a_system_that_does_not_tell_its_memory_is_not_judged(monkeypatch):
    def refuse(path, **_):
        raise FileNotFoundError(path)

    monkeypatch.setattr(preflight.Path, "read_text", refuse)
    monkeypatch.setattr(preflight, "_packages", lambda model, in_colab: preflight.Row("packages", ""))
    assert machine(model=False)["memory"].found == "not told"


def test_a_gated_model_without_a_token_is_told(no_smi):
    gated = settings.llama3_8b().change(model_name="meta-llama/Meta-Llama-3-8B")
    row = machine(gated)["token"]
    assert row.found == "none, and meta-llama/Meta-Llama-3-8B is gated"
    assert (
        "put a token named HF_TOKEN into Colab's secrets (the key on the left), or into the environment" in row.advice
    )
    assert not row.fatal
    there = machine(gated, token="HF_TOKEN")["token"]
    assert (there.found, there.advice) == ("found in HF_TOKEN", "")
    assert machine()["token"].advice == ""
    assert machine(settings.tiny())["token"].found == "not needed, the model is a local folder"
    assert "token" not in machine(model=False)


@pytest.mark.parametrize(
    ("config", "needed"), [(settings.llama3_8b(), 2 * GIB), (settings.tiny(), 100 * MIB)], ids=["8b", "tiny"]
)
def test_a_work_folder_without_space_to_prepare_is_told(monkeypatch, tmp_path, config, needed):
    free(monkeypatch, needed - 1)
    row = places(config, tmp_path, "01_prepare", model=False)["work folder"]
    assert row.advice == f"about {needed // MIB:,} MiB are wanted: free some, or set TC3_HOME"
    assert not row.fatal
    free(monkeypatch, needed)
    assert places(config, tmp_path, "01_prepare", model=False)["work folder"].advice == ""
    free(monkeypatch, 0, total=0)
    assert "space not told" in places(config, tmp_path, "01_prepare", model=False)["work folder"].found


def test_a_work_folder_without_space_to_train_is_an_error(monkeypatch, tmp_path):
    needed = preflight.space_needed(settings.llama3_8b())
    free(monkeypatch, needed - 1)
    row = places(settings.llama3_8b(), tmp_path)["work folder"]
    assert row.fatal
    assert row.found.startswith(f"the run writes about {needed // MIB:,} MiB and {tmp_path} has")
    assert "set save_total_limit (now 3) lower" in row.advice
    assert not places(settings.llama3_8b(), tmp_path, "02_pretest")["work folder"].fatal


def test_a_disk_without_space_for_the_model_is_told_unless_it_is_there(monkeypatch, tmp_path):
    free(monkeypatch, 5 * GIB)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    config = settings.llama3_8b()
    row = places(config, tmp_path)["model"]
    assert row.found == f"to download, {tmp_path} has 5 GiB free"
    assert row.advice == "about 6 GiB are wanted: free some, or set HF_HOME to another disk"
    weights = tmp_path / "hf" / "hub" / "models--unsloth--llama-3-8b-bnb-4bit" / "snapshots" / "x" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert places(config, tmp_path)["model"].found == "unsloth/llama-3-8b-bnb-4bit was downloaded before"
    assert "model" not in places(settings.tiny(), tmp_path)
    whole = places(config.change(load_in_4bit=False), tmp_path)["model"]  # another repository: unsloth/llama-3-8b
    assert whole.advice == "about 16 GiB are wanted: free some, or set HF_HOME to another disk"


def test_results_that_would_go_with_the_session_are_told(tmp_path):
    config = settings.tiny()
    assert places(config, tmp_path)["Drive"] == preflight.Row("Drive", "mounted")
    assert places(config, tmp_path, on_drive=False)["Drive"].advice.startswith("results go when the session ends")
    assert places(config, tmp_path, on_drive=False, in_colab=False)["Drive"].advice == ""


def test_nothing_heavy_is_imported(tmp_path):
    code = """
import sys
from tc3lib import settings
from tc3lib.runtime import workspace as runtime
runtime.setup(settings.tiny(), "01_prepare")
try:
    runtime.setup(settings.llama3_8b(), "03_train")
except RuntimeError as error:
    assert "GPU" in str(error)
heavy = ["torch", "numpy", "pandas", "transformers", "unsloth", "matplotlib", "datasets", "pyarrow", "IPython"]
print(*(name for name in heavy if name in sys.modules))
"""
    environment = {**os.environ, "TC3_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert "✓  Python" in done.stdout
