"""The machine: work folder, Google Drive, packages, processes."""

from tc3lib.runtime.workspace import finish, setup

__all__ = ["finish", "setup"]
