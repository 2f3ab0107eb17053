# Everything runs in .venv; `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venvs/oldest
NEWEST ?= .venvs/newest
# The newest Python at hand that the tests are known to pass on; pyenv's too, whose names on the path work one at a time.
NEWEST_PYTHON ?= $(shell for python in python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) python3.12 \
	$(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python) $(PYTHON); do \
	"$$python" -c "" 2> /dev/null && echo "$$python" && break; done)
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test test-all coverage fuzz test-oldest test-newest which-newest lint types docs look dist figures weights clean

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

test: $(VENV)/test-installed
	$(BIN)/python -m pytest -n auto --dist worksteal

# Those that take seconds each too: more graphs, benchmarks, runs and processes of the kinds that `make test` has one of.
ALL = -m "not network"
test-all: $(VENV)/test-installed
	$(BIN)/python -m pytest -n auto --dist worksteal $(ALL)

# All tests, with the branches they take counted, their subprocesses' too; that costs nearly as much again. What reads files and
# weights that strangers made is tested whole; the least of the rest stands in pyproject.toml. ROOMS=few counts in the former
# alone, with the rooms that test it, and runs the rest of `make test` uncounted.
COUNTED = tests/io tests/weights tests/hub tests/attacks tests/test_annotations.py tests/test_leads.py tests/compute/test_notebook.py \
	tests/encoders/test_window_encoder.py tests/convert/test_convert.py tests/cli/test_cli_verbs.py
coverage: export COVERED = $(if $(filter few,$(ROOMS)),skecg.io,skecg)
coverage: export AND_COVERED = $(if $(filter few,$(ROOMS)),skecg.weights,pretraining)
coverage: $(VENV)/test-installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n auto --dist worksteal $(if $(filter few,$(ROOMS)),$(COUNTED),$(ALL))
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --include='skecg/io/*,skecg/weights/*' --fail-under=100
	$(if $(filter few,$(ROOMS)),$(BIN)/python -m pytest -n auto --dist worksteal $(addprefix --ignore=,$(COUNTED)),$(BIN)/coverage report)

# Half a minute of spoilt inputs on all cores; the tests try some seconds of them.
fuzz: $(VENV)/test-installed
	$(BIN)/python tests/attacks/fuzz.py --minutes 0.5 --jobs "$$(nproc)" --out build/fuzz-failures

# The oldest supported releases and, on the newest Python, the newest. What other packages do not decide (fuzzing, laws of
# the tree, pages, benchmarks) is left to `make test`; so is the trainer, for the newest. ROOMS=few takes the rooms that other
# packages decide most: estimators, readers, files, the Hub; not what spends its time in starting processes.
BY_OTHERS = --ignore=tests/attacks --ignore=tests/examples --ignore=tests/test_fuzz.py
FEW = tests/test_embedder.py tests/io tests/linear_model tests/hub tests/weights tests/inference tests/embedding_cache \
	--ignore=tests/embedding_cache/test_cache_processes.py
OF_ROOMS = $(if $(filter few,$(ROOMS)),$(FEW),$(ALL))
test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest -n auto --dist worksteal -p no:cacheprovider $(BY_OTHERS) \
		--ignore=tests/test_architecture.py --ignore=tests/test_docs.py $(OF_ROOMS)

test-newest: $(NEWEST)/installed
	$(NEWEST)/bin/python -m pytest -n auto --dist worksteal -p no:cacheprovider $(BY_OTHERS) --ignore=tests/pretraining $(OF_ROOMS)

which-newest:
	@"$(NEWEST_PYTHON)" -c 'import platform; print(platform.python_version())'

lint: $(VENV)/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test-installed
	$(BIN)/mypy skecg pretraining

docs: $(VENV)/docs-installed
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# Every page in Chromium, wide and on a phone, light and dark: what does not fit, is missing or too faint. Four minutes.
look: docs
	$(BIN)/python docs/look.py

# What is published, into dist/, and its bill of materials (SBOM), into build/.
dist: $(VENV)/dist-installed
	bash .ci/dist

# The numbers of the pages, compared with those kept in packaging/ledger.json and, where packaging/figures.toml has what
# measures them, measured again: `make figures` fails where one differs, WRITE=1 writes them. Minutes; FULL=1 DATA=FOLDER for
# all that is measured again, an hour or two; ONLY=NAME for one, ONLY=hours for what takes a day. It ends with how many numbers
# are measured so, and names the others.
figures: $(VENV)/test-installed
	$(BIN)/python packaging/figures.py $(if $(DATA),--data $(DATA)) $(if $(ONLY),--only $(ONLY)) $(if $(FULL),--full) $(if $(WRITE),--write)

# The weights that come with skecg, from the recordings in DATA: first the transformer, then the convolutions beside it. An
# hour and a half on one CPU core, half of it for the scores of the card. A run that was interrupted goes on.
OUT ?= weights_output
FIRST = skecg-xs-2
NAME = skecg-xs-5
CORPORA = ptbxl=$(DATA)/ptbxl_full_folds1-8_100hz.npz cinc2020-2021=$(DATA)/cinc2020_2021_mix_250hz.npz \
	code15-samitrop=$(DATA)/code15_samitrop_250hz.npz ludb=$(DATA)/ludb_500hz.npz cinc2011=$(DATA)/cinc2011_seta_250hz.npz
LABELLED = --data $(DATA)/ptbxl_full_folds1-8_100hz.npz --data $(DATA)/ptbxl_full_fold9_100hz.npz

weights: export OMP_NUM_THREADS = 1
weights: $(VENV)/test-installed
	$(BIN)/python -m pretraining pack $(addprefix --corpus ,$(CORPORA)) --out $(OUT)/shards --recipe skecg_default
	$(BIN)/python -m pretraining train --recipe skecg_default --data $(OUT)/shards --out $(OUT)/first --resume
	$(BIN)/python -m pretraining export --run $(OUT)/first --out $(OUT)/$(FIRST) --name $(FIRST) --licence CC-BY-4.0 --force
	$(BIN)/python -m pretraining train --recipe skecg_dual --from $(OUT)/$(FIRST) --data $(OUT)/shards --out $(OUT)/run --resume
	$(BIN)/python -m pretraining export --run $(OUT)/run --out $(OUT)/$(NAME) --name $(NAME) --licence CC-BY-4.0 --force
	$(BIN)/python examples/benchmarks/truncation.py --write $(OUT)/$(NAME) $(LABELLED) --fraction 0.1
	$(BIN)/skecg evaluate --model $(OUT)/$(NAME) --task superdiagnostic $(LABELLED) --test-fold 9 --out $(OUT)/evaluation
	$(BIN)/python -m pretraining bundle $(OUT)/$(NAME) --run $(OUT)/run --evaluation $(OUT)/evaluation \
		--notes pretraining/recipes/skecg_dual.md

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) docs/_build docs/gallery docs/api/generated docs/cards demo_output dist build

$(VENV)/created:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "skecg needs Python 3.11 or newer, this is " + sys.version.split()[0] + ". Run: make PYTHON=python3.11 demo")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml constraints.txt
	@echo "Installing skecg into $(VENV) (a few minutes the first time) ..."
	$(PIP) install -c constraints.txt -e ".[plot]"
	touch $@

$(VENV)/test-installed: $(VENV)/installed
	$(PIP) install -c constraints.txt -e ".[test]"
	touch $@

$(OLDEST)/installed: $(VENV)/created pyproject.toml constraints-oldest.txt
	$(BIN)/python -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip --disable-pip-version-check -q install -c constraints-oldest.txt -e ".[test]"
	touch $@

# Delete the folder for releases newer than it holds.
$(NEWEST)/installed: pyproject.toml
	$(NEWEST_PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip --disable-pip-version-check -q install --no-compile --upgrade --upgrade-strategy eager \
		$(NEWEST_PINS) -e ".[test]"
	touch $@

# Like what documentation needs, before both are made side by side: pip changes what Python imports from.
$(VENV)/dist-installed: $(VENV)/created
	$(PIP) install -c constraints.txt "build>=1.2" "twine>=6.1" "cyclonedx-bom>=7.1"
	touch $@

$(VENV)/docs-installed: $(VENV)/test-installed
	$(PIP) install -c constraints.txt -e ".[docs]"
	touch $@
