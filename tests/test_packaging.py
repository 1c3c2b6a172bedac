"""The project as others install, extend and teach it: locked versions, wheel, extras, CI, examples, no network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import python
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_repository import PACKAGES, ROOT, committed

from cookbook import cluster, doctor, exercises, notebooks, results, runs
from cookbook.errors import UserError
from cookbook.generate import generator
from cookbook.judge import calibration_clips, rubrics

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = re.compile(r"^[\s#-]*([A-Za-z0-9_.-]+)==([\w.]+)$")
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
JOBS = WORKFLOW["jobs"]
SECRET = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{30,}|AKIA[0-9A-Z]{16})\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
PLACE = re.compile(r"(?<![\w.:/*-])/(home|root|work|tmp|Users|mnt)/")


def pins(path: Path) -> dict[str, str]:
    matches = [PINNED.match(line) for line in path.read_text().splitlines()]
    return {canonicalize_name(match[1]): match[2] for match in matches if match}


def test_environment_yml_has_the_versions_of_constraints_txt():
    constraints = pins(ROOT / "constraints.txt")
    assert pins(ROOT / "environment.yml") == constraints and len(constraints) > 100


def test_locked_versions_are_within_the_bounds_of_pyproject():
    extras = [line for group in PROJECT["optional-dependencies"].values() for line in group]
    constraints = pins(ROOT / "constraints.txt")
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        assert requirement.specifier.contains(constraints[canonicalize_name(requirement.name)]), requirement
    for file in ("Makefile", "setup.md"):
        for name, version in re.findall(r"(torch|torchvision)==([\d.]+\d)", (ROOT / file).read_text()):
            assert version == constraints[name], file


def test_messages_and_pages_name_extras_that_exist():
    files = [path for path in committed() if path.suffix == ".py" or (path.parent, path.suffix) == (ROOT, ".md")]
    found = [extras for path in files for extras in re.findall(r"\.\[([\w,]+)\]", path.read_text())]
    named = {extra for extras in found for extra in extras.split(",")}
    assert {"sim", "dev", "cluster", "browser"} <= named <= PROJECT["optional-dependencies"].keys()


def test_no_large_file_no_secret_and_no_local_path_is_committed():
    assert SECRET.search("token = 'hf_" + "a1" * 17 + "'") and SECRET.search("-----BEGIN RSA PRIVATE KEY-----")
    assert PLACE.search('"/home/me/x"') and not PLACE.search("https://a.org/home/x") and not PLACE.search("a/tmp/b")
    for path in committed():
        assert path.stat().st_size < 25e6, path
        content = path.read_bytes()
        if b"\0" in content[:8000] or path == Path(__file__):
            continue
        text = re.sub(r"base64,[A-Za-z0-9+/=]+|\"image/\w+\": \"[^\"]*\"", "", content.decode())
        assert not SECRET.search(text), path
        assert path.suffix == ".py" and path.parent.name == "tests" or not PLACE.search(text), path


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the checkout and installed in a folder of its own."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("elsewhere")
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    python(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir=.", ".", cwd=source, check=True)
    (wheel,) = source.glob("*.whl")
    python(*pip, "install", "--no-deps", f"--target={folder}", wheel, check=True)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_all_of_cookbook_and_nothing_else(installed):
    kept = {path.relative_to(installed) for path in (installed / "cookbook").rglob("*") if path.suffix != ".pyc"}
    wanted = {path.relative_to(ROOT) for path in committed() if path.is_relative_to(ROOT / "cookbook")}
    assert wanted <= kept and (installed / "bin" / "cookbook").exists()
    names = [path.name for path in installed.iterdir() if path.name != "bin" and path.suffix != ".dist-info"]
    assert names == ["cookbook"], "tools, nano, simulator and tests could collide in site-packages"


ELSEWHERE = """
import importlib, pkgutil, sys
for name in ("ray", "cosmos_guardrail", "mujoco", "playwright", "wandb", "vllm", "jax"):
    sys.modules[name] = None
import cookbook
from cookbook.cli import main
for module in pkgutil.walk_packages(cookbook.__path__, "cookbook."):
    importlib.import_module(module.name)
print(cookbook.__file__)
main(["plan", "--profile", "2b"])
sys.exit(main(["prepare", "--profile", "nano", "--run", "run"]))
"""


@pytest.mark.slow
def test_the_wheel_works_elsewhere_without_any_optional_package(installed):
    """Far from the checkout every module can be imported, and what is missing there gets one line."""
    options = {"cwd": installed, "env": {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}}
    done = python("-c", ELSEWHERE, **options)
    assert done.stdout.startswith(str(installed)) and "memory" in done.stdout, done.stderr
    assert done.returncode == 2 and done.stderr.startswith("cookbook: ") and done.stderr.count("\n") == 1, done.stderr


# package -> its first use, and the line of the error
USES: dict[str, tuple[Callable[[], object], str]] = {
    "ray": (lambda: cluster.connected("local").__enter__(), 'pip install -c constraints.txt -e ".[cluster]"'),
    "cosmos_guardrail": (generator.load_guardrail, "pip install 'cosmos_guardrail>=0.3,<0.4'"),
}


@pytest.mark.parametrize("package", USES)
def test_without_an_optional_package_the_error_is_its_install_line(package, monkeypatch):
    use, line = USES[package]
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=re.escape(line)) as raised:
        use()
    assert "\n" not in str(raised.value)


def test_without_mujoco_the_simulator_names_its_install_line():
    script = "import runpy, sys; sys.modules['mujoco'] = None; runpy.run_module('simulator', run_name='__main__')"
    done = python("-c", script, "make")
    assert done.returncode == 2 and doctor.INSTALL in done.stderr and done.stderr.count("\n") == 1, done.stderr


def makes(text: str) -> list[str]:
    """The `make ...` lines of a text, without comments."""
    return re.findall(r"^[ \t]*(make [a-z-]+(?: [A-Z]+=\w+)?)", text, re.M)


def test_the_workflow_runs_the_commands_of_ci_run_in_its_order():
    wanted = ["make test-all", *["make run PROFILE=smoke"] * 2]
    ci = (ROOT / ".ci" / "run").read_text()
    laptop = "\n".join(step.get("run", "") for step in JOBS["laptop"]["steps"])
    assert makes(ci) == wanted and [line for line in makes(laptop) if ".venv" not in line] == wanted
    for text in (ci, laptop):
        assert re.search(r'grep -q "([^"]+)"', text)[1] in Path(notebooks.__file__).read_text()


def test_make_reset_brings_notebooks_back_and_removes_results(tmp_path, monkeypatch):
    monkeypatch.delenv("COOKBOOK_HOME", raising=False)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00.ipynb").write_text("as committed")
    for command in ("init", "add .", "-c user.name=a -c user.email=a@b commit -m x"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "notebooks" / "00.ipynb").write_text("scribbled")
    for run in ("nano", "nano-samples", "mine"):
        (tmp_path / "runs" / run).mkdir(parents=True)
    subprocess.run(["make", "reset", "PROFILE=nano"], cwd=tmp_path, check=True)
    assert (tmp_path / "notebooks" / "00.ipynb").read_text() == "as committed"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


OFFLINE = """
import socket, sys
def refused(*_, **__):
    raise OSError("no network in this room")
socket.socket.connect = socket.getaddrinfo = refused
from cookbook.cli import main
sys.exit(any(main([*words.split(), "--run", sys.argv[1]]) for words in sys.argv[2:]))
"""


@pytest.mark.slow
def test_data_are_prepared_and_plans_computed_without_network(tmp_path):
    words = ["prepare --profile smoke", "plan --profile smoke", "plan --profile 2b"]
    done = python("-c", OFFLINE, tmp_path / "run", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert runs.read_manifest(tmp_path / "run" / "data")["clips"] == 4


@pytest.mark.slow
def test_the_example_of_a_profile_works(tmp_path):
    """As CONTRIBUTING says: doctor shows it, and every notebook runs with it."""
    for path in committed():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    example = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[1]
    with open(tmp_path / "cookbook/profiles.py", "a") as file:
        file.write("\n\n" + example)
    for verb in ("doctor", "run"):
        variables = os.environ | {"PYTHONPATH": str(tmp_path), "COOKBOOK_HOME": str(tmp_path)}
        done = python("-m", "cookbook.cli", verb, "--profile", "long", cwd=tmp_path, env=variables)
        assert done.returncode == 0 and "long" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    facts = runs.read_manifest(tmp_path / "runs/long/checkpoints")
    assert facts["profile"] == "long" and facts["steps"] == 8
    assert runs.read_manifest(tmp_path / "runs/long/report")["profile"] == "long"


def test_names_that_contributing_explains_exist():
    assert set(runs.READS) == set(runs.FOLDERS) and rubrics.QUESTIONS == results.QUESTIONS
    for question in rubrics.QUESTIONS:
        text, cue = rubrics.read_rubric(question)
        assert cue == "Score: " and (question == "physics" or "{instruction}" in text)
        assert question in calibration_clips.CalibrationClip.__dataclass_fields__
    page = (ROOT / "docs" / "workshop_kit.md").read_text()
    named = {f"check_{book}_{number}" for book, number in re.findall(r"[Ee]xercise (\d\d)\.(\d)", page)}
    assert named and named <= set(vars(exercises))
