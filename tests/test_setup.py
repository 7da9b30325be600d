"""The set-up files agree with each other, `make` does no work twice, and importing the package stays cheap."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import mirage_nb

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
APT = (ROOT / "apt.txt").read_text().split()
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(ROOT.glob("mirage_nb/**/*.py"))
    if not path.stem.startswith("__")
]
OPTIONAL = {"mirage-nb", "tomli"}  # used where they happen to be installed, or on old versions of Python
UNWANTED = {"torchvision", "opencv-python", "opencv-python-headless", "opencv-contrib-python"}


def python(code: str, *path: Path) -> str:
    """Run code in a fresh interpreter that sees `path`, then the project; returns what it printed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- Dependencies


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_every_dependency_has_one_exact_pin_on_every_python(version: str) -> None:
    assert version in SpecifierSet(PROJECT["requires-python"])
    pins = [pin for pin in PINS if not pin.marker or pin.marker.evaluate({"python_version": version})]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(names) == len(set(names)), f"pinned twice: {sorted({n for n in names if names.count(n) > 1})}"
    assert all([spec.operator for spec in pin.specifier] == ["=="] for pin in pins)
    assert {canonicalize_name(requirement.name) for requirement in NEEDED} <= set(names)


def test_versions_are_written_in_constraints_only() -> None:
    assert [str(requirement) for requirement in NEEDED if requirement.specifier] == []
    assert "version" in PROJECT["dynamic"]  # it is read from the package
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dependencies[-1] == {"pip": ["-c constraints.txt", "-e .[dev]"]}
    name, _, version = dependencies[0].partition("=")
    assert name == "python" and version in SpecifierSet(PROJECT["requires-python"])
    assert not any(re.search("[=<>]", line) for line in dependencies[1:-1])


def test_torchvision_and_opencv_are_neither_asked_for_nor_imported() -> None:
    assert UNWANTED.isdisjoint(canonicalize_name(requirement.name) for requirement in NEEDED + PINS)
    sources = [*ROOT.glob("mirage_nb/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    assert sources
    imports = re.compile(r"\b(?:import|from)\s+(?:torchvision|cv2)\b")
    assert [str(path) for path in sources if imports.search(path.read_text())] == []


def test_every_imported_library_is_declared() -> None:
    """By the import's name; what the development tools import in tests counts as well."""
    packages = packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in NEEDED}
    missing = {}
    for path in [*ROOT.glob("mirage_nb/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in (name.split(".")[0] for name in names):
                known = {canonicalize_name(package) for package in packages.get(name, [])}
                if known and not known & (declared | OPTIONAL):
                    missing.setdefault(name, str(path.relative_to(ROOT)))
    assert missing == {}


def test_libraries_work_without_torchvision() -> None:
    shape = python(
        "import sys\n"
        "sys.modules['torchvision'] = sys.modules['cv2'] = None\n"
        "from diffusers import AutoencoderKLWan, DiffusionPipeline, WanTransformer3DModel\n"
        "from diffusers.video_processor import VideoProcessor\n"
        "from transformers import AutoModelForDepthEstimation, DPTImageProcessor\n"
        "from PIL import Image\n"
        "pixels = DPTImageProcessor()(Image.new('RGB', (64, 48)), return_tensors='pt')['pixel_values']\n"
        "print(tuple(pixels.shape))"
    )
    assert shape.strip() == "(1, 3, 384, 384)"


def test_system_libraries_stand_in_apt_and_in_conda_terms() -> None:
    assert {"libusb-1.0-0", "libgl1", "libgomp1", "libx11-6"} <= set(APT)
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert {"libusb", "libgl", "libgomp", "xorg-libx11"} <= set(conda[:-1])


# ---- Importing


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = ["torch", "numpy", "diffusers", "transformers", "open3d", "plotly", "matplotlib"]
    loaded = json.loads(python("import sys, json, mirage_nb; print(json.dumps(list(sys.modules)))"))
    assert "mirage_nb" in loaded and set(heavy).isdisjoint(loaded)


def test_all_modules_import_where_open3d_does_not_load(tmp_path: Path) -> None:
    """A wheel whose system libraries are missing raises OSError: only the functions that need it may notice."""
    (tmp_path / "open3d.py").write_text("raise OSError('libusb-1.0.so.0: cannot open shared object file')\n")
    python(
        "import importlib\n"
        "try: import open3d\n"
        "except OSError: pass\n"
        "else: raise SystemExit('the fake open3d was not found')\n"
        f"for name in {MODULES!r}: importlib.import_module(name)",
        tmp_path,
    )


CORE = ["cameras", "paths", "lifting", "reprojection", "memory", "memory.grid", "masking"]


def test_the_stages_need_no_model_library() -> None:
    """Cameras and the memory are plain torch: they import no diffusers, and nothing of `data` or `viz`."""
    loaded = json.loads(
        python(
            "import sys, json, importlib\n"
            f"for name in {CORE!r}: importlib.import_module('mirage_nb.' + name)\n"
            "print(json.dumps(list(sys.modules)))"
        )
    )
    assert "mirage_nb.cameras" in loaded and {"diffusers", "transformers", "open3d", "plotly"}.isdisjoint(loaded)
    assert not [name for name in loaded if name.startswith(("mirage_nb.data", "mirage_nb.viz"))]


def test_the_core_imports_neither_viz_nor_the_command_line() -> None:
    free = {"viz", "cli", "benchmarks", "evaluation", "training"}
    core = [path for path in ROOT.glob("mirage_nb/**/*.py") if path.relative_to(ROOT).parts[1] not in free]
    assert [str(path) for path in core if re.search(r"mirage_nb\.(viz|cli)\b", path.read_text())] == []


@pytest.mark.parametrize("name", mirage_nb.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(mirage_nb, name) is not None
    assert name in dir(mirage_nb)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="LatentGird"):
        mirage_nb.LatentGird  # noqa: B018


# ---- make


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "apt.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def plan(folder: Path, target: str) -> str:
    """The commands that make would run."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--dry-run", target]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout


def test_make_installs_once_and_again_when_a_requirement_changed(checkout: Path) -> None:
    install = "pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'"
    first = plan(checkout, "test")
    assert first.index("tools/apt.sh") < first.index("-m venv") < first.index(install) < first.index("-m pytest")

    stamp = checkout / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()
    now = stamp.stat().st_mtime
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(checkout / name, (now - 10, now - 10))
    assert "pip install" not in plan(checkout, "test")
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(checkout / name, (now + 10, now + 10))
        assert install in plan(checkout, "test")
        os.utime(checkout / name, (now - 10, now - 10))


def test_make_demo_writes_where_git_does_not_look(checkout: Path) -> None:
    commands = plan(checkout, "demo")
    assert "papermill notebooks/00_quickstart.ipynb build/demo/00_quickstart.ipynb" in commands
    assert "-p output_dir build/demo" in commands
    assert {".venv/", "build/"} <= set((ROOT / ".gitignore").read_text().split("\n"))


@pytest.mark.parametrize("target", ["", "help"])
def test_make_alone_lists_the_targets(checkout: Path, target: str) -> None:
    listed = subprocess.run(["make", *target.split()], cwd=checkout, capture_output=True, text=True, check=True).stdout
    assert [f"make {name}" in listed for name in ("demo", "test", "lab")] == [True] * 3


@pytest.fixture
def apt(tmp_path: Path):
    """Runs tools/apt.sh on a pretended machine; returns what it printed and how apt-get was called."""
    log = tmp_path / "log"
    for name, script in {
        "uname": "echo Linux",
        "id": 'echo "$FAKE_UID"',
        "dpkg-query": 'case " $FAKE_INSTALLED " in *" $4 "*) echo installed;; *) echo not-installed;; esac',
        "apt-get": f'echo "$@" >> {log}; exit "$FAKE_STATUS"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    def run(uid: int, installed: list[str], status: int = 0) -> tuple[str, list[str]]:
        log.write_text("")
        env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "FAKE_UID": str(uid)}
        env |= {"FAKE_INSTALLED": " ".join(installed), "FAKE_STATUS": str(status)}
        command = ["sh", str(ROOT / "tools/apt.sh"), *APT]
        printed = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
        return printed, log.read_text().splitlines()

    return run


def test_system_libraries_are_left_alone_when_all_are_there(apt) -> None:
    assert apt(0, APT) == ("", [])


def test_root_installs_only_what_is_missing(apt) -> None:
    printed, calls = apt(0, APT[1:])
    assert printed == "" and calls == ["update -q", f"install -y --no-install-recommends {APT[0]}"]


def test_others_are_told_the_one_command(apt) -> None:
    printed, calls = apt(1000, APT[:1])
    assert calls == [] and f"sudo apt-get install -y --no-install-recommends {' '.join(APT[1:])}\n" in printed


def test_a_failing_apt_does_not_stop_the_set_up(apt) -> None:
    printed, calls = apt(0, [], status=100)
    assert calls and f"apt-get install -y --no-install-recommends {' '.join(APT)}\n" in printed
