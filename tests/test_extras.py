"""Optional packages: nothing needs them until it is used, and then the error is the line that installs them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cookbook import cli, cluster, doctor, engine
from cookbook.errors import UserError
from cookbook.generate import guardrail
from cookbook.train import callbacks

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
ALONE = engine.Group(0, 1, torch.device("cpu"))

# package -> what first needs it, and the line that the error gives
USES: dict[str, tuple[Callable[[], object], str]] = {
    "ray": (lambda: cluster.connected("local").__enter__(), 'pip install -c constraints.txt -e ".[cluster]"'),
    "tensorboard": (lambda: callbacks.curves(Path("nowhere"), ALONE), "pip install tensorboard"),
    "cosmos_guardrail": (guardrail.load_guardrail, "pip install 'cosmos_guardrail>=0.3,<0.4'"),
    "mujoco": (lambda: cli.function("workshop make"), doctor.INSTALL),
}
WITHOUT = """
import importlib, pkgutil, sys
for name in {absent!r}:
    sys.modules[name] = None
import cookbook
for module in pkgutil.walk_packages(cookbook.__path__, "cookbook."):
    if not module.name.startswith("cookbook.workshop.") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""


def absent(monkeypatch, package: str) -> None:
    """From now on an import of the package fails, as where it is not installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", "cookbook.workshop."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("package", USES)
def test_used_without_it_the_error_is_the_line_that_installs_it(package, monkeypatch):
    use, line = USES[package]
    absent(monkeypatch, package)
    with pytest.raises(UserError, match=re.escape(line)) as raised:
        use()
    assert "\n" not in str(raised.value)


def test_everything_else_is_imported_without_any_of_them():
    packages = [*USES, "playwright", "wandb", "vllm", "jax"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=packages)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert {"cookbook.cluster", "cookbook.train", "cookbook.generate", "cookbook.judge.scoring"} <= set(imported)


def test_each_extra_that_a_message_or_a_page_names_exists():
    told = "".join(path.read_text() for path in [*ROOT.glob("cookbook/**/*.py"), *ROOT.glob("*.md")])
    named = {extra for group in re.findall(r"\.\[([a-z,]+)\]", told) for extra in group.split(",")}
    assert named <= EXTRAS.keys() and {"sim", "cluster", "browser"} <= named


def test_the_browser_test_says_what_it_lacks():
    there = "find = u.find_spec; u.find_spec = lambda name, *more: None if name == 'playwright' else find(name, *more)"
    script = f"import importlib.util as u; {there}; import test_browser; print(test_browser.MISSING)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "tests", capture_output=True, text=True)
    assert 'pip install -c constraints.txt -e ".[browser]"' in done.stdout, done.stderr
