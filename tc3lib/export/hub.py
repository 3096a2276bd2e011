"""Upload what was proved to the Hugging Face Hub: private unless said otherwise."""

import json
from pathlib import Path, PurePath

import httpx
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from tc3lib.errors import Tc3Error
from tc3lib.export import gguf, verify
from tc3lib.files import read_json
from tc3lib.settings import Settings

_CONFIG = "adapter_config.json"
_EARLIER = ["model*.safetensors*", "chat_template.jinja", "adapter/*", "gguf/*"]
"""What an earlier export may have left in a repository that this one would not overwrite."""


def check(config: Settings) -> None:
    """Raise Tc3Error if `hub_repo` is no name of a repository, or if there is no token."""
    try:
        if "/" not in (config.exporting.hub_repo or ""):
            raise HFValidationError("there is no owner in it")
        validate_repo_id(config.exporting.hub_repo)
    except HFValidationError as error:
        raise Tc3Error(
            f"hub_repo={config.exporting.hub_repo!r}: expected owner/name, such as 'me/tc3-describe' "
            f"({str(error).splitlines()[0]})"
        ) from None
    if get_token() is None:
        raise Tc3Error(
            "no Hub token: create one with write access and store it as HF_TOKEN in Colab's secrets (the key on the "
            "left) or in the environment."
        )


def upload(work: Path, config: Settings) -> None:
    """Upload merged weights, GGUF files, adapter and model card to `hub_repo`, if "hub" is in `export_to`.

    Raises:
        Tc3Error: As `check`; nothing is proved, or another adapter was; the repository is public and `hub_private` is
            set; the Hub refused; or there is no network.
    """
    if "hub" not in config.exporting.export_to:
        print('not uploaded: "hub" is not in export_to')
        return
    check(config)
    repo, private, folder = config.exporting.hub_repo, config.exporting.hub_private, work / "export"
    record = read_json(work / "export.json")
    if "merged" not in (proved := verify.proved(record)):
        raise Tc3Error(
            f"nothing to upload: {work / 'export.json'} has no merged weights that are proved. Export first."
        )
    if record.get("adapter_sha256") != verify.adapter_digest(work):
        raise Tc3Error(
            f"nothing is uploaded: {folder} was made of another adapter than is in {work / 'lora_model'} now. Export "
            "again."
        )
    files = [gguf.file_name(kind) for kind in gguf.SIZES if kind in proved]
    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        is_private = api.repo_info(repo).private
        if private and not is_private:
            raise Tc3Error(
                f"{repo} is public already: set hub_private=False if that is meant, or choose another hub_repo."
            )
        # First, since it deletes what else is there of an earlier adapter; what it uploads is not deleted.
        api.upload_folder(repo_id=repo, folder_path=folder / "merged", delete_patterns=_EARLIER)
        api.upload_folder(
            repo_id=repo, folder_path=work / "lora_model", path_in_repo="adapter", ignore_patterns=["run.json", _CONFIG]
        )
        api.upload_file(repo_id=repo, path_or_fileobj=_config(work), path_in_repo=f"adapter/{_CONFIG}")
        if files:
            api.upload_folder(repo_id=repo, folder_path=folder / "gguf", path_in_repo="gguf", allow_patterns=files)
        api.upload_file(repo_id=repo, path_or_fileobj=folder / "README.md", path_in_repo="README.md")
    except (httpx.HTTPError, OSError) as error:  # the Hub's own errors are of these
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise Tc3Error(
            f"cannot upload to {repo}: {reason} Is the token (HF_TOKEN) one that may write there? What is in {folder} "
            "stays; run it again."
        ) from None
    print(f"uploaded to {url}, which {'is private' if is_private else 'everybody sees'}")


def _config(work: Path) -> bytes:
    """Return the adapter's configuration, which names a base model that is a local folder without where it lies."""
    config = read_json(work / "lora_model" / _CONFIG)
    base = config["base_model_name_or_path"]
    if Path(base).is_dir() or PurePath(base).is_absolute():
        config["base_model_name_or_path"] = PurePath(base).name
    return json.dumps(config, indent=2).encode()
