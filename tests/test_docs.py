"""What the documents say: versions agree everywhere, links lead somewhere, printed commands exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_cli import FLAGS

from cookbook import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path for pattern in ("*.md", "docs/*.md", "assets/*.md", "notebooks/*.py") for path in ROOT.glob(pattern)
)
PINNED = re.compile(r"^[\s#-]*([A-Za-z0-9_.-]+)==([\w.]+)$")


def pins(path: Path) -> dict[str, str]:
    found = [PINNED.match(line) for line in path.read_text().splitlines()]
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def test_environment_yml_has_the_versions_of_constraints_txt():
    constraints = pins(ROOT / "constraints.txt")
    assert pins(ROOT / "environment.yml") == constraints
    assert len(constraints) > 100


def test_constraints_are_within_the_bounds_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for group in project["optional-dependencies"].values() for line in group),
    ]
    constraints = pins(ROOT / "constraints.txt")
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(constraints[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("file", ["Makefile", "setup.md"])
def test_torch_is_installed_at_the_tested_version(file):
    constraints = pins(ROOT / "constraints.txt")
    for name, version in re.findall(r"(torch|torchvision)==([\d.]+\d)", (ROOT / file).read_text()):
        assert version == constraints[name]


def test_python_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.13"
    assert "python=3.11" in (ROOT / "environment.yml").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_to_files_resolve(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_each_link_to_the_web_has_a_host():
    for page in PAGES:
        for url in re.findall(r"\]\((https?://[^)\s]*)", page.read_text()):
            assert re.match(r"https://[\w.-]+\.\w+(/|$)", url), url


def commands(text: str) -> list[list[str]]:
    """Words of each `cookbook ...` that is printed in a code block or between backquotes."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S))
    lines = [part for line in blocks.splitlines() for part in line.split("#")[0].split("&&")]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    lines = [line.strip().replace("-m cookbook.cli", "cookbook") for line in lines]
    found = [re.search(r"(?:^|\s)cookbook (?=[a-z])(.*)", line) for line in lines]
    return [shlex.split(match[1]) for match in found if match]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_printed_commands_exist(page):
    for words in commands(page.read_text()):
        verb, rest = cli.find(words)
        for flag in (word for word in rest if word.startswith("-")):
            assert flag in FLAGS[verb], f"{page.name}: cookbook {' '.join(words)}"


def test_make_targets_in_the_documents_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", page.read_text(), re.M):
            assert (target[0] or target[1]) in targets
    assert {"run", "test", "lab", "clean"} <= targets


def test_licence_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
