# One command each: make run, make test, make bench, make check. All of them set up what they need.
#
#   make run                         serve on 127.0.0.1:8787: to UPSTREAM, or OpenAI if OPENAI_API_KEY is set, or the simulator
#   make run UPSTREAM=http://…/v1    serve another OpenAI-compatible API
#   make run ARGS="--workers 2"      pass options to `weir serve`
#   make test ARGS="tests/cli -x"    pass arguments to pytest
#   make PYTHON=python3.13 …         build .venv with another interpreter (3.11 or newer)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=

ifdef UPSTREAM
export UPSTREAM
endif

.PHONY: help run test bench bench-faults soak bench-batch fuzz guard check format lock system helm rendered docs clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

run: $(VENV)/.serves
	@exec $(BIN)/weir serve $(ARGS)

test: $(VENV)/.installed system
	$(BIN)/python tests/real/environments.py
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.installed system
	$(BIN)/python -m bench $(ARGS)

bench-batch: $(VENV)/.installed
	$(BIN)/python -m bench.batch $(ARGS)

bench-faults: $(VENV)/.installed system
	$(BIN)/python -m bench.suites faults $(ARGS)

soak: $(VENV)/.installed
	$(BIN)/python -m bench.soak $(ARGS)

bench-money: $(VENV)/.installed system
	$(BIN)/python -m bench.money $(ARGS)

bench-cache: $(VENV)/.installed system
	$(BIN)/python -m bench.suites cache $(ARGS)

bench-cascade: $(VENV)/.installed
	$(BIN)/python -m bench.suites cascade $(ARGS)

# For FUZZ_S seconds in all, guided by coverage where atheris can be had.
FUZZ_S ?= 120

fuzz: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary atheris --editable '.[fuzz]' 2>/dev/null || \
		echo "skipped: no atheris for this Python: inputs are mutated without coverage"
	$(BIN)/python -m tests.security.fuzz --seconds $(FUZZ_S) $(ARGS)

guard: $(VENV)/.installed system
	$(BIN)/python -m bench.guard $(ARGS)

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml proxy policies
	$(BIN)/python .ci/audit

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The locks name versions and hashes, never a host: any mirror serves them.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock"

lock: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet uv
	$(LOCK) --extra semantic --extra cascade --extra otel --extra oidc --extra pdf pyproject.toml --output-file requirements.lock
	echo 'hatchling>=1.25' | $(LOCK) - --output-file requirements-build.lock

# nginx (the reference), wrk, valgrind, Redis, PostgreSQL, Prometheus, compose and an attacker, where this machine lets us; what lacks them says
# so and is skipped.
system:
	@.ci/system nginx:nginx-light wrk:wrk valgrind:valgrind redis-server:redis-server pg_ctlcluster:postgresql \
		slowhttptest:slowhttptest promtool:prometheus docker-compose:docker-compose

# The real helm, for the tests of the chart; without it they judge what is kept in tests/deploy/rendered. Some minutes, once.
HELM = $(shell command -v helm || echo $$(go env GOPATH)/bin/helm)

helm:
	@command -v go >/dev/null || { echo "skipped: no go, which builds helm"; exit 0; }; \
		test -x "$(HELM)" || GOFLAGS=-modcacherw go install helm.sh/helm/v3/cmd/helm@v3.22.0

rendered: helm
	$(HELM) template weir deploy/helm/weir --kube-version 1.31.0 > tests/deploy/rendered/single.yaml
	$(HELM) template weir deploy/helm/weir --kube-version 1.31.0 --values tests/deploy/fleet-values.yaml \
		> tests/deploy/rendered/fleet.yaml

# docs/ as a site, in site/; a link that leads nowhere fails.
docs: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/mkdocs build --strict --quiet --site-dir site

# Serving needs a third of what the tests need.
$(VENV)/.serves: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "weir needs Python 3.11 or newer; \`$(PYTHON)\` is $$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo missing)." \
			"Name another one: make PYTHON=python3.13 …" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "cannot make a virtual environment with \`$(PYTHON)\` (on Debian and Ubuntu: apt-get install python3-venv)" >&2; \
		exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed: $(VENV)/.serves
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
