# The book's commands. `make help` lists them; `make book` and `make test` are the two that matter.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
READY := $(VENV)/.ready
PORT ?= 8000
export TQDM_DISABLE ?= 1

.PHONY: help env book serve test execute lint lock clean record bench bench-peers bench-scale new-lecture twins badges

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(READY)  ## make the environment .venv from requirements.lock (the others call it)

$(READY): requirements.lock pyproject.toml
	@command -v python3.11 > /dev/null || { \
	  echo "Python 3.11 is needed for the locked environment, and there is no python3.11 on PATH."; \
	  echo "Debian 12, Ubuntu: apt install python3.11 python3.11-venv; macOS: brew install python@3.11;"; \
	  echo "any system: pyenv install 3.11, or uv python install 3.11, then put it on PATH."; exit 1; }
	test -x $(BIN)/python || python3.11 -m venv $(VENV)
	$(BIN)/pip install -q "$$(grep '^torch==' requirements.lock)" $(TORCH_INDEX:%=--index-url %)
	$(BIN)/pip install -q -r requirements.lock
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@

book: env  ## build the site from the stored outputs, from scratch
	rm -rf _build
	$(BIN)/jupyter-book build . -W -n --keep-going -q
	@$(BIN)/python -m tools.repository
	@echo "The book is at file://$(CURDIR)/_build/html/index.html (make serve: http://127.0.0.1:$(PORT))"

twins: book  ## write the tree of the branch launch, which Colab and Binder open, to _build/launch
	$(BIN)/python -m tools.twins

badges: env  ## write the badges of REPOSITORY, or of the GitHub remote, into README.md
	$(BIN)/python -m tools.repository badges

serve: env  ## serve the built site on this machine (PORT=8000)
	@test -f _build/html/index.html || $(MAKE) book
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

test: env  ## all that CI checks, or one part: PART=lint|unit|nbval|portable|book|browser|assignments
	$(BIN)/python -m tools.check $(PART)

execute: env  ## run lectures and store their outputs: LECTURE=3_what_sgd_does, a path, or all
	$(BIN)/python -m tools.execute $(LECTURE)

record: env  ## run a lecture at full size and keep its results: LECTURE= PROFILE=cpu|gpu DATASET= SET= NAME=
	$(BIN)/python -m tools.record "$$LECTURE" --profile "$$PROFILE" --dataset "$$DATASET" --set "$$SET" \
	  --name "$(if $(findstring command,$(origin NAME)),$(NAME))" --commit "$$COMMIT" $(if $(ALLOW_DIRTY),--allow-dirty) $(if $(KEEP),--keep)

bench: env  ## measure speed and memory: ROWS=training|kernels|optimizer|lectures, QUICK=1 only shows that it runs
	$(BIN)/python -m benchmarks $(ROWS) $(if $(QUICK),--quick)

bench-peers:  ## make .venv-peers, the environment of the libraries that bench compares with (JAX=0.4.30)
	test -x $(PEERS)/bin/python || python3.11 -m venv $(PEERS)
	$(PEERS)/bin/pip install -q --no-deps -r benchmarks/peers/requirements.txt
	$(PEERS)/bin/pip install -q --no-deps --upgrade --target $(PEERS)/torch -r benchmarks/peers/requirements-torch.txt
	$(if $(JAX),$(PEERS)/bin/pip install -q --no-deps jax==$(JAX) jaxlib==$(JAX))

bench-scale: env  ## the number of Arora et al. for all of MNIST, resumable: ARGS="--n 8000 --out FOLDER"
	$(BIN)/python -m benchmarks.scale $(ARGS)

new-lecture: env  ## lay out a lecture: NAME=chapters/3_training_speed/1_x TITLE="..."
	$(BIN)/python -m tools.new_lecture "$$NAME" "$$TITLE"

lint: env  ## ruff
	$(BIN)/python -m tools.check lint

lock: pyproject.toml  ## write requirements.lock anew, with the newest versions that pyproject.toml allows
	rm -rf _build/lock && python3.11 -m venv _build/lock
	_build/lock/bin/pip install -q "$$(grep '^torch==' requirements.lock)"
	_build/lock/bin/pip install -q ".[test,book,browser,cluster,dev]"
	{ sed '/^#/!d' requirements.lock; _build/lock/bin/pip freeze --exclude overparam-lib | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; } > _build/lock.txt
	mv _build/lock.txt requirements.lock && rm -rf _build/lock
	$(MAKE) env && $(BIN)/python -m tools.binder

clean:  ## remove what was built, not the environment
	rm -rf _build .pytest_cache .ruff_cache
