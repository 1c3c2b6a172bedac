"""The printed plan of generation: estimated time, and the placement of each network on the GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cookbook import profiles
from cookbook.errors import UserError
from cookbook.generate import planning
from cookbook.generate.requests import Request

GIB = 2**30
ENCODER, NETWORK, PIXELS = int(15.4 * GIB), int(4.1 * GIB), 432 * 768  # the 2B profile


def request(**changes) -> Request:
    row = {"name": "a", "prompt": "Wave.", "num_output_frames": 93, "resolution": "432,768", "guidance": 7}
    return Request(inference_type="text2world", **(row | changes))


def test_hours_follow_from_the_size_of_the_work():
    large = profiles.get("2b")
    assert planning.cost(large, [(request(), 0)], gpu=True) == "about 41 s on one H100", "where the rate was measured"
    batch = [(request(), seed) for seed in range(250)]
    assert planning.cost(large, batch, gpu=False) == "about 2.9 h on one H100", (
        "no CPU generates with 2 billion weights"
    )
    assert planning.cost(large, batch[:10], gpu=True) == "about 7 min on one H100"
    half = [(request(guidance=0), 0), (request(num_steps=18), 0)]
    assert planning.cost(large, half, gpu=True) == "about 41 s on one H100", "guidance and steps of the row count"
    small = replace(profiles.get("nano"))
    nano = request(num_output_frames=25, resolution="96,160")
    assert planning.cost(small, [(nano, seed) for seed in range(20)], gpu=False) == "about 54 s on two CPU cores"


@pytest.mark.parametrize(
    ("free", "encoder", "tiled"), [(79, True, False), (24, True, False), (16, False, False), (7, False, True)]
)
def test_free_memory_decides_the_placement_of_networks(free, encoder, tiled):
    chosen = planning.fit(free * GIB, ENCODER, NETWORK, PIXELS)
    assert (chosen.encoder, chosen.tiled) == (encoder, tiled)
    line = planning.describe(chosen, free * GIB)
    assert f"{free}.0 GiB of the GPU are free" in line and "\n" not in line
    assert ("on the CPU" in line, "in tiles" in line) == (not encoder, tiled)


def test_a_larger_picture_is_tiled_sooner():
    assert planning.fit(12 * GIB, ENCODER, NETWORK, 704 * 1280).tiled
    assert not planning.fit(12 * GIB, ENCODER, NETWORK, PIXELS).tiled


def test_too_little_memory_is_said_in_one_line():
    with pytest.raises(UserError, match=r"takes 4\.1 GiB and 3\.0 GiB of this GPU are free"):
        planning.fit(3 * GIB, ENCODER, NETWORK, PIXELS)
