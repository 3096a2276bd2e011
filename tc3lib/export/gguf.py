"""GGUF files for llama.cpp and what is built on it, by llama.cpp's own converter and quantiser.

The converter is a script of llama.cpp's repository, which no wheel carries; the quantiser is a function of its library,
which comes with llama-cpp-python. Each runs in a process of its own (`with_llama_cpp.py`): what fails in llama.cpp may
end the process.
"""

import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tc3lib.errors import Tc3Error
from tc3lib.export import child
from tc3lib.settings import Settings

VERSION = "0.3.36"
"""Of llama-cpp-python, with which this was tested."""
SIZES = {"f16": 1.0, "q8_0": 0.55, "q4_k_m": 0.35}
"""Of a file, as a share of the weights in 16 bit."""
_SCRIPT = "convert_hf_to_gguf.py"
_PROGRAM = Path(__file__).with_name("with_llama_cpp.py")
_UNSLOTH = Path.home() / ".unsloth" / "llama.cpp"
_OURS = Path.home() / ".cache" / "tc3lib" / f"llama.cpp-{VERSION}"


def file_name(kind: str) -> str:
    """Return the name of a precision's file, from which Ollama and the Hub read the precision."""
    return f"model-{kind.upper()}.gguf"


def converter(config: Settings) -> Path:
    """Return the converter: of `llama_cpp`, else unsloth's, else llama-cpp-python's, which is downloaded once.

    Raises:
        Tc3Error: `llama_cpp` has none, the download failed, or a package is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("llama_cpp", "sentencepiece")):
        raise Tc3Error(
            "gguf needs llama-cpp-python, which quantises and then opens the files, and sentencepiece, which the "
            f"converter imports: pip install llama-cpp-python=={VERSION} sentencepiece (minutes: it compiles), or "
            "leave gguf out of export_to."
        )
    if config.exporting.llama_cpp:
        script = Path(config.exporting.llama_cpp).expanduser() / _SCRIPT
        if not script.is_file():
            raise Tc3Error(f"no {_SCRIPT} in llama_cpp={config.exporting.llama_cpp}: expected a checkout of llama.cpp.")
        return script
    if not any((folder / _SCRIPT).is_file() for folder in (_UNSLOTH, _OURS)):
        print(f"downloading llama.cpp's converter with the source of llama-cpp-python {VERSION} (77 MB)")
        _download(_OURS)
    return next(folder / _SCRIPT for folder in (_UNSLOTH, _OURS) if (folder / _SCRIPT).is_file())


def _download(target: Path) -> None:
    """Unpack the converter out of llama-cpp-python's source package."""
    target.parent.mkdir(parents=True, exist_ok=True)
    package = f"llama-cpp-python=={VERSION}"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet"]
        command = [*pip, "--no-deps", "--no-binary", "llama-cpp-python", "--dest", folder, package]
        done = subprocess.run(command, capture_output=True, text=True)
        archives = list(Path(folder).glob("*.tar.gz"))
        if done.returncode or not archives:
            reason = next(reversed(done.stderr.strip().splitlines()), "nothing came")
            raise Tc3Error(
                f"cannot download the source of {package} from the package index: {reason} Set llama_cpp to a checkout "
                "of llama.cpp, or leave gguf out of export_to."
            )
        with tarfile.open(archives[0]) as archive:
            archive.extractall(folder, filter="data")
        next(Path(folder).glob("*/vendor/llama.cpp")).rename(target)


def convert(script: Path, merged: Path, base: Path, target: Path) -> None:
    """Write the merged model as a GGUF file in 16 bit.

    Args:
        base: The base model's folder. The converter identifies a tokenizer by the ids that it gives a sample text, bos
            included. The merged model's tokenizer may add bos where the published one does not, or the reverse, so the
            converter gets the base model's.

    Raises:
        Tc3Error: The converter does not know the model or its tokenizer, or failed otherwise.
    """
    try:
        child.run([_PROGRAM, "convert", script, merged, base, target], "the converter")
    except Tc3Error as error:
        if "get_vocab_base_pre" in str(error):
            raise Tc3Error(
                f"llama.cpp's converter ({script}) does not know this model's tokenizer: it knows those of published "
                "models alone. Leave gguf out of export_to, or set llama_cpp to a newer checkout."
            ) from None
        raise Tc3Error(f"{error} ({script})") from None


def quantise(source: Path, target: Path, kind: str) -> None:
    """Write a GGUF file in another precision.

    Raises:
        Tc3Error: llama.cpp could not.
    """
    child.run([_PROGRAM, "quantise", source, target, kind], f"quantising to {kind}")
