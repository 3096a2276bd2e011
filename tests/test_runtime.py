import sys
from types import ModuleType

import pytest

from tc3lib import presets, runtime
from tc3lib.errors import Tc3Error


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TC3_HOME", str(tmp_path / "work"))
    return tmp_path / "work"


def test_the_work_folder_is_made_and_told(home, capsys):
    assert runtime.setup(presets.tiny()) == home
    assert home.is_dir()
    assert list(home.iterdir()) == []
    assert capsys.readouterr().out == f"preset tiny, work folder {home}\n"


def test_without_tc3_home_it_is_runs_preset(monkeypatch, tmp_path):
    monkeypatch.delenv("TC3_HOME")
    monkeypatch.setattr(runtime, "REPOSITORY", tmp_path)
    assert runtime.setup(presets.tiny()) == tmp_path / "runs" / "tiny"


def test_in_colab_it_is_on_drive_which_gets_mounted(monkeypatch, tmp_path):
    monkeypatch.delenv("TC3_HOME")
    colab, mounted = ModuleType("google.colab"), []
    colab.drive = ModuleType("drive")
    colab.drive.mount = mounted.append
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr(runtime, "DRIVE", tmp_path / "drive")
    assert runtime.setup(presets.tiny()) == tmp_path / "drive" / "MyDrive" / "tc3"
    assert mounted == [str(tmp_path / "drive")]

    monkeypatch.setenv("TC3_HOME", str(tmp_path / "drive" / "MyDrive" / "other"))
    assert runtime.setup(presets.tiny()) == tmp_path / "drive" / "MyDrive" / "other"
    assert len(mounted) == 2
    monkeypatch.setenv("TC3_HOME", str(tmp_path / "elsewhere"))
    runtime.setup(presets.tiny())
    assert len(mounted) == 2


def test_on_colab_the_folder_is_the_users():
    assert str(runtime.DRIVE / "MyDrive" / "tc3") == "/content/drive/MyDrive/tc3"


@pytest.mark.parametrize("home", ["/proc/tc3", "/dev/null/tc3"])
def test_a_folder_that_cannot_be_written_is_told(home, monkeypatch):
    monkeypatch.setenv("TC3_HOME", home)
    with pytest.raises(Tc3Error, match=rf"cannot write to the work folder {home}: .*Set TC3_HOME to another"):
        runtime.setup(presets.tiny())


@pytest.mark.parametrize(
    ("stage", "missing", "writer"),
    [
        ("02_pretest", "eval.jsonl", "01_prepare"),
        ("03_train", "train.jsonl", "01_prepare"),
        ("04_posttest", "lora_model/", "03_train"),
    ],
)
def test_a_stage_run_too_early_names_what_is_missing_and_who_writes_it(stage, missing, writer):
    with pytest.raises(Tc3Error, match=rf"{stage} needs {missing}, which is not in .*: run {writer} first"):
        runtime.setup(presets.tiny(), stage)


def test_the_posttest_needs_the_pretest(home):
    home.mkdir()
    (home / "lora_model").mkdir()
    for name in ("run.json", "train.jsonl", "eval.jsonl", "demo.jsonl"):
        (home / name).touch()
    with pytest.raises(Tc3Error, match=r"04_posttest needs pretest\.jsonl, .*: run 02_pretest first"):
        runtime.setup(presets.tiny(), "04_posttest")
    (home / "pretest.jsonl").touch()
    assert runtime.setup(presets.tiny(), "04_posttest") == home


@pytest.mark.parametrize("stage", ["02_pretest", "03_train", "04_posttest"])
def test_the_8b_preset_without_a_gpu_is_told_what_to_do(stage, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Tc3Error, match=r"'llama3_8b' needs an NVIDIA GPU and there is none: .*TC3_PRESET=tiny"):
        runtime.setup(presets.llama3_8b(), stage)


def test_preparing_needs_no_gpu(home):
    assert runtime.setup(presets.llama3_8b(), "01_prepare") == home


def test_a_wrong_stage_is_told():
    with pytest.raises(Tc3Error, match=r"no stage '03_trian'\. Did you mean '03_train'\?"):
        runtime.setup(presets.tiny(), "03_trian")


def test_the_catalogue_is_the_users_then_gzip_then_the_embedded_one(tmp_path):
    config = presets.tiny()
    assert runtime.catalogue(config, tmp_path) == runtime.REPOSITORY / "data" / "trn.json"
    (tmp_path / "trn.json.zip").touch()
    assert runtime.catalogue(config, tmp_path) == tmp_path / "trn.json.zip"
    (tmp_path / "trn.json.gz").touch()
    assert runtime.catalogue(config, tmp_path) == tmp_path / "trn.json.gz"
    (tmp_path / "trn.json").touch()
    assert runtime.catalogue(config, tmp_path) == tmp_path / "trn.json"


def test_a_misspelt_source_is_not_replaced_by_the_embedded_catalogue(tmp_path):
    with pytest.raises(Tc3Error, match=r"no mine\.json in "):
        runtime.catalogue(presets.tiny().change(source="mine.json"), tmp_path)


@pytest.mark.parametrize("name", ["train.jsonl", "trn_output.json", "quarantine.jsonl"])
def test_a_catalogue_that_would_be_overwritten_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(Tc3Error, match=rf"would overwrite the catalogue .*{name}"):
        runtime.catalogue(presets.tiny().change(source=name), tmp_path)
    (tmp_path / "elsewhere").mkdir()
    assert runtime.catalogue(presets.tiny().change(source=str(tmp_path / name)), tmp_path / "elsewhere")


def test_a_home_that_does_not_exist_is_told(monkeypatch):
    monkeypatch.setenv("TC3_HOME", "~nobody-of-that-name/tc3")
    with pytest.raises(Tc3Error, match="TC3_HOME='~nobody-of-that-name/tc3'"):
        runtime.setup(presets.tiny())


def test_no_catalogue_is_told(tmp_path):
    with pytest.raises(Tc3Error, match=r"no trn\.json in .*: put your catalogue there .*`title` and `content`"):
        runtime.catalogue(presets.llama3_8b(), tmp_path)


def test_a_catalogue_elsewhere_is_a_setting(tmp_path):
    (tmp_path / "mine.jsonl").touch()
    config = presets.llama3_8b().change(source=str(tmp_path / "mine.jsonl"))
    assert runtime.catalogue(config, tmp_path / "work") == tmp_path / "mine.jsonl"
