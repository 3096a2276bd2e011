"""requirements-colab.txt fits Colab's packages, and what would not fit is reported. No network: colab/lock.json."""

import ast
import json
import re
import sys
from pathlib import Path

import check_colab
import pytest

ROOT = Path(__file__).parents[2]
IMAGE = check_colab.read_image(check_colab.IMAGE.read_text())
PINS = check_colab.read_pins(check_colab.PINS.read_text())
LOCK = json.loads(check_colab.LOCK.read_text())


def entry(version, *requires, wheel=None, python=None):
    wheel = wheel or f"x-{version}-py3-none-any.whl"
    return {"version": version, "requires_python": python, "wheel": wheel, "requires": list(requires)}


def violations(lock, image=None, exceptions=None, pins=None):
    pins = pins or {"ours": "1.0"}
    return check_colab.judge(pins, {"numpy": "2.1.3", **(image or {})}, lock, exceptions or {}).violations


def test_every_pin_fits_colab():
    verdict = check_colab.judge(PINS, IMAGE, LOCK)
    assert verdict.violations == []
    assert verdict.warnings == []


def test_the_lock_is_that_of_the_requirements_file():
    assert {name: LOCK[name]["version"] for name in PINS} == PINS


def test_the_image_says_where_and_when_it_is_from():
    assert re.search(r"googlecolab/backend-info at \w+ .* 2026-08-19", check_colab.IMAGE.read_text().splitlines()[0])
    assert IMAGE["torch"] == "2.11.0+cu128"
    assert IMAGE["google-colab"] is None
    assert len(IMAGE) > 600


def test_what_fits_gives_no_line():
    lock = {
        "ours": entry("1.0", "numpy>=2", 'absent; python_version < "3"', 'more; extra == "x"'),
        "numpy": entry("2.1.3"),
    }
    assert violations(lock) == []


@pytest.mark.parametrize(
    ("requirement", "line"),
    [
        ("numpy>=2.2", "ours 1.0 needs numpy>=2.2, there is 2.1.3"),
        ("numpy>=2,!=2.1.*", "ours 1.0 needs numpy!=2.1.*,>=2, there is 2.1.3"),
        ("absent", "ours 1.0 needs absent, there is None"),
        ('absent; sys_platform == "linux" and python_version >= "3.13"', "ours 1.0 needs absent, there is None"),
    ],
)
def test_a_requirement_that_is_not_met_is_reported(requirement, line):
    assert violations({"ours": entry("1.0", requirement), "numpy": entry("2.1.3")}) == [line]


def test_an_extra_that_is_asked_for_is_followed_and_no_other():
    second = entry("2.0", 'numpy>=3; extra == "fast"', 'absent; extra == "slow"')
    lock = {"ours": entry("1.0", "second[fast]"), "second": second, "numpy": entry("2.1.3")}
    assert violations(lock, pins={"ours": "1.0", "second": "2.0"}) == ["second 2.0 needs numpy>=3, there is 2.1.3"]


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-cp313-cp313-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("a-1-cp39-abi3-manylinux_2_24_x86_64.whl", True),
        ("a-1-py39-none-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp314-abi3-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp313-cp313t-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp313-cp313-manylinux_2_39_x86_64.whl", False),
        ("a-1-cp313-cp313-manylinux_2_28_aarch64.whl", False),
        ("a-1-cp313-cp313-musllinux_1_2_x86_64.whl", False),
        ("a-1-cp313-cp313-win_amd64.whl", False),
    ],
)
def test_a_wheel_that_colab_cannot_install_is_reported(wheel, fits):
    found = violations({"ours": entry("1.0", wheel=wheel), "numpy": entry("2.1.3")})
    assert found == ([] if fits else [f"ours 1.0: {wheel} does not fit Colab's Python"])


@pytest.mark.parametrize(("python", "fits"), [(">=3.9", True), ("<3.13,>=3.9", False), (">=3.14", False)])
def test_a_pin_for_another_python_is_reported(python, fits):
    found = violations({"ours": entry("1.0", python=python), "numpy": entry("2.1.3")})
    assert found == ([] if fits else [f"ours 1.0 wants Python {python}"])


def test_a_pin_without_metadata_or_with_that_of_another_version_is_reported():
    assert violations({"numpy": entry("2.1.3")}) == ["ours 1.0: not in lock.json, run make check-colab"]
    assert "ours 1.0: not in lock.json, run make check-colab" in violations({"ours": entry("0.9")})
    assert violations({"ours": entry("1.0"), "numpy": entry("2.0")})[0].startswith(
        "numpy: lock.json has 2.0, Colab 2.1.3"
    )
    assert violations({"ours": entry("1.0"), "gone": entry("1")})[0].startswith("gone is in lock.json and nowhere else")
    assert violations({"ours": entry("1.0", "numpy")})[0].startswith("numpy, which ours needs, is not in lock.json")


def test_what_a_pin_breaks_of_colabs_own_is_a_warning_if_it_is_used():
    lock = {"ours": entry("1.0"), "pandas": entry("2.2.3", "ours<1"), "other": entry("1", "ours<1")}
    image = {"pandas": "2.2.3", "other": "1", "ours": "0.9"}
    verdict = check_colab.judge({"ours": "1.0"}, image, lock, {})
    assert verdict.warnings == ["pandas 2.2.3 needs ours<1, there is 1.0"]
    assert verdict.violations == []


def test_a_pin_that_colab_has_already_is_a_warning():
    verdict = check_colab.judge({"ours": "1.0"}, {"ours": "1.0"}, {"ours": entry("1.0")}, {})
    assert verdict.warnings == ["ours 1.0 is what Colab has: the pin is not needed"]


def test_an_exception_excuses_one_requirement_and_has_to_go_when_it_is_met():
    exceptions = {("ours", "numpy"): "why"}
    lock = {"ours": entry("1.0", "numpy>=3", "absent"), "numpy": entry("2.1.3")}
    assert violations(lock, exceptions=exceptions) == ["ours 1.0 needs absent, there is None"]
    lock["ours"] = entry("1.0", "numpy>=2")
    assert "the exception has to go" in violations(lock, exceptions=exceptions)[0]


def test_certifi_is_the_one_exception():
    assert {target for _, target in check_colab.EXCEPTIONS} == {"certifi"}


@pytest.mark.parametrize("line", ["trl>=1", "trl", "trl==1.*", "-r other.txt", "trl==1 ; python_version<'3'"])
def test_a_line_that_is_no_exact_pin_is_reported(line):
    with pytest.raises(ValueError, match="is not an exact pin"):
        check_colab.read_pins(line)


def test_a_package_pinned_twice_is_reported():
    with pytest.raises(ValueError, match="hf-transfer is pinned twice"):
        check_colab.read_pins("hf_transfer==1\nhf-transfer==2")


def imported():
    """Top-level packages that the library and the notebooks import."""
    names = set()
    for path in [*(ROOT / "tc3lib").rglob("*.py"), *(ROOT / "notebooks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
    for_who_wants_them = {"llama_cpp", "gguf", "vllm"}
    return names - sys.stdlib_module_names - {"tc3lib", "google"} - for_who_wants_them


def test_what_the_library_imports_is_pinned_or_judged():
    known = {name.replace("-", "_").lower() for name in {*PINS, *check_colab.USED}}
    packages = {name.lower() for name in imported()}
    assert packages - {"yaml"} | ({"pyyaml"} if "yaml" in packages else set()) <= known


def test_the_check_ends_with_an_error_where_something_does_not_fit(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["check_colab.py"])
    assert check_colab.main() == 0
    assert ", 0 do not fit" in capsys.readouterr().out
    changed = dict(LOCK) | {"trl": LOCK["trl"] | {"requires": ["numpy>=3"]}}
    (tmp_path / "lock.json").write_text(json.dumps(changed))
    monkeypatch.setattr(check_colab, "LOCK", tmp_path / "lock.json")
    assert check_colab.main() == 1
    assert f"does not fit: trl {PINS['trl']} needs numpy>=3, there is {IMAGE['numpy']}" in capsys.readouterr().out


def test_the_list_is_what_this_python_can_have_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check_colab.py", "--list"])
    check_colab.main()
    listed = check_colab.read_pins(capsys.readouterr().out)
    assert listed["pandas"] == IMAGE["pandas"]
    assert listed["trl"] == PINS["trl"]
    assert not {"torch", "triton", "xformers"} & listed.keys()
