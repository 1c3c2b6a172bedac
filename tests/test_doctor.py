"""The doctor: never fails without network, GPU or token, and prints a fix for each requirement that is not met."""

from __future__ import annotations

import os
import re
import time

import huggingface_hub
import pytest
import torch
from conftest import python
from huggingface_hub.errors import HfHubHTTPError

from cookbook import budget, doctor, hardware, profiles
from cookbook.errors import UserError
from cookbook.machine import Machine, within


def test_it_finishes_in_time_without_network(monkeypatch, capsys):
    monkeypatch.setattr(Machine, "online", False)
    monkeypatch.setattr(Machine, "token", False)
    clock = time.monotonic()
    doctor.doctor()
    out = capsys.readouterr().out
    assert time.monotonic() - clock < 30
    assert all(f"\n{name}: can" in out for name in profiles.PROFILES) and "hf auth login" in out


def test_a_large_machine_can_run_every_profile(machine, capsys):
    machine()
    assert doctor.doctor("14b")
    assert "14b: can run here (8 GPUs of 80 GB)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "profile, lack, what, fix",
    [
        ("nano", {"cores": 1}, "processor cores (nano)", "more cores"),
        ("nano", {"memory_gb": 4.0}, "memory (nano)", "more memory"),
        ("2b", {"disk_gb": 20.0}, "free disk (2b)", "COOKBOOK_HOME"),
        ("2b", {"gpus": [], "driver": False}, "NVIDIA GPU (2b)", "driver"),
        ("2b", {"gpus": [], "driver": True}, "NVIDIA GPU (2b)", "PyTorch sees no GPU"),
        ("2b", {"gpus": [("L4", 24.0)]}, "NVIDIA GPU (2b)", "such GPUs"),
        ("14b", {"gpus": [("H100", 85.0)]}, "NVIDIA GPU (14b)", "such GPUs"),
        ("2b", {"online": False}, "Hub reachable (2b)", "HF_HUB_OFFLINE"),
        ("2b", {"token": False}, "Hub token (2b)", "hf auth login"),
        ("2b", {"accepted": False}, "Hub licences (2b)", "https://huggingface.co/nvidia/Cosmos-Predict2.5-2B"),
    ],
)
def test_each_requirement_that_is_not_met_has_its_fix(machine, capsys, profile, lack, what, fix):
    machine(**lack)
    assert not doctor.doctor(profile)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(what)]
    assert lines and fix in lines[0]
    with pytest.raises(UserError, match=f"requirements of profile {profile}:\n  .*{re.escape(fix)}"):
        doctor.require(profile)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", None])
def test_only_variables_that_are_set_are_to_be_unset(machine, capsys, monkeypatch, name):
    for variable in doctor.OFFLINE:
        monkeypatch.delenv(variable, raising=False)
    if name:
        monkeypatch.setenv(name, "1")
    machine(online=False)
    doctor.doctor("2b")
    cure = f"unset {name}" if name else "connect this machine to the internet"
    assert f"Hub reachable (2b): no; {cure}\n" in capsys.readouterr().out


def test_no_size_is_zero():
    sources = [*doctor.sources(profiles.nano()), *doctor.sources(profiles.cosmos_2b())]
    sizes = {source.location: doctor.size(source) for source in sources}
    assert all(re.fullmatch(r"[1-9]\d* MB|\d+(\.\d)? GB|unknown, see its page", size) for size in sizes.values()), sizes
    assert sizes["nvidia/Cosmos-Guardrail1"] == "unknown, see its page"
    assert sizes["nano/world"].endswith(" MB") and sizes["nvidia/Cosmos-Predict2.5-2B"] == "21.5 GB"


def test_nano_downloads_nothing_and_never_uses_the_network(machine, monkeypatch, capsys):
    machine()
    for fact in ("online", "token", "refused"):
        monkeypatch.setattr(Machine, fact, property(lambda self: pytest.fail("used the network")))
    assert doctor.doctor("nano")
    budget.plan("nano")
    assert "download  nothing: weights and clips ship" in capsys.readouterr().out


def test_a_probe_that_hangs_or_fails_counts_as_no():
    clock = time.monotonic()
    assert within(0.2, lambda: time.sleep(5)) is False
    assert within(0.2, lambda: 1 / 0) is False
    assert time.monotonic() - clock < 3


def test_a_refused_token_is_not_reported_as_a_missing_licence(machine, capsys):
    machine(refused=True)
    assert not doctor.doctor("2b")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Hub ")]
    assert [line for line in lines if line.startswith("Hub token  ") and "refused (401)" in line]
    assert "Hub token (2b): refused (401); unset HF_TOKEN; hf auth login  (the Hub rejects this token)" in lines
    assert not [line for line in lines if line.startswith("Hub licences (2b)")]
    machine(token=False, refused=True)
    doctor.doctor("2b")
    lines = capsys.readouterr().out.splitlines()
    assert "Hub token (2b): no; hf auth login" in lines, "without a token there is none to refuse"


@pytest.mark.parametrize(("status", "refused"), [(401, True), (403, False), (503, False), (None, False)])
def test_only_a_401_is_a_refused_token(status, refused, monkeypatch):
    class Answer:
        status_code, headers, text, request = status, {}, "", None

    def ask() -> None:
        if status:
            raise HfHubHTTPError("no", response=Answer())

    monkeypatch.setattr(huggingface_hub, "whoami", ask)
    assert Machine().refused is refused


# choices for this machine


def test_printed_choices_are_those_of_the_stages(monkeypatch):
    """The lines come from the functions that the stages call: if those choose differently, the lines change."""
    monkeypatch.setattr(hardware, "device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda on: "H100")
    choices = hardware.choices()
    assert choices["device"] == ("H100", "PyTorch finds it") and choices["dtype"][0] == "bfloat16"
    assert choices["attention"][0].startswith("cudnn before flash") and "none" not in choices["compile"]
    monkeypatch.setattr(hardware, "compute_dtype", lambda on: torch.float16)
    monkeypatch.setattr(hardware, "compiles", lambda on: False)
    choices = hardware.choices()
    assert choices["dtype"][0] == "float16" and choices["compile"][0] == "none"


@pytest.mark.parametrize(
    "variable, value, cure, refused",
    [
        ("HF_ENDPOINT", "hf-mirror.com", "export HF_ENDPOINT=https://hf-mirror.com", 2),
        ("HF_TOKEN", "“hf_abc”", "copy it again, without quotes", 2),
        ("HF_HOME", "/dev/null/cache", "set HF_HOME to a folder that you can write", 1),
    ],
)
def test_settings_of_the_hub_that_cannot_work_get_one_line(variable, value, cure, refused):
    """In a process of its own, as huggingface_hub reads them when it is imported; the doctor needs no HF_HOME."""
    program = """
from cookbook import doctor, errors, profiles
from cookbook.models import hub
for call in (lambda: hub.locate(profiles.get("2b").world), lambda: doctor.doctor("2b")):
    try:
        call()
    except errors.UserError as error:
        print("refused:", ascii(str(error)))
"""
    done = python("-c", program, env=os.environ | {"HF_HUB_OFFLINE": "0", variable: value})
    lines = [line for line in done.stdout.splitlines() if line.startswith("refused:")]
    assert len(lines) == refused and all(cure in line for line in lines), done.stdout + done.stderr
