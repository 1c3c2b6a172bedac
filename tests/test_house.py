"""The rules of the house that a machine can hold: style, types, docstrings, lengths, imports, what is committed."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = {"data", "train", "convert", "generate", "judge"}
SHARED = {"flow", "engine", "models", "store", "profiles", "show", "video", "layout", "errors", "words"}
SECRET = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{30,}|AKIA[0-9A-Z]{16})\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
PLACE = re.compile(r"(?<![\w.:/*-])/(home|root|work|tmp|Users|mnt)/")


def modules() -> Iterator[tuple[Path, ast.Module]]:
    """Each module of the package, as a path within it and parsed."""
    for path in sorted((ROOT / "cookbook").rglob("*.py")):
        yield path.relative_to(ROOT / "cookbook"), ast.parse(path.read_text())


def public(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and the public methods of those classes."""
    for node in getattr(tree, "body", ()):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def length(node: ast.stmt) -> int:
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_ruff_has_nothing_to_say(command):
    ruff = [sys.executable, "-m", "ruff", *command.split(), "."]
    done = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_public_api_has_types_and_docstrings():
    """Docstrings outside the workshop; what is no longer than five lines speaks for itself, `forward` is PyTorch's."""
    problems = []
    for path, tree in modules():
        problems += [] if ast.get_docstring(tree) or not tree.body else [f"{path}: no docstring"]
        for node in public(tree):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
                bare += [] if node.returns else ["what it returns"]
                problems += [f"{path}: {node.name} has no type for {', '.join(bare)}"] if bare else []
            told = ast.get_docstring(node) or length(node) <= 5 or node.name == "forward"
            problems += [] if told or path.parts[0] == "workshop" else [f"{path}: {node.name} has no docstring"]
    assert not problems, "\n".join(problems)


def test_files_and_functions_are_short():
    """Near 300 lines, and a screen or two; the workshop, which no notebook needs, has two longer loops."""
    problems = []
    for path in (path for folder in ("cookbook", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")):
        text, most = path.read_text(), 105 if path.parent.name == "workshop" else 75
        lines, functions = text.count("\n"), [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
        problems += [f"{path}: {lines} lines"] if lines > 340 else []
        problems += [f"{path}: {node.name} has {length(node)} lines" for node in functions if length(node) > most]
    assert not problems, "\n".join(problems)


def test_imports_point_one_way():
    """No stage imports another, and what they share imports none of them."""
    problems = []
    for path, tree in modules():
        own, found = path.with_suffix("").parts[0], set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        read = {module.split(".")[1] for module in found if module.startswith("cookbook.")}
        if own in STAGES | SHARED and (wrong := read & STAGES - {own}):
            problems.append(f"{path}: imports {', '.join(sorted(wrong))}")
    assert not problems, "\n".join(problems)


def committed() -> list[Path]:
    """All files of the repository, those not yet committed but not ignored included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("NOT RUN: no git clone, so what is committed cannot be known")
    return [path for path in (ROOT / line for line in done.stdout.split("\0") if line) if path.is_file()]


def test_no_large_file_no_secret_and_no_place_of_one_machine_is_committed():
    for path in committed():
        assert path.stat().st_size < 25e6, path
        content = path.read_bytes()
        if b"\0" in content[:8000] or path == Path(__file__):
            continue
        text = re.sub(r"base64,[A-Za-z0-9+/=]+|\"image/\w+\": \"[^\"]*\"", "", content.decode())
        assert not SECRET.search(text), path
        assert path.suffix == ".py" and path.parent.name == "tests" or not PLACE.search(text), path


def test_secrets_and_places_are_found():
    assert SECRET.search("token = 'hf_" + "a1" * 17 + "'") and SECRET.search("-----BEGIN RSA PRIVATE KEY-----")
    assert PLACE.search('"/home/me/x"') and not PLACE.search("https://a.org/home/x") and not PLACE.search("a/tmp/b")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """The wheel, built from a copy and installed in a folder of its own."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(ROOT / "cookbook", source / "cookbook", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir=.", "."], cwd=source, check=True)
    (wheel,) = source.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", f"--target={folder}", str(wheel)], check=True)
    return folder


def there(folder: Path, script: str) -> subprocess.CompletedProcess:
    """A Python far from the checkout, with the installed package."""
    options = {"cwd": folder, "env": {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, **options)


def test_the_wheel_holds_all_that_the_package_reads(elsewhere):
    kept = {path.relative_to(elsewhere) for path in (elsewhere / "cookbook").rglob("*") if path.suffix != ".pyc"}
    told = {path.relative_to(ROOT) for path in committed() if path.relative_to(ROOT).parts[0] == "cookbook"}
    assert {path for path in told if path.suffix != ".sh"} <= kept
    assert (elsewhere / "bin" / "cookbook").exists()


def test_the_wheel_works_elsewhere(elsewhere):
    cli = "import cookbook; from cookbook.cli import main; "
    done = there(elsewhere, f"{cli}print(cookbook.__file__); main(['train', '--profile', '2b', '--plan'])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(elsewhere)) and "memory" in done.stdout
    done = there(elsewhere, f"{cli}import sys; sys.exit(main(['prepare', '--profile', 'nano', '--run', 'run']))")
    assert done.returncode == 2 and done.stderr.startswith("cookbook: ") and done.stderr.count("\n") == 1, done.stderr
