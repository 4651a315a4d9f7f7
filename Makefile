# `make setup` builds everything in .venv; `make demo` and `make test` need only Python >= 3.11 with venv, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FOLDERS := api cli console core monitors pipelines registry rollouts serving
STAMP := $(VENV)/.installed
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tidegate/bin

.PHONY: help setup demo test test-images ramps stories cluster guarantees road pods quick bench check lint types imports workflows helm charts picture simulate reference docs dist lock clean
.DEFAULT_GOAL := help

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv with everything that is pinned in requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q $(FOLDERS)
	@mkdir -p .types/tidegate && for folder in $(FOLDERS); do ln -sfn ../../$$folder .types/tidegate/$$folder; done
	@touch $@

demo: setup ## the five-minute story on real data
	$(BIN)/tidegate demo

test: setup helm ## every test but the longest, which have targets of their own
	$(BIN)/python -m pytest -n 2 --dist worksteal

ramps: setup ## whole ramps by simulation; a minute
	$(BIN)/python -m pytest -n 2 -m long tests/simulation --ignore tests/simulation/test_drift_guarantees.py

stories: setup ## the tutorial, and the longer stories of people and processes; some minutes
	$(BIN)/python -m pytest -n 2 -m long tests/journeys tests/console tests/pipelines/workflows --ignore tests/journeys/test_whole_road.py

guarantees: setup ## drift verdicts of every column shape at every size; many minutes
	$(BIN)/python -m pytest -n 2 -m long tests/simulation/test_drift_guarantees.py

road: setup ## the README's four lines on real data with default policy; minutes, and an hour on a busy machine
	$(BIN)/python -m pytest -m long tests/journeys/test_whole_road.py

cluster: setup ## the whole story on the cluster of TIDEGATE_TEST_KUBECONFIG; a quarter of an hour, else skipped (docs/cluster-rig.md)
	$(BIN)/python -m pytest -m long tests/cluster

test-images: setup ## build, verify and run a real image; needs root, buildah, podman, runc, debootstrap, else skipped
	$(BIN)/python -m pytest -m long tests/serving/image

pods: setup ## the containers of our Workflows, in order, as processes of this machine; minutes
	$(BIN)/python -m pytest -m long tests/pipelines/workflows

quick: setup ## the tests that take seconds
	$(BIN)/python -m pytest -n 2 -m "not slow and not long"

bench: setup ## the promised ratios; a quarter of an hour on a machine that does nothing else
	@failed=0; for name in startup noop gateway serving capture judge judge_http ship labels upkeep drift; do $(BIN)/python bench/$$name.py || failed=1; done; exit $$failed

check: lint types imports workflows ## ruff, mypy --strict, import-linter, and what workflows are checked by

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	MYPYPATH=.types $(BIN)/mypy -p tidegate

imports: setup
	$(BIN)/lint-imports

workflows: setup ## zizmor and schemas of what runs on GitHub; YAML, spelling, secrets
	$(BIN)/zizmor --offline --quiet .
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-actions action.yml .github/actions/*/action.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/yamllint --strict $(shell git ls-files '*.yml' '*.yaml' .yamllint.yaml)
	$(BIN)/typos
# Tests are full of made-up secrets (tests/test_hygiene.py looks for real ones), the lock of hashes, values of names.
	git ls-files -z -- ':!tests' ':!requirements.lock' ':!charts/*/values.*' | xargs -0 $(BIN)/detect-secrets-hook

helm: ## get helm for the tests of the charts, with the Go toolchain; minutes, once
	@command -v helm >/dev/null || test -x $(CACHE)/helm || ! command -v go >/dev/null || GOBIN=$(CACHE) nice go install helm.sh/helm/v4/cmd/helm@v4.2.4 \
	|| echo "helm could not be had: tests that need it are skipped"

charts: setup helm ## write values.yaml and values.schema.json of the charts, and the manifests that tests compare with
	$(BIN)/python -m tidegate.pipelines.manifests.chart_files charts
	$(BIN)/python tests/golden.py

picture: setup ## draw the README's picture from a real run of the demo
	$(BIN)/python docs/make_picture.py

simulate: setup ## play the scenarios of `tidegate rollout simulate` and write docs/judge.md's tables; some minutes
	$(BIN)/python docs/make_simulation_table.py

reference: setup ## write docs/reference from the code
	$(BIN)/python docs/make_reference.py

# A place of its own: what draws a site is nothing that tidegate needs.
docs: setup ## the documents as a site in build/site
	@test -x build/docs/bin/python || $(PYTHON) -m venv build/docs
	VIRTUAL_ENV=build/docs $(BIN)/uv pip sync --quiet --require-hashes docs/requirements.lock
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build

dist: setup ## the wheel, the source and what they stand on (CycloneDX, in build/)
	rm -rf dist
	mkdir -p build
	$(BIN)/uv build --quiet --build-constraints requirements.lock --require-hashes --out-dir dist
	$(BIN)/cyclonedx-py requirements requirements.lock --output-file build/tidegate.cdx.json

lock: setup ## pin the newest versions that fit pyproject.toml and are a week old: a bad one is mostly found within days
	$(BIN)/uv pip compile --exclude-newer "7 days" --universal --python-version 3.11 --no-header --generate-hashes --upgrade --all-extras --group dev --quiet pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --exclude-newer "7 days" --universal --python-version 3.11 --no-header --generate-hashes --upgrade --quiet --group docs --output-file docs/requirements.lock

clean: ## remove what setup made
	rm -rf $(VENV) .types
