"""The table at the top of a stage: a tick where all is well, a line of advice where not, before anything heavy."""

import os
import shutil
import subprocess
import sys
import traceback
from collections import namedtuple

import psutil
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _auth

from tc3lib import runtime, settings
from tc3lib.errors import Tc3Error
from tc3lib.runtime import packages, preflight, workspace

GIB, MIB = 2**30, 2**20
L4 = "0, GPU-aaaa, NVIDIA L4, 23034, 22564"
T4 = "1, GPU-bbbb, Tesla T4, 15360, 15095"
GATED = settings.get("llama3_8b").change(model_name="meta-llama/Meta-Llama-3-8B")
PINS = packages.pins(packages.COLAB)


@pytest.fixture(autouse=True)
def tested(monkeypatch):
    """A machine on which everything is as tested, torch for GPUs included."""
    versions = PINS | {"torch": "2.11.0+cu128", "tc3lib": "0.1.0"}
    monkeypatch.setattr(packages, "installed", versions.get)
    monkeypatch.setattr(packages, "imported_before", lambda names: [])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("memory", "available")(12 * GIB))
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


def machine(config=None, gpu=True, in_colab=True):
    rows = preflight.software(loads=gpu, in_colab=in_colab)
    rows += preflight.machine(config or settings.get("llama3_8b"), gpu=gpu, in_colab=in_colab)
    return {row.name: row for row in rows}


def places(config, work, stage="03_train", gpu=True, on_drive=True, in_colab=True):
    rows = preflight.places(config, work, stage, gpu=gpu, on_drive=on_drive, in_colab=in_colab)
    return {row.name: row for row in rows}


def test_a_good_machine_gets_ticks_alone(smi, free, monkeypatch, tmp_path):
    smi(L4)
    free(200 * GIB)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    rows = [*machine().values(), *places(settings.get("llama3_8b"), tmp_path).values()]
    assert [row.name for row in rows] == [
        "Python", "packages", "GPU", "memory", "token", "work folder", "model", "Drive",
    ]  # fmt: skip
    assert [row for row in rows if row.advice or row.fatal] == []
    assert rows[1].found == f"{len(PINS)} as tested, torch 2.11.0+cu128"
    assert rows[2].found == "NVIDIA L4, 22.0 of 22.5 GiB free"
    preflight.refuse(rows)


def test_the_table_is_aligned_with_a_tick_or_a_line_of_advice_a_row(monkeypatch):
    rows = [preflight.Row("Python", "3.13"), preflight.Row("GPU", "none", "choose an L4")]
    assert preflight.table(rows) == "✓  Python  3.13\n!  GPU     none: choose an L4"
    monkeypatch.setattr(sys, "stdout", namedtuple("stdout", "encoding")("iso-8859-1"))
    assert preflight.table(rows) == "ok  Python  3.13\n!   GPU     none: choose an L4"


def test_a_fatal_row_is_an_error_with_the_table_before_it(capsys):
    rows = [preflight.Row("a", "fine"), preflight.Row("b", "broken", "fix it", fatal=True)]
    with pytest.raises(Tc3Error, match=r"^broken: fix it\.$"):
        preflight.refuse(rows)
    assert capsys.readouterr().out == "✓  a  fine\n!  b  broken: fix it\n"


@pytest.mark.parametrize(
    ("version", "well"), [("3.10.9", False), ("3.11.0", True), ("3.13.9", True), ("3.14.1", False)]
)
def test_an_untested_python_is_reported(monkeypatch, version, well):
    monkeypatch.setattr(preflight.platform, "python_version", lambda: version)
    monkeypatch.setattr(preflight.platform, "python_version_tuple", lambda: tuple(version.split(".")))
    row = machine(gpu=False)["Python"]
    assert row.found == version
    advice = "tested with 3.11 to 3.13; if it fails, choose "
    assert row.advice == ("" if well else f"{advice}Runtime > Change runtime type > Runtime version")
    assert machine(gpu=False, in_colab=False)["Python"].advice.endswith("" if well else "make PYTHON=python3.13")


def test_a_package_in_another_version_is_reported_and_many_stay_a_line(tested, no_smi):
    tested["trl"] = "0.9.0"
    del tested["sacrebleu"]
    row = machine()["packages"]
    assert row.found == (f"sacrebleu is missing (tested: {PINS['sacrebleu']}), trl 0.9.0 (tested: {PINS['trl']})")
    assert (row.advice, row.fatal) == ("run the set-up cell again", False)
    tested.update(dict.fromkeys(PINS, "0"))
    assert machine()["packages"].found.endswith(f" and {len(PINS) - 3} more")


def test_a_package_that_only_colab_needs_is_not_asked_for_outside(tested, no_smi):
    del tested["xformers"]
    assert "xformers is missing" in machine()["packages"].found
    assert machine(in_colab=False)["packages"].advice == ""


@pytest.mark.parametrize("name", preflight.NEEDED)
def test_without_a_package_that_loads_the_model_only_the_stage_that_prepares_goes_on(tested, no_smi, name):
    del tested[name]
    row = machine()["packages"]
    assert (row.found, row.fatal) == (f"no {name}", True)
    assert row.advice == "the stage cannot run without; run the set-up cell again"
    assert not machine(gpu=False)["packages"].fatal


def test_a_package_imported_before_its_pin_stops_what_loads_the_model_and_another_tc3lib_everything(
    monkeypatch, no_smi
):
    old = {"pyarrow": "pyarrow 18.1.0"}
    monkeypatch.setattr(
        packages, "imported_before", lambda names: [text for name, text in old.items() if name in names]
    )
    row = machine()["packages"]
    assert row.found == "pyarrow 18.1.0 was imported before its pin was installed"
    assert (row.advice, row.fatal) == ("choose Runtime > Restart session and run all again", True)
    assert machine(gpu=False)["packages"].advice == ""
    old["tc3lib"] = "tc3lib 0.0.1"
    assert machine(gpu=False)["packages"].fatal


def test_an_untested_torch_is_reported(tested):
    tested["torch"] = "2.14.0+cu130"
    row = machine(gpu=False)["packages"]
    assert (row.found, row.fatal) == ("torch 2.14.0+cu130", False)
    assert row.advice.startswith("tested with 2.11.0 and 2.13.0")


@pytest.mark.parametrize(
    ("memory", "changes", "advice"),
    [
        ("6144, 6000", {}, "the 8B model needs about 8 GiB; in Colab choose Runtime > Change runtime type > L4 GPU"),
        ("23034, 4000", {}, "stop what else uses it"),
        ("23034, 22564", {"memory_gib": 40}, "memory_gib=40 is more than that: set it lower, or leave it out"),
        ("23034, 22564", {"memory_gib": 12}, ""),
        ("[N/A], [N/A]", {}, ""),
    ],
)
def test_a_card_with_too_little_memory_is_reported(smi, memory, changes, advice):
    smi(f"0, GPU-a, Card, {memory}")
    row = machine(settings.get("llama3_8b").change(**changes))["GPU"]
    assert row.advice.startswith(advice) and bool(row.advice) == bool(advice)
    assert not row.fatal


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
    tiny = machine(settings.get("tiny"))["GPU"]
    assert (tiny.found, tiny.advice, tiny.fatal) == ("none, the preset tiny runs on a CPU", "", False)
    assert machine(gpu=False)["GPU"].found == "not needed"


def test_without_nvidia_smi_and_driver_there_is_no_gpu(no_smi, monkeypatch):
    assert machine()["GPU"].found == NONE
    monkeypatch.setattr(preflight.Path, "exists", lambda path: str(path) == "/dev/nvidiactl")
    row = machine()["GPU"]  # the driver is there: torch may find the GPU
    assert (row.found, row.fatal) == ("unknown", False)
    assert row.advice == "nvidia-smi failed: it is not in PATH"


@pytest.mark.parametrize(("hidden", "gpu"), [("", False), ("-1", False), ("1", True), ("GPU-bb", True), ("7", False)])
def test_the_card_is_the_one_that_the_process_may_use(smi, monkeypatch, hidden, gpu):
    smi(f"{L4}\n{T4}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    row = machine()["GPU"]
    assert row.found.startswith("Tesla T4") if gpu else row.found == NONE


def test_a_part_of_a_card_is_one_too(smi, monkeypatch):
    smi(L4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-3f8a")
    row = machine()["GPU"]
    assert (row.found, row.advice, row.fatal) == ("MIG-3f8a, of unknown memory", "", False)


@pytest.mark.parametrize(("text", "status"), [("Unknown Error", 4), ("not a table", 0)])
def test_a_driver_that_does_not_answer_as_it_should_is_reported_and_no_error(smi, text, status):
    smi(text, status)
    row = machine()["GPU"]
    assert (row.found, row.fatal) == ("unknown", False)
    assert row.advice.startswith("nvidia-smi failed: ")


def test_a_driver_that_hangs_is_reported(smi, monkeypatch):
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
    assert not machine(settings.get("tiny"))["GPU"].fatal


def test_little_memory_is_reported(monkeypatch, no_smi):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("memory", "available")(3 * GIB))
    row = machine()["memory"]
    assert row.found == "3.0 GiB free"
    assert row.advice == "about 6 GiB are needed: choose High-RAM under Runtime > Change runtime type"
    assert machine(in_colab=False)["memory"].advice == "about 6 GiB are needed: close other programs"
    assert machine(gpu=False)["memory"].advice == ""
    assert machine(settings.get("tiny"))["memory"].advice == ""


@pytest.mark.parametrize(
    ("config", "needed"), [(settings.get("llama3_8b"), 2 * GIB), (settings.get("tiny"), 100 * MIB)], ids=["8b", "tiny"]
)
def test_a_work_folder_without_space_to_prepare_is_reported(free, tmp_path, config, needed):
    free(needed - 1)
    row = places(config, tmp_path, "01_prepare", gpu=False)["work folder"]
    assert row.advice == f"about {needed // MIB:,} MiB are needed: free some, or set TC3_HOME"
    assert not row.fatal
    free(needed)
    assert places(config, tmp_path, "01_prepare", gpu=False)["work folder"].advice == ""
    free(0, total=0)
    assert "free space unknown" in places(config, tmp_path, "01_prepare", gpu=False)["work folder"].found


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
def test_the_space_a_run_needs_is_that_of_the_checkpoints_it_keeps_and_three_more(changes, checkpoints):
    changes = {"r": 16, "max_steps": 60, "save_steps": 10, "save_total_limit": None} | changes
    config = settings.get("llama3_8b").change(**changes)
    assert preflight.space_needed(config) == checkpoints * 270 * MIB
    assert preflight.space_needed(config.change(r=32)) == checkpoints * 540 * MIB


def test_a_disk_without_space_for_the_model_is_reported_unless_it_is_there(monkeypatch, free, tmp_path):
    free(5 * GIB)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    config = settings.get("llama3_8b")
    row = places(config, tmp_path)["model"]
    assert row.found == f"to download, {tmp_path} has 5 GiB free"
    assert row.advice == "about 6 GiB are needed: free some, or set HF_HOME to another disk"
    weights = tmp_path / "hf" / "hub" / "models--unsloth--llama-3-8b-bnb-4bit" / "snapshots" / "x" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert places(config, tmp_path)["model"].found == "unsloth/llama-3-8b-bnb-4bit was downloaded before"
    assert "model" not in places(settings.get("tiny"), tmp_path)
    whole = places(config.change(load_in_4bit=False), tmp_path)["model"]  # another repository: unsloth/llama-3-8b
    assert whole.advice == "about 16 GiB are needed: free some, or set HF_HOME to another disk"


def test_results_that_would_be_lost_with_the_session_are_reported(tmp_path):
    config = settings.get("tiny")
    assert places(config, tmp_path)["Drive"] == preflight.Row("Drive", "mounted")
    assert places(config, tmp_path, on_drive=False)["Drive"].advice.startswith("results are lost when the session ends")
    assert places(config, tmp_path, on_drive=False, in_colab=False)["Drive"].advice == ""


SECRET = "hf_planted0123456789"


@pytest.fixture
def secrets(drive, monkeypatch, tmp_path):
    """Colab's secrets, which huggingface_hub asks; no token anywhere else."""
    import google.colab

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(_auth, "is_google_colab", lambda: True)
    monkeypatch.setattr(_auth, "_IS_GOOGLE_COLAB_CHECKED", False)
    monkeypatch.setattr(_auth, "_GOOGLE_COLAB_SECRET", None)
    return google.colab.userdata


def test_a_gated_model_without_a_token_is_reported_and_no_other_is_asked_about(no_smi, secrets):
    row = machine(GATED)["token"]
    assert row.found == "none, and meta-llama/Meta-Llama-3-8B is gated"
    assert (
        "put a token named HF_TOKEN into Colab's secrets (the key on the left), or into the environment" in row.advice
    )
    assert not row.fatal
    assert secrets.asked == ["HF_TOKEN"]
    assert (
        machine()["token"]
        == machine(settings.get("tiny"))["token"]
        == preflight.Row("token", "not needed for this model")
    )
    assert "token" not in machine(gpu=False)
    assert secrets.asked == ["HF_TOKEN"]


@pytest.mark.parametrize("where", ["environment", "secrets", "saved"])
@pytest.mark.parametrize("stage", sorted(workspace.STAGES))
def test_the_token_is_found_shown_and_written_nowhere(secrets, monkeypatch, tmp_path, capfd, where, stage):
    monkeypatch.setattr(preflight, "_gpu", lambda config, in_colab: preflight.Row("GPU", "there"))
    if where == "secrets":
        secrets.secrets["HF_TOKEN"] = SECRET
    elif where == "saved":
        (tmp_path / "token").write_text(SECRET)
    else:
        monkeypatch.setenv("HF_TOKEN", SECRET)
    gated = {"model_name": GATED.model.model_name}
    with pytest.raises(Tc3Error) as error:
        runtime.setup(stage, "llama3_8b", **gated)
        workspace.check_inputs(tmp_path, "04_posttest")  # 01 needs nothing: any error will do
    trace = "".join(traceback.TracebackException.from_exception(error.value, capture_locals=True).format())
    monkeypatch.setattr(workspace, "check_inputs", lambda work, stage: None)
    _, work = runtime.setup(stage, "llama3_8b", **gated)
    said = capfd.readouterr()
    assert ("token        found" in said.out) == workspace.STAGES[stage].gpu
    assert "is gated" not in said.out
    assert SECRET not in said.out + said.err + trace
    assert [path for path in work.rglob("*") if path.is_file() and SECRET in path.read_text(errors="replace")] == []


def test_nothing_heavy_is_imported(tmp_path):
    code = """
import sys
from tc3lib import runtime
runtime.setup("01_prepare", "tiny")
try:
    runtime.setup("03_train")
except RuntimeError as error:
    assert "03_train needs train.jsonl" in str(error)
heavy = ["torch", "numpy", "pandas", "transformers", "unsloth", "matplotlib", "datasets", "pyarrow", "IPython"]
print(*(name for name in heavy if name in sys.modules))
"""
    environment = {**os.environ, "TC3_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert "✓  Python" in done.stdout
