"""`python -m tc3lib.demo [FOLDER]`: a page on this machine that asks the base model and the tuned one, with sources.

With `--server URL` a server's model is asked, and none is loaded: neither torch nor unsloth need be installed.

In Colab, run it as `!python -m tc3lib.demo /content/drive/MyDrive/tc3 &` after the settings cell has mounted Drive, and
open the page with `google.colab.output.serve_kernel_port_as_window(7860)`. There is no public link: Gradio's would
download a program and send every question through another host.
"""

import argparse
import html
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING

from tc3lib.catalogue.lookup import Catalogue
from tc3lib.checkpoints import run_record
from tc3lib.errors import Tc3Error, show_alone
from tc3lib.files import read_rows
from tc3lib.prompts import load_tokenizer
from tc3lib.runtime import workspace
from tc3lib.settings import Settings

if TYPE_CHECKING:
    import gradio

    from tc3lib.evaluation.asking import Asked

LOOPBACK = "127.0.0.1"


def page(ask: Callable[[str], "Asked"], titles: Sequence[str] = ()) -> "gradio.Blocks":
    """Return the page, with `titles` as examples; `launch` serves it."""
    from tc3lib.evaluation import asking

    gradio = _gradio()
    one_at_a_time = Lock()

    def answer(question: str) -> str:
        try:
            with one_at_a_time:  # the adapter is switched off and on in the one model
                return asking.render(ask(question))
        except RuntimeError as error:  # a Tc3Error, or an error of torch such as too little memory
            line = str(error).strip().splitlines()[0]
            return f"<p role='alert' class='tc3-error'>{html.escape(line[:1].upper() + line[1:])}</p>"

    with gradio.Blocks(title="tc3lib: ask about a product", analytics_enabled=False) as blocks:
        gradio.Markdown("# Ask about a product\nWhat the models answer, and what the catalogue says.")
        question = gradio.Textbox(label="A title, or a question that contains one", max_lines=1, autofocus=True)
        button = gradio.Button("Ask", variant="primary")
        result = gradio.HTML(elem_id="tc3-result")
        if titles:
            gradio.Examples(
                [[title] for title in titles], question, label="Titles in the catalogue", cache_examples=False
            )
        gradio.on([button.click, question.submit], answer, question, result, api_name="ask", concurrency_limit=1)
    return blocks.queue(max_size=64)


def launch(blocks: "gradio.Blocks", host: str = LOOPBACK, port: int = 7860) -> str:
    """Serve the page in the background and return its address. It loads nothing from other hosts.

    Raises:
        Tc3Error: The port is taken, or `host` is not an address of this machine.
    """
    direct = [os.environ.get("no_proxy", os.environ.get("NO_PROXY")), "localhost", LOOPBACK, host]
    # Gradio asks its own page whether it is there, for which no proxy serves.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, direct))
    gradio = _gradio()
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = blocks.launch(
            server_name=host, server_port=port, theme=theme, css=_STYLE, share=False, quiet=True, ssr_mode=False,
            pwa=False, footer_links=[], mcp_server=False, inbrowser=False, inline=False, prevent_thread_lock=True,
        )  # fmt: skip
    except (OSError, ImportError, ValueError) as error:
        advice = "Choose another --port, or check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
        raise Tc3Error(f"cannot serve the page at {host}, port {port}: {error}. {advice}.") from None
    return address


def check_address(host: str, port: int) -> None:
    """Raise Tc3Error if the page cannot be served there, which is known before the model is loaded."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a page that has just ended is no hindrance
            trial.bind((host, port))
    except OSError as error:
        raise Tc3Error(
            f"cannot serve the page at {host}, port {port}: the port is taken, or {host} is not an address of this "
            f"machine ({error.strerror}). Choose another --port or --host."
        ) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the model and the catalogue of a work folder and serve the page until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tc3lib.demo", description="Serve a page that asks both models.")
    parser.add_argument(
        "folder", nargs="?", type=Path, help="the work folder with lora_model/; default: TC3_HOME, else the newest run"
    )
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default=LOOPBACK, help="0.0.0.0 lets other machines use the page")
    parser.add_argument("--server", metavar="URL", help="ask the model that vLLM or llama-server has there; load none")
    parser.add_argument("--model", metavar="NAME", help="the tuned model's name on the server; default: its only one")
    parser.add_argument("--base-model", metavar="NAME", help="the base model's, to be asked too; default: it is not")
    options = parser.parse_args(arguments)
    if (options.model or options.base_model) and not options.server:
        parser.error("--model and --base-model name models of a --server")
    if not 0 < options.port < 2**16:
        parser.error("--port is from 1 to 65535")
    show_alone()
    _gradio()
    if options.folder is not None and not options.folder.is_dir():
        raise Tc3Error(f"there is no folder {options.folder}: expected the work folder that 03_train wrote to.")
    check_address(options.host, options.port)
    config, work = workspace.reopen(options.folder)
    _check(work)
    config = run_record.as_trained(config, work)
    ask = _served(config, work, options) if options.server else _loaded(config, work)
    blocks = page(ask, _examples(work))
    print(f"The page is at {launch(blocks, options.host, options.port)} (Ctrl-C stops it)", flush=True)
    blocks.block_thread()


def _loaded(config: Settings, work: Path) -> Callable[[str], "Asked"]:
    """Return what asks the model in this process."""
    _check_gpu(config)
    catalogue = Catalogue(work, config.prompting)
    from tc3lib import model_loading  # half a minute, so after all that can be wrong
    from tc3lib.evaluation import asking

    model, tokenizer = model_loading.load_adapter(work / "lora_model", config.model)
    return partial(asking.ask, model, tokenizer, config=config, catalogue=catalogue)


def _served(config: Settings, work: Path, options: argparse.Namespace) -> Callable[[str], "Asked"]:
    """Return what asks the server."""
    from tc3lib.evaluation import asking, server

    tuned = server.find(options.server, options.model)
    base = server.find(options.server, options.base_model, "--base-model") if options.base_model else None
    catalogue = Catalogue(work, config.prompting)
    tokenizer = load_tokenizer(str(work / "lora_model"))
    return partial(asking.ask_server, tuned, base, tokenizer, config=config, catalogue=catalogue)


def _gradio() -> ModuleType:
    """Import Gradio with its analytics off."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise Tc3Error(
            f"the page needs gradio, which cannot be imported ({error}): pip install --no-deps -r requirements-demo.txt"
        ) from None
    return gradio


def _check(work: Path) -> None:
    """Raise Tc3Error if there is no adapter, or if it was trained on other rows."""
    if not (work / "lora_model").is_dir():
        raise Tc3Error(f"no lora_model in {work}: run 03_train first, or choose the work folder that has it.")
    run_record.check_adapter(work)


def _check_gpu(config: Settings) -> None:
    """Raise Tc3Error if the model needs a GPU and there is none."""
    if config.requires_gpu:
        import torch

        if not torch.cuda.is_available():
            raise Tc3Error(
                f"the preset {config.preset!r} needs an NVIDIA GPU and there is none: start this on a machine that has "
                "one, or ask a --server."
            )


def _examples(work: Path) -> list[str]:
    """Return titles to try: three held out, one trained on."""
    held_out, trained = (read_rows(work / name, 3) for name in ("eval.jsonl", "train.jsonl"))
    return [row["input_text"] for row in (*held_out, *trained[:1])]


_STYLE = """
.tc3-error { border-left: 4px solid #E45756; background: rgba(228, 87, 86, 0.15); padding: 0.7em 1em; }
"""


if __name__ == "__main__":
    main()
