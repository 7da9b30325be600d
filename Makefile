PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
DEMO := build/demo
NOTEBOOK := 00_quickstart

.DEFAULT_GOAL := help
.PHONY: help demo test lab lint setup system browser
# Nothing is fetched at run time: the model is in data/.
demo test: export HF_HUB_OFFLINE := 1
# The kernel is this environment's, whatever JupyterHub or the user's folders offer.
unexport JUPYTER_PATH
export JUPYTER_PREFER_ENV_PATH := 1
# Two workers share two cores (pyproject.toml).
test: export OMP_NUM_THREADS := 1
# Fonts are listed for this environment: the user's own list may be another environment's, with fonts that are gone.
test: export MPLCONFIGDIR := $(abspath $(VENV))/matplotlib

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## install, run the quickstart notebook on the bundled model, say where the video is
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	$(PY) -m papermill notebooks/$(NOTEBOOK).ipynb $(DEMO)/$(NOTEBOOK).ipynb -k python3 -p output_dir $(DEMO)
	$(PY) -m nbconvert --to html --log-level WARN $(DEMO)/$(NOTEBOOK).ipynb
	@find $(DEMO) -name '*.mp4' | grep -q . || { echo 'demo: the notebook wrote no video' >&2; exit 1; }
	@printf '\nDone. Look at\n'
	@find $(DEMO) -name '*.mp4' | sort | sed 's/^/  the video     /'
	@printf '  the notebook  $(DEMO)/$(NOTEBOOK).ipynb\n  as a page     $(DEMO)/$(NOTEBOOK).html\n'

test: setup browser ## install, run the whole test suite, notebooks included (choose with ARGS="-k grid")
	$(PY) -m pytest $(ARGS)

# Else JupyterLab asks everybody to rebuild it, for an extension of dash that comes with Open3D and is not needed.
NO_BUILD := "--ServerApp.tornado_settings={'page_config_data': {'buildCheck': False, 'buildAvailable': False}}"
lab: setup ## install, open JupyterLab at the quickstart notebook
	$(PY) -m jupyterlab $(NO_BUILD) $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/$(NOTEBOOK).ipynb

lint: setup ## install, check the style of the code
	$(PY) -m ruff check .

setup: system $(INSTALLED) ## install into .venv, once: again only when pyproject.toml or constraints.txt changed

system:
	@sh tools/apt.sh $$(cat apt.txt) $$($(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv)

# For the tests of the widgets; without it they are skipped.
browser:
	@sh tools/apt.sh $$(cat apt-test.txt)

# A fresh environment each time, so that nothing an older version asked for stays behind.
$(INSTALLED): pyproject.toml constraints.txt | system
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
