"""Ask a model that a server has loaded: vLLM, or llama.cpp's `llama-server`, by OpenAI's completions.

The prompt goes there as token ids, so it is that of the training whatever a title holds. Needs neither torch nor
unsloth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx

from tc3lib.errors import Tc3Error

TIMEOUT = httpx.Timeout(600, connect=10)
"""Seconds: on a CPU an answer can take minutes."""


class ServedAnswer(NamedTuple):
    """What a server's model wrote."""

    text: str
    eos: bool
    """Whether the model ended the answer itself."""
    tokens: int


@dataclass(frozen=True)
class ServedModel:
    """A model of a server, by its name there."""

    url: str
    name: str

    def answer(self, prompt: Sequence[int], end: int, max_new_tokens: int) -> ServedAnswer:
        """Return the greedy answer to a prompt.

        Raises:
            Tc3Error: The server is not there, does not take the request, or does not answer as expected.
        """
        body = {
            "model": self.name,
            "prompt": list(prompt),
            "max_tokens": max_new_tokens,
            "temperature": 0,
            # vLLM would take both from the base model's generation_config.json; llama-server ignores them.
            "repetition_penalty": 1,
            "stop_token_ids": [end],
        }
        answer = _request(self.url, "/v1/completions", body)
        try:
            choice = answer["choices"][0]
            tokens = answer["usage"]["completion_tokens"]
            return ServedAnswer(choice["text"].strip(), choice["finish_reason"] == "stop", tokens)
        except (TypeError, KeyError, IndexError, AttributeError):
            raise _unexpected(self.url, answer, "choices[0].text, choices[0].finish_reason and usage") from None


def find(url: str, name: str | None, option: str = "--model") -> ServedModel:
    """Return the model that a server has under a name, its only one if that is None, after asking it for one token.

    Raises:
        Tc3Error: The server is not there, has no model of this name, or does not take token ids.
    """
    url = url.rstrip("/").removesuffix("/v1")
    answer = _request(url, "/v1/models")
    try:
        names = [str(model["id"]) for model in answer["data"]]
    except (TypeError, KeyError):
        raise _unexpected(url, answer, "data[].id") from None
    if not names:
        raise Tc3Error(f"the server at {url} serves no model: start it with one.")
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        lacking = f"has no model {name!r}" if name else f"has {len(names)} models"
        served = ", ".join(map(repr, names))
        raise Tc3Error(f"the server at {url} {lacking}; it serves {served}: choose one of them with {option}.")
    model = ServedModel(url, name)
    try:
        model.answer([0], 0, 1)
    except Tc3Error as error:
        raise Tc3Error(f"expected a server that takes token ids, such as vLLM or llama-server; {error}") from None
    return model


def _request(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    try:
        here = httpx.URL(url).host in ("localhost", "127.0.0.1", "::1")  # no proxy leads to this machine
        response = httpx.request(
            "POST" if body else "GET", f"{url}{path}", json=body, timeout=TIMEOUT, trust_env=not here
        )
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Tc3Error(
            f"no answer from the server at {url}: {reason.rstrip('.')}. Start it, or give its address with --server, "
            "such as http://127.0.0.1:8000."
        ) from None
    except (ImportError, OSError, ValueError) as error:  # before anything is sent: what the environment says is wrong
        raise Tc3Error(
            f"the server at {url} cannot be asked: {error}. Check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE."
        ) from None
    if response.is_error:
        said = " ".join(response.text.split())[:300]
        raise Tc3Error(f"the server at {url} answered {path} with status {response.status_code}: {said}")
    try:
        return response.json()
    except ValueError:
        raise _unexpected(url, response.text, "JSON") from None


def _unexpected(url: str, answer: Any, expected: str) -> Tc3Error:
    said = " ".join(str(answer).split())[:100]
    return Tc3Error(
        f"the server at {url} does not speak OpenAI's completions: expected {expected}, got {said!r}. Serve the model "
        "with vLLM or llama-server."
    )
