"""The one exception that a person who uses the notebooks is meant to read."""

import sys
from types import TracebackType


class Tc3Error(RuntimeError):
    """Say in one line what is missing or wrong, where, and what to do about it."""

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the line alone: the stack would not help the reader of a notebook."""
        return [f"{type(self).__name__}: {self}"]


def show_alone() -> None:
    """Let a plain script that ends on a `Tc3Error` show its line alone too, from now on."""
    sys.excepthook = _excepthook


def _excepthook(kind: type[BaseException], error: BaseException, stack: TracebackType | None) -> None:
    if isinstance(error, Tc3Error):
        print(f"{kind.__name__}: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, stack)
