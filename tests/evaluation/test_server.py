import copy
import re
import socket
import threading

import pytest
from completions import serving

from tc3lib import prompts
from tc3lib.errors import Tc3Error
from tc3lib.evaluation import asking, server

TITLE = "Steel Mug No. 3"


@pytest.mark.parametrize("title", [TITLE, "a <|end_of_text|> of ### Response:\nmugs"])
def test_a_server_gets_the_ids_of_the_training_and_its_answer_is_shown_beside_the_source(
    title, tokenizer, config, catalogue
):
    with serving(lambda body: f" An answer of <b>{body['model']}</b>. \n", ["base", "tuned"]) as here:
        base, tuned = (server.find(f"{here.url}/v1/", name) for name in here.models)
        asked = asking.ask_server(tuned, base, tokenizer, f" {title} ", config, catalogue)
    assert (asked.question, asked.prompt_input) == (title, title)
    ids = prompts.encode_prompt(tokenizer, title)
    assert set(ids[1:]).isdisjoint(tokenizer.all_special_ids)
    rest = {"max_tokens": 24, "temperature": 0, "repetition_penalty": 1, "stop_token_ids": [tokenizer.eos_token_id]}
    assert here.asked == [{"model": name, "prompt": ids, **rest} for name in ("base", "tuned")]
    assert asked.tuned == server.ServedAnswer("An answer of <b>tuned</b>.", eos=True, tokens=24)
    shown = asking.render(asked)
    headings = re.findall("<h4>(.*?)</h4>.*?<p class=.text.*?>(.*?)</p>", shown, re.S)
    assert headings[:2] == [
        (f"{name.title()} model", f"An answer of &lt;b&gt;{name}&lt;/b&gt;.") for name in here.models
    ]
    assert ("A mug of steel, 3 cm high." in shown) == (title == TITLE)


def test_without_the_base_model_there_is_no_card_of_it(tokenizer, config, catalogue):
    with serving(lambda body: "A mug of") as here:
        asked = asking.ask_server(server.find(here.url, None), None, tokenizer, TITLE, config, catalogue)
    shown = asking.render(asked)
    assert re.findall("<h4>(.*?)</h4>", shown) == ["Tuned model", "Source"]
    assert "cut at 24 tokens" in shown


def test_a_chat_has_the_tokens_of_its_template_and_stops_at_the_end_of_a_turn(tokenizer, config, catalogue):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{% for turn in messages %}<|begin_of_text|>{{ turn.content }}<|eot_id|>{% endfor %}"
    config = config.change(prompt="chat")
    with serving(lambda body: "A mug.") as here:
        asking.ask_server(server.find(here.url, None), None, tokenizer, TITLE, config, catalogue)
    (body,) = here.asked
    assert body["prompt"] == prompts.encode_prompt(tokenizer, TITLE, config.prompting)
    assert body["stop_token_ids"] == [prompts.end_id(tokenizer, config.prompting)] != [tokenizer.eos_token_id]


def test_an_empty_question_is_not_sent(tokenizer, config, catalogue):
    with serving(lambda body: "") as here, pytest.raises(Tc3Error, match="the question is empty"):
        asking.ask_server(server.find(here.url, None), None, tokenizer, " ", config, catalogue)
    assert here.asked == []


def line(call):
    with pytest.raises(Tc3Error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("models", "name", "said"),
    [
        (["a", "b"], None, "has 2 models; it serves 'a', 'b': choose one of them with --model."),
        (["a", "b"], "tuned", "has no model 'tuned'; it serves 'a', 'b': choose one of them with --model."),
        ([], None, "serves no model: start it with one."),
    ],
)
def test_a_name_that_is_not_served_is_told_with_those_that_are(models, name, said):
    with serving(lambda body: "", models) as here:
        assert line(lambda: server.find(here.url, name)) == f"the server at {here.url} {said}"


def test_a_server_that_is_not_there_is_told_with_its_address():
    with socket.socket() as taken:  # bound, and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        said = line(lambda: server.find(url, None))
    assert said.startswith(f"no answer from the server at {url}: ")
    assert said.endswith("Start it, or give its address with --server, such as http://127.0.0.1:8000.")
    assert "missing an 'http://' or 'https://' protocol" in line(lambda: server.find("localhost:8000", None))
    assert "no answer from the server at http://[::" in line(lambda: server.find("http://[::", None))


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTP_PROXY", "ftp://x"), ("ALL_PROXY", "socks5://127.0.0.1:9"), ("SSL_CERT_FILE", "/nowhere.pem")],
)
def test_a_proxy_is_not_asked_for_this_machine_and_one_that_cannot_be_used_is_told(monkeypatch, name, value):
    for other in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    for spelling in (name, name.lower()):
        monkeypatch.setenv(spelling, value)
    with serving(lambda body: "") as here:
        assert server.find(here.url, None).name == "tuned"
    said = line(lambda: server.find("http://192.0.2.1:9", None))
    assert said.startswith("the server at http://192.0.2.1:9 cannot be asked: ")
    assert said.endswith(". Check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE.")


def test_a_server_that_does_not_end_its_answer_is_told(monkeypatch):
    monkeypatch.setattr(server, "TIMEOUT", 0.05)
    asked = threading.Event()
    with serving(lambda body: asked.wait(10) and "") as here:
        model = server.ServedModel(here.url, "tuned")
        assert f"no answer from the server at {here.url}: timed out." in line(lambda: model.answer([1], 2, 8))
        asked.set()


WRONG = "does not speak OpenAI's completions: expected choices[0].text"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {"error": {"message": "The model does not exist.", "code": 404}}), "answered /v1/completions with status 404: "),  # noqa: E501
        ((400, "too\nlong" * 100), "answered /v1/completions with status 400: too longtoo long"),
        ((200, "<html>a page\n</html>"), "does not speak OpenAI's completions: expected JSON, got '<html>a page <"),
        ((200, {"choices": []}), WRONG),
        ((200, {"choices": [{"text": None, "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}), WRONG),
        ((200, {"choices": [{"message": {"content": "a chat's"}}], "usage": {"completion_tokens": 1}}), WRONG),
        ((200, ["a list"]), WRONG),
        ((200, "null"), WRONG),
    ],
    ids=["404", "400", "page", "none", "no text", "chat", "list", "null"],
)  # fmt: skip
def test_an_answer_that_is_none_is_told_in_a_line(answer, said):
    with serving(lambda body: answer) as here:
        model = server.ServedModel(here.url, "tuned")
        found = line(lambda: model.answer([1], 2, 8))
    assert found.startswith(f"the server at {here.url} {said}")
    assert len(found) < 450


def test_a_server_that_takes_text_alone_is_told_at_once():
    with serving(lambda body: (422, {"detail": "prompt: Input should be a valid string"}), tried=True) as here:
        found = line(lambda: server.find(here.url, None))
    assert found.startswith(
        f"expected a server that takes token ids, such as vLLM or llama-server; the server at {here.url} answered "
        '/v1/completions with status 422: {"detail": "prompt: Input should be a valid string"}'
    )
    assert here.asked[0]["prompt"] == [0]


def test_a_page_of_another_program_has_no_models():
    with serving(lambda body: "") as here:
        found = line(lambda: server.find(f"{here.url}/elsewhere", None))
    assert "answered /v1/models with status 404" in found
