# Everything a newcomer types. Each target makes the environment first where it is missing; only Python 3.11 or 3.12,
# pip, git and make are needed. `make run PROFILE=smoke` is the three-minute version.
PROFILE ?= nano
PYTHON ?= python3
BIN := .venv/bin

# In an unpacked bundle nothing is looked for on the network.
ifneq ($(wildcard wheels/*.whl),)
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := wheels
export HF_HUB_OFFLINE := 1
endif

.PHONY: run test test-all lab bundle reset clean

run: .venv/ready
	$(BIN)/cookbook run --profile $(PROFILE)

# Every stage at tiny size, in a few minutes.
test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile

# All tests, those marked slow and those on Ray included. .ci/run calls this.
test-all: .venv/ready
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt ray
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ""

# Without trust JupyterLab hides the videos of notebooks that you have not run yourself.
lab: .venv/ready
	$(BIN)/jupyter trust notebooks/*.ipynb
	$(BIN)/jupyter lab --notebook-dir .

# One file for a classroom without network: tar xf cookbook-bundle.tar, cd cookbook, make run.
bundle: .venv/ready
	$(BIN)/python -m tools.bundle cookbook-bundle.tar

# Back to the start of a class: the results of one profile go, and the notebooks are as committed.
reset:
	rm -rf "$${COOKBOOK_HOME:-.}/runs/$(PROFILE)" "$${COOKBOOK_HOME:-.}/runs/$(PROFILE)-samples"
	git stash push -q -m "notebooks before make reset" -- notebooks
	@echo "notebooks are as committed; git stash pop brings your edits back"

# Removes the environment and caches. Your results in runs/ are kept.
clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find cookbook simulator nano tools benchmarks tests notebooks -name __pycache__ -prune -exec rm -rf {} +

# Whether this machine can draw the simulator. If not, a renderer comes from PyPI, without the packages that it asks for.
export RENDERER := import sys; from cookbook.machine import Machine; sys.exit(not Machine().renderer)

# torch comes first and exactly, so that pip never looks for another one; the stamp makes a second call do nothing.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "Python 3.11 or 3.12 is needed, $(PYTHON) is another: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev,sim]"
	@[ "$$(uname -sm)" != "Linux x86_64" ] || $(BIN)/python -c "$$RENDERER" \
	  || $(BIN)/python -m pip install --disable-pip-version-check --no-deps lavavu-osmesa==1.9.10 \
	  || echo "without it the simulator draws nothing; all else works" >&2
	@touch $@
