"""The workflow for forks does what .ci/run and the README say, no more and no less."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from cookbook import profiles

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
JOBS = WORKFLOW["jobs"]


def makes(text: str) -> list[str]:
    """The `make ...` lines of a text, without comments."""
    return [" ".join(line.split()) for line in re.findall(r"\bmake [a-z]+(?: [A-Z]+=\w+)?", text)]


def commands(job: str) -> list[str]:
    return [command for step in JOBS[job]["steps"] for command in makes(step.get("run", ""))]


def test_the_workflow_runs_the_commands_of_ci_run_in_its_order():
    wanted = ["make test", *["make run PROFILE=smoke"] * 2]
    assert commands("laptop") == makes((ROOT / ".ci" / "run").read_text()) == wanted


@pytest.mark.parametrize("job", JOBS)
def test_its_commands_are_those_of_the_readme(job):
    assert set(commands(job)) <= set(makes((ROOT / "README.md").read_text()))


def test_it_covers_the_python_versions_that_the_project_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    versions = JOBS["laptop"]["strategy"]["matrix"]["python"]
    assert versions == [f"3.{minor}" for minor in range(int(low), int(high))]


def test_no_step_hides_a_failure_or_needs_a_secret():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "continue-on-error" not in text and "secrets." not in text and "|| true" not in text
    assert WORKFLOW["permissions"] == {"contents": "read"}
    for job in JOBS.values():
        assert all("run" in step or re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in job["steps"])
    assert "smoke" in profiles.PROFILES


def look(tmp_path: Path, status: int) -> tuple[str, str, str]:
    """What the GPU job's first step prints, hands on and reports, where nvidia-smi ends with that status."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\nexit {status}\n")
    tool.chmod(0o755)
    files = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.touch()
    environment = {name: str(file) for name, file in files.items()}
    environment["PATH"] = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    step = JOBS["gpu"]["steps"][0]
    done = subprocess.run(["bash", "-e", "-c", step["run"]], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, *(file.read_text() for file in files.values())


def test_without_a_gpu_its_job_says_in_words_what_was_not_run(tmp_path):
    printed, output, summary = look(tmp_path, 9)
    assert "not run" in printed and "Not run" in summary and output == ""
    later = JOBS["gpu"]["steps"][1:]
    assert all(step["if"] == "steps.look.outputs.found == 'yes'" for step in later)


def test_with_a_gpu_its_job_goes_on(tmp_path):
    printed, output, summary = look(tmp_path, 0)
    assert output == "found=yes\n" and summary == ""
    assert commands("gpu") == ["make test"]
