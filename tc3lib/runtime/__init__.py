"""The machine. A notebook calls `setup` first and `finish` last."""

from tc3lib.runtime.workspace import finish, setup

__all__ = ["finish", "setup"]
