"""The one exception that a person who uses the notebooks is meant to read."""


class Tc3Error(RuntimeError):
    """Say in one line what is missing or wrong, where, and what to do about it."""

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the line alone: the stack would not help the reader of a notebook."""
        return [f"{type(self).__name__}: {self}"]
