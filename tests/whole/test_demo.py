import builtins
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from completions import serving

from tc3lib import demo, model_loading, prompts, settings
from tc3lib.errors import Tc3Error
from tc3lib.files import write_rows


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setenv("TC3_PRESET", "tiny")
    monkeypatch.setenv("TC3_HOME", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(demo, "_gradio", lambda: None)  # these tests end before the page
    monkeypatch.setattr(demo, "check_address", lambda host, port: None)


def test_without_gradio_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    real = builtins.__import__

    def missing(name, *rest):
        if name == "gradio":
            raise ModuleNotFoundError("No module named 'gradio'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(Tc3Error, match=r"No module named 'gradio'\): pip install .* requirements-demo\.txt"):
        demo.main([])
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_a_folder_that_does_not_exist_is_an_error_and_not_made(tiny, tmp_path):
    with pytest.raises(Tc3Error, match=r"there is no folder .*nowhere: expected the work folder"):
        demo.main([str(tmp_path / "nowhere")])
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_without_adapter_is_an_error(tiny, tmp_path):
    with pytest.raises(Tc3Error, match=rf"no lora_model in {tmp_path}: run 03_train first"):
        demo.main([str(tmp_path)])


def test_rows_that_changed_since_training_are_an_error(tiny, tmp_path):
    (tmp_path / "lora_model").mkdir()
    for name in ("train.jsonl", "eval.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(Tc3Error, match="have changed since the adapter was trained"):
        demo.main([str(tmp_path)])


def test_a_preset_for_a_gpu_is_an_error_where_there_is_none(tiny, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(demo.run_record, "check_adapter", lambda work: None)
    monkeypatch.setenv("TC3_PRESET", "llama3_8b")
    (tmp_path / "lora_model").mkdir()
    with pytest.raises(Tc3Error, match=r"'llama3_8b' needs an NVIDIA GPU .* or ask a --server"):
        demo.main([str(tmp_path)])


def test_the_model_is_loaded_as_it_was_trained(tiny, tmp_path, monkeypatch):
    run = {"run": "1", "data": {}, "settings": {"model": {"load_in_4bit": False}}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    monkeypatch.setattr(demo, "_check", lambda work: None)
    monkeypatch.setattr(demo, "Catalogue", lambda work, template: None)

    def load(folder, settings):
        raise Tc3Error(f"{folder.name}, load_in_4bit={settings.load_in_4bit}")

    monkeypatch.setattr(model_loading, "load_adapter", load)
    with pytest.raises(Tc3Error, match="lora_model, load_in_4bit=False"):
        demo.main([str(tmp_path)])


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["unsloth"] = sys.modules["IPython"] = None  # as where they are not installed
from tc3lib import demo
from tc3lib.evaluation import asking
def page(ask, titles):
    print("PAGE", asking.render(ask(titles[0])))
    sys.exit()
demo.page, demo._gradio, demo.check_address = page, lambda: None, lambda host, port: None
demo.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def work(rows, tokenizer, tmp_path_factory):
    """A work folder of the recipe's preset, whose model no CPU loads, with an adapter that has no weights."""
    work = tmp_path_factory.mktemp("work")
    write_rows(work / "trn_output.json", ({key: row[key] for key in ("input_text", "response")} for row in rows))
    (work / "trn_output.uid.jsonl").write_text("".join(f'"{row["uid"]}"\n' for row in rows))
    write_rows(work / "train.jsonl", rows[:24])
    write_rows(work / "eval.jsonl", rows[24:])
    prompts.save_tokenizer(tokenizer, work / "lora_model")
    (work / "run.json").write_text(json.dumps(demo.run_record.describe(settings.get("llama3_8b"), work)))
    return work


def ask_server(work, *options):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(work), *options]
    environment = os.environ | {"TC3_PRESET": "llama3_8b"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_server_is_asked_without_torch_unsloth_or_a_gpu(work, rows, tokenizer):
    with serving(lambda body: f"From {body['model']}.", ["a base", "tuned"]) as here:
        done = ask_server(work, "--server", here.url, "--model", "tuned", "--base-model", "a base")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.partition("PAGE")[2]
    assert shown.index("From a base.") < shown.index("From tuned.") < shown.index(rows[24]["uid"])
    asked = [(body["model"], body["prompt"]) for body in here.asked]
    ids = prompts.encode_prompt(tokenizer, rows[24]["input_text"])
    assert asked == [("a base", ids), ("tuned", ids)]


def test_a_server_that_is_not_there_or_has_no_such_model_is_told_before_the_page(work):
    with serving(lambda body: "", ["tuned"]) as here:
        done = ask_server(work, "--server", here.url, "--model", "tuned", "--base-model", "llama")
        wanted = f"server at {here.url} has no model 'llama'; it serves 'tuned': choose one of them with --base-model."
        assert done.stderr.splitlines()[-1] == f"Tc3Error: the {wanted}"
    done = ask_server(work, "--server", here.url)  # it is gone
    assert done.stderr.splitlines()[-1].startswith(f"Tc3Error: no answer from the server at {here.url}: ")
    assert "Traceback" not in done.stderr


def test_the_commands_and_requests_of_the_page_on_serving_do_what_it_says(work, tiny, tokenizer, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    ids = prompts.encode_prompt(tokenizer, "Enamel Kettle, 2 Liter")
    end = tokenizer.eos_token_id
    with serving(lambda body: "A kettle.", ["describe", "base"]) as here:

        def filled(code):
            return code.replace("http://127.0.0.1:8000", here.url).replace("WORK", str(work))

        (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
        exec(filled(code))
        assert capsys.readouterr().out == f"A kettle. stop {len(ids)}\n"
        assert [(body["prompt"], body["stop_token_ids"]) for body in here.asked] == [(ids, [end])]
        asked = []
        monkeypatch.setattr(demo, "page", lambda ask, titles: asked.append(ask("Enamel Kettle, 2 Liter")) or sys.exit())
        commands = re.findall(r"^python -m tc3lib\.demo (.*--server.*)", text, re.M)
        for command, here.models in zip(commands, (["describe"], ["describe", "base"]), strict=True):
            with pytest.raises(SystemExit):
                demo.main(shlex.split(filled(command)))
        assert [bool(answers.base) for answers in asked] == [False, True]
        assert [body["prompt"] for body in here.asked] == 4 * [ids]
    (body,) = re.findall(r"/v1/completions -H .*? -d '(\{.*?\})'", text, re.S)
    assert json.loads(body)["prompt"] == prompts.prompt_text(tokenizer, "Enamel Kettle, 2 Liter")


def test_the_name_of_a_served_model_needs_a_server(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--model", "tuned"])
    assert "--model and --base-model name models of a --server" in capsys.readouterr().err


def test_an_address_that_cannot_be_served_is_told_before_the_model_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "_gradio", lambda: None)
    monkeypatch.setattr(demo.workspace, "reopen", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, number in (("127.0.0.1", port), ("192.0.2.1", 7860), ("no host", 7860)):
            with pytest.raises(
                Tc3Error, match=f"port {number}: the port is taken, or {host} is not an address of this"
            ):
                demo.main([str(tmp_path), "--port", str(number), "--host", host])
    for number in ("0", "70000"):
        with pytest.raises(SystemExit):
            demo.main([str(tmp_path), "--port", number])
        assert "--port is from 1 to 65535" in capsys.readouterr().err


def test_a_failure_is_one_line_without_a_stack(tmp_path):
    environment = os.environ | {"TC3_PRESET": "tinny"}
    command = [sys.executable, "-m", "tc3lib.demo", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] in (
        "Tc3Error: TC3_PRESET: there is no preset 'tinny'. Did you mean 'tiny'?",
        # in an environment without it
        "Tc3Error: the page needs gradio, which cannot be imported (No module named 'gradio'): pip install --no-deps "
        "-r requirements-demo.txt",
    )
    assert "Traceback" not in done.stderr
