"""`settings.json` of the work folder: the preset of a run and what differs from it, such as
`{"preset": "tiny", "max_steps": 40}`. A setting is named once, in a notebook or by hand in this file.
"""

import json
import os
import textwrap
from pathlib import Path
from typing import Any

from tc3lib import settings
from tc3lib.errors import Tc3Error
from tc3lib.files import write_json
from tc3lib.runtime import processes
from tc3lib.settings import Settings

NAME = "settings.json"
ONCE = "resume_from_checkpoint"
"""Not kept: if it stayed False, every call of 03_train would begin a new run."""


def chosen_preset() -> str | None:
    """Return the preset that TC3_PRESET names, None if it is not set.

    Raises:
        Tc3Error: There is no such preset.
    """
    name = os.environ.get("TC3_PRESET", "").strip()
    return _get("TC3_PRESET", name).preset if name else None


def instead_of(field: str, config: Settings, work: Path) -> str:
    """Return why the preset of the form field is not used, and how to use it."""
    if chosen_preset():
        return f"TC3_PRESET is {config.preset}, so the form field's {field} is not used; to use it, unset TC3_PRESET"
    return (
        f"settings.json keeps preset {config.preset}, so the form field's {field} is not used; to use it, delete "
        f"{work / NAME} and run this cell again"
    )


def refuse_other_preset(work: Path) -> None:
    """Raise Tc3Error if TC3_PRESET is not the preset of the run in `work`, which notebook 01 alone can change."""
    kept, chosen = _read(work).get("preset"), chosen_preset()
    if kept and chosen and kept != chosen:
        raise Tc3Error(
            f"TC3_PRESET is {chosen}, but the run in {work} has the preset {kept}: unset TC3_PRESET, or run 01_prepare "
            "first, with TC3_HOME at another folder."
        )


def load(work: Path, preset: str | None = None, *, override: bool = True) -> Settings:
    """Return the settings kept in `work`, all of the preset if none are.

    The preset is TC3_PRESET's with `override`, else that of `settings.json`, else `preset`.

    Raises:
        Tc3Error: The file is damaged, or a name or value in it is wrong; or nothing names a preset.
    """
    path, kept = work / NAME, _read(work)
    named = kept.pop("preset", preset)
    if named is None:
        raise Tc3Error(f'{path} names no preset: add one, such as "preset": "tiny", or run 01_prepare again.')
    config = _get(str(path), (override and chosen_preset()) or named)
    if ONCE in kept:
        raise Tc3Error(f"{path}: {ONCE} is for one call of 03_train alone: remove it, and set it in that notebook.")
    try:
        return config.change(**kept)
    except Tc3Error as error:
        raise Tc3Error(f"{path}: {error}") from None


def change(config: Settings, work: Path, changes: dict[str, Any]) -> Settings:
    """Return `config` with some settings changed, print what is new, and keep it in `settings.json`."""
    before, changed = config.flat(), config.change(**changes)
    for name, value in changed.flat().items():
        if value != before[name]:
            print(f"{name} {_short(before[name])} -> {_short(value)}, {'this time alone' if name == ONCE else 'kept'}")
    kept = _read(work).get("preset", config.preset)
    if kept != config.preset:
        print(f"preset {kept} -> {config.preset}, kept")
    if processes.is_main():  # even if nothing is new: the newest file is that of the run worked on last
        new = {name: value for name, value in changed.changes().items() if name != ONCE}
        write_json(work / NAME, {"preset": config.preset, **new})
    return changed


def describe(config: Settings, work: Path) -> str:
    """Return the preset, the work folder, and what differs from the preset, with how to go back to it."""
    lines, preset = [f"preset {config.preset}, work folder {work}"], settings.get(config.preset).flat()
    if changes := config.changes():
        lines += [f"  {name} = {_short(value)} (preset: {_short(preset[name])})" for name, value in changes.items()]
        lines.append(f"To go back to the preset, set a value to the preset's, or remove its line from {work / NAME}.")
    return "\n".join(lines)


def _get(source: str, name: Any) -> Settings:
    try:
        return settings.get(name)
    except Tc3Error as error:
        raise Tc3Error(f"{source}: {error}") from None


def _read(work: Path) -> dict[str, Any]:
    path = work / NAME
    try:
        kept = json.loads(path.read_bytes())
        if not isinstance(kept, dict):
            raise ValueError("it is not an object")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Tc3Error(f"cannot read {path}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise Tc3Error(
            f'{path} is damaged ({error}). Expected e.g. {{"preset": "tiny", "max_steps": 40}}: fix it, or delete it '
            "to begin with the preset alone."
        ) from None
    return kept


def _short(value: Any) -> str:
    return textwrap.shorten(repr(value), 120, placeholder=" ...")
