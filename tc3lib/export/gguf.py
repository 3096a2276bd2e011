"""GGUF files for llama.cpp and what is built on it, by llama.cpp's own converter and quantiser.

The converter is a script of llama.cpp's repository, which no wheel carries; the quantiser is a function of its library,
which comes with llama-cpp-python.
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
_UNSLOTH = Path.home() / ".unsloth" / "llama.cpp"
_OURS = Path.home() / ".cache" / "tc3lib" / f"llama.cpp-{VERSION}"


def converter(config: Settings) -> Path:
    """Return the converter: of `llama_cpp`, else unsloth's, else llama-cpp-python's, which is downloaded once.

    Raises:
        Tc3Error: `llama_cpp` has none, the download failed, or llama-cpp-python is not installed.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        raise Tc3Error(
            "gguf needs llama-cpp-python, which quantises and then opens the files: pip install "
            f"llama-cpp-python=={VERSION} (minutes: it compiles), or leave gguf out of export_to."
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
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        command = [*command[:-1], "llama-cpp-python", "--dest", folder, package]
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


def convert(script: Path, merged: Path, target: Path) -> None:
    """Write the merged model as a GGUF file in 16 bit.

    Raises:
        Tc3Error: The converter does not know the model or its tokenizer, or failed otherwise.
    """
    try:
        child.run([script, merged, "--outfile", target, "--outtype", "f16", "--model-name", "tc3lib"], "the converter")
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
    child.run(["-m", "tc3lib.export.gguf", source, target, kind], f"quantising to {kind}")


def main(source: str, target: str, kind: str) -> None:
    """Quantise, in a process of its own: what fails in llama.cpp may end the process."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    if status := llama_cpp.llama_model_quantize(source.encode(), target.encode(), options):
        raise SystemExit(f"llama.cpp ended with status {status}")


if __name__ == "__main__":
    main(*sys.argv[1:])
