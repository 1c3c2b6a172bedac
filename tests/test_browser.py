"""JupyterLab in a real browser: videos play, a notebook runs, widgets respond. Screenshots stay in runs/browser/.

It needs the extra `browser` and a Chromium of the system; that of playwright itself cannot decode H.264.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
import tiny
from conftest import free_port
from test_runner import write_notebook

from cookbook import storage, video
from tools import pages

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [
    fix
    for present, fix in (
        (find_spec("playwright"), 'pip install -c constraints.txt -e ".[browser]"'),
        (CHROMIUM, "apt-get install chromium"),
    )
    if not present
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"NOT RUN, no browser: {' and '.join(MISSING)}"),
    pytest.mark.timeout(900),
]
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": '{"windowingMode": "none"}',  # cells out of sight stay in the page
    "@jupyterlab/apputils-extension/notification": '{"fetchNews": "false"}',  # no question in the way
}
SLOW = 240_000  # milliseconds that a step may take on a busy machine
VIDEOS = "() => [...document.querySelectorAll('video')].map(v => v.readyState)"
PLAY = "async () => { for (const v of document.querySelectorAll('video')) { v.muted = true; await v.play(); } }"
LEAST = "() => Math.min(...[...document.querySelectorAll('video')].map(v => v.currentTime))"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[tuple[Path, dict[str, str], str]]:
    """A folder that a JupyterLab of its own serves, the environment that it runs in, and its address."""
    home = tmp_path_factory.mktemp("lab")
    names = ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    environment = os.environ | {name: str(home / name) for name in (*names, "JUPYTERLAB_SETTINGS_DIR")}
    environment |= {"COOKBOOK_HOME": str(home), "PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1"}
    environment.pop("HEADLESS", None)
    for plugin, setting in SETTINGS.items():
        file = home / "JUPYTERLAB_SETTINGS_DIR" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(setting)
    (home / "notebooks").mkdir()
    port = free_port()
    command = f"-m jupyterlab --allow-root --no-browser --port={port} --IdentityProvider.token= --expose-app-in-browser"
    with open(home / "log", "w") as log:
        options = {"cwd": home, "env": environment, "stdout": log, "stderr": log}
        server = subprocess.Popen([sys.executable, *command.split(), f"--ServerApp.root_dir={home}"], **options)
    try:
        wait_for(f"http://127.0.0.1:{port}/api", server, home / "log")
        yield home, environment, f"http://127.0.0.1:{port}/lab/tree/"
    finally:
        server.terminate()
        server.wait()


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(480):
        try:
            urllib.request.urlopen(address)
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.5)
    raise AssertionError(f"no answer from {address}: {log.read_text()}")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, request):
    """An empty page. A picture of its last state is kept, also when the test failed."""
    opened = browser.new_page(viewport={"width": 1400, "height": 1200})
    opened.set_default_timeout(SLOW)
    yield opened
    (ROOT / "runs" / "browser").mkdir(parents=True, exist_ok=True)
    opened.screenshot(path=ROOT / "runs" / "browser" / f"{request.node.name.removeprefix('test_')}.png")
    opened.close()


def prepare(home: Path, number: str, more: str = "", until: str | None = None) -> str:
    """A copy of a notebook without outputs at `smoke`, up to the cell with the text `until`, and one more cell."""
    source = next((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
    book = nbformat.read(source, as_version=4)
    if until:
        last = next(index for index, cell in enumerate(book.cells) if until in cell.source)
        book.cells = book.cells[: last + 1]
    book.cells += [nbformat.v4.new_code_cell(more)] if more else []
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.source = cell.source.replace('profile: str = "nano"', 'profile: str = "smoke"')
            cell.outputs, cell.execution_count = [], None
    nbformat.write(book, home / "notebooks" / source.name)
    return f"notebooks/{source.name}?reset"  # an empty workspace


def run_all(page) -> None:
    """Run > Run All Cells once the kernel is there; then every code cell must have its number and none have failed."""
    kernel = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
    page.wait_for_function(f"() => {kernel}?.status === 'idle'")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    done = """() => { const counts = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')]
        .map(prompt => prompt.innerText); return counts.length && counts.every(text => /\\[\\d+\\]/.test(text))
        || document.querySelector('.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]') }"""
    page.wait_for_function(done)
    failed = page.locator('.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]')
    assert failed.count() == 0, failed.first.inner_text()


def play(page) -> None:
    """All videos have their data and move on when played."""
    page.wait_for_function("() => [...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
    page.evaluate(PLAY)
    page.wait_for_function(f"() => ({LEAST})() > 0.2")


def test_committed_videos_play_in_a_trusted_notebook_only(lab, page):
    """JupyterLab removes videos from notebooks that this user has neither run nor trusted; `make lab` trusts them."""
    home, environment, address = lab
    shutil.copy(ROOT / "notebooks" / "01_preparing_data.ipynb", home / "notebooks" / "shown.ipynb")
    page.goto(f"{address}notebooks/shown.ipynb?reset")
    page.wait_for_selector("video", state="attached")
    page.wait_for_timeout(2000)
    assert set(page.evaluate(VIDEOS)) == {0}
    recipe = re.search(r"^lab:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    trust = re.search(r"\$\(BIN\)/(jupyter trust .*)", recipe)[1]
    subprocess.run(f"{sys.executable} -m {trust}", shell=True, cwd=home, env=environment, check=True)
    page.reload()
    page.wait_for_selector("video", state="attached")
    play(page)


def test_videos_play_on_the_static_pages(page, tmp_path):
    pages.build(tmp_path)
    page.route("https://**", lambda route: route.abort())
    page.goto((tmp_path / "index.html").as_uri())
    page.get_by_role("link", name="Generate videos").click()
    page.wait_for_selector("video")
    play(page)


def test_a_notebook_runs_and_a_menu_changes_the_video(lab, page):
    home, _, address = lab
    more = "show.browse(lambda clip: show.show_video(videos[clip], height=144), clip=['first', 'second'])"
    more = f"videos = dict(zip(['first', 'second'], videos))\n{more}"
    page.goto(address + prepare(home, "01", more))
    run_all(page)
    menu = page.locator(".widget-dropdown select")
    menu.wait_for()
    play(page)
    source = "() => document.querySelector('.widget-interact video source').src"
    before = page.evaluate(source)
    menu.select_option("second")
    page.wait_for_function(f"before => ({source})() !== before", arg=before)
    play(page)
    assert (home / "runs" / "smoke" / "data" / "manifest.json").exists()


def test_the_slider_of_noise_levels_responds(lab, page):
    home, _, address = lab
    page.goto(address + prepare(home, "02", until="noise_level="))
    run_all(page)
    picture = "() => document.querySelector('.widget-interact img').src"
    page.wait_for_function(f"() => document.querySelector('.widget-interact img') && ({picture})()")
    clean = page.evaluate(picture)
    page.locator(".widget-slider .noUi-handle").press("ArrowRight")
    page.wait_for_function(f"before => ({picture})() !== before", arg=clean)
    page.locator(".widget-interact img").scroll_into_view_if_needed()


def test_the_sliders_of_thresholds_respond(lab, page):
    """The cell of notebook 04 on two videos, of which one reaches the filter's thresholds."""
    home, _, address = lab
    for number in range(2):
        video.write_video(home / "judged" / f"{number}.mp4", tiny.clip(number), 8)
        row = {"file": f"{number}.mp4", "scores": {"physics": 1.5 + 3 * number, "instruction": 4.0}}
        storage.append_row(home / "judged" / "kept" / f"{('dropped', 'kept')[number]}.jsonl", row)
    known = (
        f"from pathlib import Path\nfolder, outcomes = Path({str(home / 'judged')!r}), {{'1.mp4': {{'passed': True}}}}"
    )
    known += "\nfiltered = {'thresholds': {'physics': 3.21, 'instruction': 2.5}}"
    known += "\nfrom cookbook import pictures, show, storage, video\n"
    book = nbformat.read(next((ROOT / "notebooks").glob("04_*.ipynb")), as_version=4)
    (cell,) = [cell.source for cell in book.cells if "browse(at_thresholds" in cell.source]
    write_notebook(home / "thresholds.ipynb", nbformat.v4.new_code_cell(known + cell))
    page.goto(f"{address}thresholds.ipynb?reset")
    run_all(page)
    output = page.locator(".widget-interact .widget-output")
    output.get_by_text("physics 3.21, instruction 2.50: 1 of 2 videos pass, precision 1.00").wait_for()
    page.locator(".widget-slider .noUi-handle").first.press("Home")
    output.get_by_text("physics 1.00, instruction 2.50: 2 of 2 videos pass").wait_for()


def test_a_typed_instruction_gets_its_video(lab, page):
    home, _, address = lab
    page.goto(address + prepare(home, "03", until="show.ask(answer"))
    run_all(page)
    box = page.locator(".widget-text input")
    box.fill(re.sub("left|right", lambda side: {"left": "right", "right": "left"}[side[0]], box.input_value()))
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function("() => [...document.querySelectorAll('.jp-OutputArea .widget-output video')].length === 1")
    play(page)


def test_a_video_is_rated_by_keyboard(lab, page):
    home, _, address = lab
    tiny.make_generated(home / "rated", {"a": "Wave."}, models=("tuned",), seeds=1, frames=25)
    file = "generated/tuned/a_seed0.mp4"
    for question, score in (("physics", 4.95), ("instruction", 1.2)):
        verdict = {"file": file, "sha256": storage.digest(home / "rated" / file)}
        storage.append_row(home / "rated/verdicts/verdicts.jsonl", verdict | {"question": question, "score": score})
    storage.append_row(home / "rated/verdicts/ground_truth.jsonl", verdict | {"outcome": "placed"})
    code = "from pathlib import Path\nfrom cookbook.judge.ratings import Rating\n"
    code += f"Rating(Path({str(home / 'rated')!r})).show()"
    write_notebook(home / "rate.ipynb", nbformat.v4.new_code_cell(code))
    page.goto(f"{address}rate.ipynb?reset")
    run_all(page)
    page.wait_for_function("() => document.querySelectorAll('video').length === 1")
    play(page)
    page.locator(".jp-OutputArea button", has_text="4").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.jp-OutputArea button:disabled').length === 5")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text("2 ratings are in ratings.jsonl").wait_for()
    page.get_by_text("physics: you 4, critic 4.95; instruction: you 1, critic 1.20; ground truth: placed").wait_for()
    ratings = [(row["question"], row["rating"]) for row in storage.read_rows(home / "rated" / "ratings.jsonl")]
    assert ratings == [("physics", 4), ("instruction", 1)], "the second question is one Tab away"
