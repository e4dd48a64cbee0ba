# `make run` and `make test` work on a machine with Python 3.11+ and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run setup bench-setup setup-system setup-real test test-long test-release lint clean
.DEFAULT_GOAL := run

run: setup  ## seeds to chat, on a local web made of the documentation installed on this machine
	@$(BIN)/tinylm demo

setup: $(STAMP)  ## .venv with the pinned versions; takes no time when nothing changed

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[crawl,karma,reddit,wiki,scale,train,serve,dev]'
	@touch $@

# Peers whose packages break others' get an environment of their own, .venv-NAME, and run there: LitData and
# MosaicML bring a torchvision, which has to be of torch's own build (CPU or CUDA), or transformers does not load;
# datatrove pins an older trafilatura, and is run with ours beside that.
LONE_PEERS := .venv-warc .venv-warc-ours
PEERS := .venv-loaders $(LONE_PEERS)
PEER_PIP = test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D); $(@D)/bin/python -m pip install --quiet

bench-setup: setup $(PEERS:%=%/.installed)  ## the peers that benches run beside us
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'

.venv-loaders/.installed: pyproject.toml constraints.txt
	@$(PEER_PIP) --constraint constraints.txt --editable '.[train,bench-loaders]'
	@touch $@

# Nothing of ours runs in these, and nothing is held to our versions.
$(LONE_PEERS:%=%/.installed): pyproject.toml
	@$(PEER_PIP) $$($(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb')) \
		['project']['optional-dependencies']['$(@D:.venv-%=bench-%)'])")
	@touch $@

setup-system:  ## Debian's packages that some tests and benches use
	apt-get update -q
	apt-get install -y -q --no-install-recommends redis-server chromium nginx-light libmagic1

setup-real: setup  ## wheels that only tests want, with real data: `make test` skips what they are for without
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test-real]'

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Much of a test's time is waiting, so that three at once are quicker on two cores; a file stays in one process,
# with a server of its own.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile

test: setup
	$(PYTEST) -m "not long and not release" $(ARGS)

# In this order, since the longest are in deploy and trainer: what begins last should be short.
test-long: setup  ## kills and whole runs
	$(PYTEST) -m long --no-loadscope-reorder tests/deploy tests/trainer tests/ranker tests/crawler tests/shards $(ARGS)

test-release: setup  ## what takes minutes a case: before a release
	$(BIN)/python -m pytest -m release $(ARGS)
	$(BIN)/python -m bench.kills

clean:  ## removes the environment and what the demo made, nothing else
	rm -rf $(VENV) $(PEERS) runs/demo
