"""What an export refuses, before it has written anything; and the Hub, which is a fake here."""

import re
from types import SimpleNamespace

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects

from tc3lib.errors import Tc3Error
from tc3lib.export import base_model, child, gguf, hub, verify
from tc3lib.export.__main__ import main
from tc3lib.files import write_json, write_rows

TOKEN = "hf_plantedInTheEnvironment012345"


def test_the_base_model_in_16_bit_is_found_by_name(config, tmp_path, monkeypatch):
    def found(**settings):
        return base_model.name(config.change(**settings))

    assert found() == config.model.model_name
    assert found(export_base="other/base") == "other/base"
    assert found(model_name="unsloth/llama-3-8b-bnb-4bit") == "unsloth/llama-3-8b"
    assert found(model_name="unsloth/Qwen3-4B-unsloth-bnb-4bit") == "unsloth/Qwen3-4B"
    quantised = tmp_path / "base-bnb-4bit"
    quantised.mkdir()
    assert found(model_name=str(quantised)) == str(quantised)
    (tmp_path / "base").mkdir()
    assert found(model_name=str(quantised)) == str(tmp_path / "base")


def test_a_base_model_that_moved_and_no_network_are_said_in_a_line(tmp_path, monkeypatch):
    with pytest.raises(Tc3Error, match=rf"cannot find the base model in 16 bit, '{tmp_path}/gone': .*Set export_base"):
        base_model.fetch(str(tmp_path / "gone"))
    with pytest.raises(
        Tc3Error, match=r"'me/gone': it was not downloaded before, and there is no network\. Set export_b"
    ):
        base_model.fetch("me/gone")
    with pytest.raises(Tc3Error, match=rf"no weights \(\*\.safetensors\) in {tmp_path}: set export_base"):
        base_model.weight_bytes(tmp_path)


def test_weights_in_4_bit_count_as_the_16_bit_that_they_become(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    (tmp_path / "consolidated.safetensors").write_bytes(bytes(100))
    assert base_model.weight_bytes(tmp_path) == 100
    for text in ("{}", '{"quantization_config":null}', '{"quantization_config":{"load_in_4bit":false}}'):
        (tmp_path / "config.json").write_text(text)
        assert base_model.weight_bytes(tmp_path) == 100
    (tmp_path / "config.json").write_text('{"quantization_config":{"load_in_4bit":true}}')
    assert base_model.weight_bytes(tmp_path) == 400


def test_too_little_disk_or_memory_is_said_with_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(base_model.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    with pytest.raises(Tc3Error, match=r"merging needs 16\.0 GiB on the disk of .*, which has 1\.0 GiB free: free"):
        base_model.check_disk(tmp_path, 16 * 2**30, "merging")
    base_model.check_disk(tmp_path, 2**29, "merging")
    asked = []

    def download(name, dry_run=False, **patterns):
        asked.append(patterns)
        missing = (True, True, False)
        return [SimpleNamespace(file_size=2**29, will_download=new) for new in missing] if dry_run else str(tmp_path)

    monkeypatch.setattr(base_model, "snapshot_download", download)
    assert base_model.fetch("me/base") == tmp_path
    assert asked[0] == asked[1]
    monkeypatch.setattr(base_model.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))
    with pytest.raises(Tc3Error, match=r"to download me/base needs 1\.0 GiB on the disk of "):
        base_model.fetch("me/base")
    monkeypatch.setattr(base_model.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    with pytest.raises(Tc3Error, match=r"merging needs 16\.0 GiB of memory, and 1\.0 GiB are free: close other"):
        base_model.check_memory(16 * 2**30, "merging")


def test_a_wrong_format_or_precision_is_told_where_it_is_typed(config, tmp_path, monkeypatch):
    (tmp_path / "lora_model").mkdir()
    monkeypatch.setenv("TC3_PRESET", "tiny")
    for given in (["--to", "merged,ggf"], ["--gguf", "q5"]):
        with pytest.raises(Tc3Error, match=r"a setting does not fit: (export_to has no 'ggf'|gguf_types has no 'q5')"):
            main([str(tmp_path), *given])
    with pytest.raises(Tc3Error, match="--gguf says in which precisions, but gguf is not among the formats"):
        main([str(tmp_path), "--to", "merged", "--gguf", "q8_0"])
    with pytest.raises(Tc3Error, match=r"no lora_model in .*: run 03_train first"):
        main([str(tmp_path / "lora_model")])


def test_gguf_needs_llama_cpp_python_and_a_converter(config, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Tc3Error, match=r"gguf needs llama-cpp-python, .* and sentencepiece, .*: pip install llama-cpp"):
        gguf.converter(config)
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(Tc3Error, match=rf"no convert_hf_to_gguf\.py in llama_cpp={tmp_path}: expected a checkout"):
        gguf.converter(config.change(llama_cpp=str(tmp_path)))
    (tmp_path / "convert_hf_to_gguf.py").write_text("")
    assert gguf.converter(config.change(llama_cpp=str(tmp_path))) == tmp_path / "convert_hf_to_gguf.py"
    monkeypatch.setattr(gguf, "_UNSLOTH", tmp_path)
    assert gguf.converter(config) == tmp_path / "convert_hf_to_gguf.py"
    monkeypatch.setattr(gguf, "_UNSLOTH", tmp_path / "none")
    monkeypatch.setattr(gguf, "_OURS", tmp_path / "ours")
    monkeypatch.setattr(
        gguf.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr="a\nERROR: No matching")
    )
    with pytest.raises(Tc3Error, match=r"cannot download the source of llama-cpp-python==.*: ERROR: No matching Set"):
        gguf.converter(config)
    assert not (tmp_path / "ours").exists()


@pytest.mark.slow
def test_a_converter_that_does_not_know_the_tokenizer_is_explained(tmp_path):
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("raise NotImplementedError('BPE pre-tokenizer was not recognized - update get_vocab_base_pre()')")
    with pytest.raises(Tc3Error, match=r"does not know this model's tokenizer: it knows those of published models"):
        gguf.convert(script, tmp_path, tmp_path, tmp_path / "x.gguf")
    script.write_text("raise ValueError('no such architecture')")
    with pytest.raises(Tc3Error, match=r"the converter failed: ValueError: no such architecture \(.*gguf\.py\)"):
        gguf.convert(script, tmp_path, tmp_path, tmp_path / "x.gguf")


def test_a_process_that_was_killed_is_named(tmp_path):
    with pytest.raises(Tc3Error, match="asking failed: it was killed by signal 9, mostly because memory ran out"):
        child.run(["-c", "import os; os.kill(os.getpid(), 9)"], "asking")


ASKED = {"questions": [{"input_ids": [1, 2, 3, 4], "completion_mask": [0, 0, 1, 1]}] * 10}


def answers(**change):
    answer = {"prompt": [1, 2], "ids": [3, 4], "ended": True, "loss_sum": 1.0} | change
    return {"program": "p", "answers": [answer] * 10}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"ended": False}, "0% of its answers end by themselves, 100% of the adapter's"),
        ({"loss_sum": 1.2}, r"its loss differs by \+0\.1000, more than 0\.02"),
        ({"loss_sum": 0.8}, r"its loss differs by -0\.1000"),
        ({"loss_sum": float("nan")}, "its loss differs by"),
        ({"ids": [4, 4]}, "0% of its answers begin with the adapter's 16 tokens, expected at least"),
        ({"prompt": [2]}, "it reads 100% of the prompts as other tokens"),
    ],
)
def test_an_artefact_out_of_its_bound_has_failed(change, reason):
    found = verify.judge("merged", answers(**change), answers(), ASKED)
    assert len(found["failed"]) == (reason is not None)
    if reason:
        assert re.search(reason, found["failed"][0])


def test_an_adapter_on_another_base_model_is_doubted():
    as_trained = {"loss": 1.0, "ended": 0.9}
    for ours, said in [
        ({"loss": 1.1, "ended": 0.8}, ""),
        ({"loss": 0.5, "ended": 1.0}, ""),
        ({"loss": 1.4, "ended": 0.9}, "its loss is 1.4000 and was 1.0000"),
        ({"loss": 1.0, "ended": 0.1}, "10% of its answers end by themselves, it was 90%"),
    ]:
        assert verify.doubts({"adapter": ours, "in_4bit": as_trained}) == said
        assert verify.doubts({"adapter": ours, "in_4bit": None}) == ""


@pytest.mark.parametrize(("count", "failing"), [(4, 2), (6, 2), (32, 5)])
@pytest.mark.parametrize("change", [{"ended": False}, {"ids": [4, 4]}], ids=str)
def test_one_answer_of_a_few_may_be_another(count, failing, change):
    asked = {"questions": ASKED["questions"][:1] * count}

    def judged(many):
        reference, wrong = answers()["answers"][:1] * count, answers(**change)["answers"][:1] * many
        found = {"program": "p", "answers": wrong + reference[many:]}
        return verify.judge("merged", found, {"program": "p", "answers": reference}, asked)["failed"]

    failing += 4 if "ids" in change and count == 32 else 0
    assert judged(failing - 1) == []
    assert len(judged(failing)) == 1


def test_losses_that_are_not_numbers_are_not_compared(tmp_path, capsys):
    for name, record in (("run", {"run": "a", "result": {"steps": 3}}), ("report", {"run": "a", "steps": 3})):
        write_json(tmp_path / f"{name}.json", record)
    row = {"part": "eval", "title": "Mug", "loss_sum": None, "loss_tokens": 3, "eos": True}
    write_rows(tmp_path / "posttest.jsonl", [row])
    assert verify.in_4bit(tmp_path, {"titles": ["Mug"]}) is None
    assert "posttest.jsonl has losses that are not numbers: how it answers" in capsys.readouterr().out


def test_later_tokens_may_differ():
    ours, its = ([*range(16), last] for last in (7, 8))
    assert verify.judge("f16", answers(ids=its), answers(ids=ours), ASKED)["failed"] == []


class FakeHub:
    """Keeps what would be uploaded, and which files that were there before are left."""

    there_before, refuses, ignored = None, None, None

    def __init__(self):
        self.calls, self.files = [], []

    def create_repo(self, repo, private, exist_ok):
        if self.refuses:
            raise self.refuses
        self.private = private if self.there_before is None else self.there_before
        return f"https://huggingface.co/{repo}"

    def repo_info(self, repo):
        return SimpleNamespace(private=self.private)

    def upload_folder(
        self, repo_id, folder_path, path_in_repo=".", allow_patterns=None, ignore_patterns=None, delete_patterns=()
    ):
        self.calls.append((str(folder_path), path_in_repo, *(allow_patterns or ())))
        self.ignored = ignore_patterns or self.ignored
        deleted = [*filter_repo_objects(self.files, allow_patterns=[*delete_patterns])]
        self.files = [name for name in self.files if name not in deleted]

    def upload_file(self, repo_id, path_or_fileobj, path_in_repo):
        self.calls.append(
            (path_or_fileobj if isinstance(path_or_fileobj, bytes) else str(path_or_fileobj), path_in_repo)
        )


@pytest.fixture
def fake(monkeypatch):
    fake = FakeHub()
    monkeypatch.setattr(hub, "HfApi", lambda: fake)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return fake


def proved(work, failures):
    (work / "lora_model").mkdir(exist_ok=True)
    (work / "lora_model" / "adapter_model.safetensors").write_bytes(b"an adapter")
    write_json(work / "lora_model" / "adapter_config.json", {"base_model_name_or_path": "/home/ana/base", "r": 16})
    formats = {name: {"failed": failed} for name, failed in failures.items()}
    write_json(work / "export.json", {"adapter_sha256": verify.adapter_digest(work), "formats": formats})


def test_the_hub_gets_what_was_proved_and_is_private(config, tmp_path, fake, capsys):
    hub.upload(tmp_path, config)
    assert fake.calls == []
    assert '"hub" is not in export_to' in capsys.readouterr().out
    config = config.change(export_to=("hub",), hub_repo="me/tc3")
    with pytest.raises(Tc3Error, match=r"nothing to upload: .*export\.json has no merged weights that are proved"):
        hub.upload(tmp_path, config)
    proved(tmp_path, {"merged": [], "q8_0": [], "q4_k_m": ["endless"]})
    fake.files = [
        "README.md", "adapter/adapter_model.safetensors", "chat_template.jinja", "config.json", "gguf/model-F16.gguf",
        "model-00001-of-00002.safetensors", "model.safetensors.index.json", "plot.png",
    ]  # fmt: skip
    hub.upload(tmp_path, config)
    assert fake.files == ["README.md", "config.json", "plot.png"]
    folder = tmp_path / "export"
    assert fake.calls == [
        (f"{folder}/merged", "."), (f"{tmp_path}/lora_model", "adapter"),
        (b'{\n  "base_model_name_or_path": "base",\n  "r": 16\n}', "adapter/adapter_config.json"),
        (f"{folder}/gguf", "gguf", "model-Q8_0.gguf"), (f"{folder}/README.md", "README.md"),
    ]  # fmt: skip
    assert fake.ignored == ["run.json", "adapter_config.json"]
    assert fake.private is True
    out = capsys.readouterr().out
    assert "uploaded to https://huggingface.co/me/tc3, which is private" in out
    assert TOKEN not in out
    hub.upload(tmp_path, config.change(hub_private=False))
    assert fake.private is False
    assert "https://huggingface.co/me/tc3, which everybody sees" in capsys.readouterr().out
    fake.there_before = True
    hub.upload(tmp_path, config.change(hub_private=False))
    assert "https://huggingface.co/me/tc3, which is private" in capsys.readouterr().out
    calls = len(fake.calls)
    (tmp_path / "lora_model" / "adapter_model.safetensors").write_bytes(b"a later one")
    with pytest.raises(Tc3Error, match=r"export was made of another adapter than is in .*lora_model now\."):
        hub.upload(tmp_path, config)
    assert len(fake.calls) == calls


def test_what_the_hub_refuses_is_said_in_a_line_without_the_token(config, tmp_path, fake, monkeypatch):
    config = config.change(export_to=("hub",), hub_repo="me/tc3")
    proved(tmp_path, {"merged": []})
    fake.there_before = False
    with pytest.raises(Tc3Error, match="me/tc3 is public already: set hub_private=False if that is meant"):
        hub.upload(tmp_path, config)
    response = httpx.Response(403, request=httpx.Request("POST", "https://huggingface.co/api/repos/create"))
    fake.refuses = HfHubHTTPError("403 Forbidden: no right to create under me", response=response)
    with pytest.raises(Tc3Error, match="cannot upload to me/tc3: 403 Forbidden: no right to create under me") as raised:
        hub.upload(tmp_path, config)
    assert TOKEN not in str(raised.value)
    for refuses in (OfflineModeIsEnabled("offline mode is enabled"), httpx.ConnectError("Name or service not known")):
        fake.refuses = refuses
        with pytest.raises(Tc3Error, match=f"cannot upload to me/tc3: {refuses}"):
            hub.upload(tmp_path, config)
    for name in (None, "tc3", "me/t c"):
        with pytest.raises(Tc3Error, match=f"hub_repo={name!r}: expected owner/name"):
            hub.upload(tmp_path, config.change(hub_repo=name))
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(Tc3Error, match="no Hub token: create one with write access and store it as HF_TOKEN"):
        hub.upload(tmp_path, config)
