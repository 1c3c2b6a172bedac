"""The doctor: never fails on a machine without network, GPU or token, and names a fix for each missing thing."""

from __future__ import annotations

import re
import time

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

from cookbook import doctor, hardware, profiles
from cookbook.errors import UserError
from cookbook.machine import Machine, within
from cookbook.models import fast, world


def test_every_profile_has_its_needs():
    assert doctor.NEEDS.keys() == profiles.PROFILES.keys()


def test_on_this_machine_it_answers_in_time_and_without_network(monkeypatch, capsys):
    monkeypatch.setattr(Machine, "online", False)
    monkeypatch.setattr(Machine, "token", False)
    clock = time.monotonic()
    doctor.doctor()
    out = capsys.readouterr().out
    assert time.monotonic() - clock < 30
    for name in profiles.PROFILES:
        assert f"\n{name}: can" in out
    assert "hf auth login" in out


def test_a_large_machine_runs_everything(machine, capsys):
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
def test_each_missing_thing_is_named_with_its_fix(machine, capsys, profile, lack, what, fix):
    machine(**lack)
    assert not doctor.doctor(profile)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(what)]
    assert lines and fix in lines[0]
    with pytest.raises(UserError, match=f"{profile} cannot run here, because of\n  .*{re.escape(fix)}"):
        doctor.require(profile)


def test_need_is_told_against_what_is_here(machine, capsys):
    machine(memory_gb=25.1, cores=4, gpus=[])
    doctor.doctor()
    out = capsys.readouterr().out
    assert "\nmemory (2b, 14b): 2b needs 64 GB, 14b needs 256 GB, here 25.1 GB; use a machine with more memory\n" in out
    assert "\nNVIDIA GPU (2b, 14b): 2b needs 1 GPU of 80 GB, 14b needs 8 GPUs of 80 GB, here none; " in out


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", None])
def test_only_what_is_set_is_to_be_unset(machine, capsys, monkeypatch, name):
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


def test_nano_never_asks_the_network(machine, monkeypatch):
    machine()
    asked = property(lambda self: pytest.fail("asked the network"))
    monkeypatch.setattr(Machine, "online", asked)
    monkeypatch.setattr(Machine, "token", asked)
    monkeypatch.setattr(Machine, "refused", asked)
    assert doctor.doctor("nano")


def test_a_probe_that_hangs_or_breaks_is_a_no():
    clock = time.monotonic()
    assert within(0.2, lambda: time.sleep(5)) is None
    assert within(0.2, lambda: 1 / 0) is None
    assert time.monotonic() - clock < 3


def test_a_token_that_the_hub_refuses_is_not_taken_for_a_missing_licence(machine, capsys):
    machine(refused=True)
    assert not doctor.doctor("2b")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Hub ")]
    assert [line for line in lines if line.startswith("Hub token  ") and "refused (401)" in line]
    assert "Hub token (2b): refused (401); unset HF_TOKEN; hf auth login  (the Hub no longer takes this one)" in lines
    assert not [line for line in lines if line.startswith("Hub licences (2b)")]
    machine(token=False, refused=True)
    doctor.doctor("2b")
    assert "Hub token (2b): no; hf auth login" in capsys.readouterr().out.splitlines(), (
        "without a token there is none to refuse"
    )


@pytest.mark.parametrize(("status", "refused"), [(401, True), (403, False), (503, False), (None, False)])
def test_only_a_401_is_a_refused_token(status, refused, monkeypatch):
    class Answer:
        status_code, headers, text, request = status, {}, "", None

    def ask() -> None:
        if status:
            raise HfHubHTTPError("no", response=Answer())

    monkeypatch.setattr(huggingface_hub, "whoami", ask)
    assert Machine().refused is refused


# what was chosen for this machine


def test_each_choice_is_told_with_its_reason_on_a_line(machine, capsys):
    machine()
    for told in (doctor.require, doctor.doctor):
        told("nano")
        lines = capsys.readouterr().out.splitlines()
        for name in ("device", "dtype", "attention", "compile", "video"):
            (line,) = [line for line in lines if line.startswith(f"  {name} ")]
            assert re.fullmatch(r"  \w+ +\S.*: \S.*", line) and len(line) <= 120


def test_on_a_cpu_the_choices_are_those_of_a_cpu():
    told = {name: chosen for name, (chosen, _) in hardware.choices().items()}
    if not torch.cuda.is_available():
        assert (told["device"], told["dtype"], told["compile"]) == ("cpu", "float32", "none")


def test_what_is_told_is_what_the_stages_do(monkeypatch):
    """The choices are asked of the functions that make them: where those choose otherwise, the lines change."""
    monkeypatch.setattr(hardware, "device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda on: "H100")
    told = hardware.choices()
    assert told["device"] == ("H100", "PyTorch finds it") and told["dtype"][0] == "bfloat16"
    assert told["attention"][0].startswith("cudnn before flash") and "none" not in told["compile"]
    monkeypatch.setattr(hardware, "compute_dtype", lambda on: torch.float16)
    monkeypatch.setattr(hardware, "compiles", lambda on: False)
    told = hardware.choices()
    assert told["dtype"][0] == "float16" and told["compile"][0] == "none"
