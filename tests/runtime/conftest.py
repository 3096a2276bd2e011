"""A work folder, a disk of a chosen size, and a Colab with its Drive."""

import os
import shutil
from collections import namedtuple

import fake_colab
import pytest

from tc3lib import runtime
from tc3lib.errors import Tc3Error
from tc3lib.runtime import drive as drive_module


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder that TC3_HOME names; it does not exist yet."""
    monkeypatch.setenv("TC3_HOME", str(tmp_path / "work"))
    return tmp_path / "work"


@pytest.fixture
def drive(monkeypatch, tmp_path):
    """Colab with a Drive that is not mounted, and no TC3_HOME."""
    monkeypatch.delenv("TC3_HOME", raising=False)
    monkeypatch.setattr(drive_module, "MOUNT", tmp_path / "drive")
    return fake_colab.install(monkeypatch, tmp_path / "drive", tmp_path / "cloud")


@pytest.fixture
def free(monkeypatch):
    """A function that sets how many bytes the disk has free."""

    def set_free(free, total=2**40):
        usage = namedtuple("usage", "total used free")(total, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    return set_free


@pytest.fixture
def fail():
    """A function that returns a stand-in for a system call that raises the error number."""

    def make(number):
        def call(*args, **kwargs):
            raise OSError(number, os.strerror(number))

        return call

    return make


@pytest.fixture
def refused():
    """A function that returns the one line of the Tc3Error that `setup` raises."""

    def line(*arguments, **changes):
        with pytest.raises(Tc3Error) as error:
            runtime.setup(*arguments, **changes)
        assert "\n" not in str(error.value)
        return str(error.value)

    return line
