# make help         this list, which a bare `make` prints too
# make demo         a fresh machine to a finished report, of the grid CONFIG=config/demo.yaml
# make test         the tests that take seconds, WORKERS=2 side by side (tests/README.md)
# make test-unit    the library's tests alone, in under four minutes
# make test-faults  kills, lost nodes, and other tests that take minutes; on a real Slurm if installed
# make lint         style and types
# make cells        list the cells of the grid
# make plan         jobs, GPU hours, disk, and the claims that the grid can decide, before it is run;
#                   PLAN=--claims adds each claim's power, or what is missing for it;
#                   PLAN="--seeds 5 10" that of other numbers of seeds
# make watch        how far a run is: what runs, what is left, hours so far and to come
# make card         a model card of every finished LoRA
# make publish      a folder per finished LoRA with its card, ready for `hf upload`
# make crate        a Workflow Run RO-Crate of what is finished
# make docs         the pages of docs/ as a site, every link checked
# make shards       keep what is finished as small files for git (docs/reruns.md, "A study over several days")
# make verify       check every artefact against the configuration
# make accept       keep finished results over an update that changes code but no number;
#                   ACCEPT=--dry-run lists them first (docs/reruns.md, "Keeping results over an update")
# make preflight    can this machine run config/paper.yaml?
# make gate         what does the finished config/pilot.yaml say about starting the grid?
# make judges       the environment of the published scorers
# make cancel       cancel the Slurm jobs that were started from this folder
# make bench        time a training step beside other trainers, on the CPU
# make bench-gpu    the same at the size of Stable Diffusion 1.5, on a GPU
# make locks        pin the packages of envs/*.in again, with hashes; LOCKS=--upgrade: in newer versions
# make audit        known vulnerabilities of the pinned packages; one that can't be looked up counts
# make clean        remove environments and caches; results stay
PYTHON ?= python3
CONFIG ?= config/demo.yaml
CORES ?= all
SIZE ?= full
DEVICE ?= cuda
REPEATS ?= 9
# How many test files run side by side; 0: one after the other, in one process.
WORKERS ?= 2
VENV := .venv
TORCH := envs/torch.txt envs/torch-cpu.txt envs/cuda.txt envs/install.sh
BIN := $(VENV)/bin
PYTEST = python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo test test-unit test-faults lint cells plan watch card publish crate docs verify \
  shards accept preflight gate judges cancel bench bench-gpu locks audit clean

help:
	@sed -n 's/^# //p; /^PYTHON/q' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/main
	@python -m rocm_core.commands.configuration --configfile "$(CONFIG)"
	snakemake all --cores $(CORES) --quiet host reason --configfile "$(CONFIG)"
	@echo
	@python -m rocm_core.commands.configuration --results "$(CONFIG)"

test: $(VENV)/dev
	$(PYTEST)

test-unit: $(VENV)/dev
	$(PYTEST) tests/unit

# One worker more than there are cores: what runs on Slurm mostly waits.
test-faults: $(VENV)/dev
	$(PYTEST) -n $$(($(WORKERS) + 1)) -m faults

lint: $(VENV)/dev
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint
	hadolint Dockerfile
	mypy

cells: $(VENV)/main
	@python -m rocm_core.commands.cells --configfile "$(CONFIG)"

plan: $(VENV)/main
	@python -m rocm_core.commands.plan --configfile "$(CONFIG)" $(PLAN)

watch: $(VENV)/main
	@python -m rocm_core.commands.watch --configfile "$(CONFIG)"

card publish: $(VENV)/main
	@python -m rocm_core.commands.publish --configfile "$(CONFIG)" $(if $(CELLS),--cells $(CELLS)) \
	  $(if $(filter card,$@),--cards)

crate: $(VENV)/crate
	crate=$$(python -m rocm_core.commands.crate --configfile "$(CONFIG)") && \
	  .venv-validator/bin/rocrate-validator --no-interactive validate --no-paging \
	  --profile-identifier workflow-run-crate --cache-path .venv-validator/contexts "$$crate"

# Without --quiet, which also hides broken links from the strict mode. A report links to tables as
# they are, beside the pages that are made of them.
docs: .venv-docs/done
	rm -rf .site && mkdir -p .site/source
	git ls-files -z --cached --others --exclude-standard '*.md' '*.yaml' config LICENSE CITATION.cff \
	  ':(glob)docs/*' docs/images ':(glob)docs/results/*/*' ':(glob)docs/results/*/tables/*' \
	  ':(glob)docs/results/*/figures/*' ':!*.manifest.json' 'resources/shapes/*.png' \
	  | xargs -0 cp --parents -t .site/source
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build
	cd .site/source && cp --parents docs/results/*/tables/*.md ../html

verify: $(VENV)/main
	@python -m rocm_core.commands.verify --configfile "$(CONFIG)"

shards: $(VENV)/main
	@python -m rocm_core.commands.shards --configfile "$(CONFIG)"

accept: $(VENV)/main
	@python -m rocm_core.commands.accept --configfile "$(CONFIG)" $(ACCEPT)

# Slurm tells each training run to save its state and exit.
cancel:
	@squeue --me --noheader --format='%i %Z' \
	  | awk -v here="$(CURDIR)" '{job = $$1; sub(/^[^ ]+ /, "")} $$0 == here {print job}' \
	  | xargs --no-run-if-empty scancel --verbose

preflight: $(VENV)/main
	@python -m rocm_core.commands.preflight --configfile "$(if $(filter file,$(origin CONFIG)),config/paper.yaml,$(CONFIG))"

gate: $(VENV)/main
	@python -m rocm_core.commands.gate --configfile "$(if $(filter file,$(origin CONFIG)),config/pilot.yaml,$(CONFIG))"

judges: .venv-judges/done

# Runs one process at a time, with one thread each, and prints the ratios last.
bench: $(VENV)/main .venv-trl/done
	python -m benchmarks.compare --repeats $(REPEATS)
	python -m benchmarks.stages
	python -m benchmarks.report

bench-gpu: $(VENV)/main .venv-trl/done
	python -m benchmarks.compare --size $(SIZE) --device $(DEVICE) --repeats $(REPEATS)
	python -m benchmarks.compare --size $(SIZE) --device $(DEVICE) --repeats $(REPEATS) --batch 8
	python -m benchmarks.compare --size $(SIZE) --device $(DEVICE) --repeats $(REPEATS) --compile --only plain-loop
	python -m benchmarks.report

locks: $(VENV)/dev
	python envs/lock.py $(LOCKS)

audit: .venv-audit/done
	status=0; for file in $(filter-out envs/torch-cpu.txt,$(wildcard envs/*.txt)); do \
	  .venv-audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement $$file || status=1; \
	done; exit $$status

# Results stay, because they may have cost hours.
clean:
	rm -rf $(VENV) .venv-judges .venv-audit .venv-trl .venv-docs .venv-validator .site .benchmark-models .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/main: envs/requirements.txt $(TORCH)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	bash envs/install.sh $(BIN)/python envs/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev: envs/requirements-dev.txt $(VENV)/main
	bash envs/install.sh $(BIN)/python envs/requirements-dev.txt
	@touch $@

.venv-judges/done: envs/judges.txt $(TORCH) envs/judges.post-deploy.sh
	$(PYTHON) -m venv .venv-judges
	bash envs/install.sh .venv-judges/bin/python envs/judges.txt
	PATH="$(CURDIR)/.venv-judges/bin:$$PATH" bash envs/judges.post-deploy.sh
	@touch $@

.venv-audit/done: envs/audit.txt
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --require-hashes --no-deps -r envs/audit.txt
	@touch $@

$(VENV)/crate: envs/crate.txt $(VENV)/main .venv-validator/done
	bash envs/install.sh $(BIN)/python envs/crate.txt
	@touch $@

.venv-docs/done .venv-validator/done: .venv-%/done: envs/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --require-hashes --no-deps -r $<
	@touch $@

.venv-trl/done: envs/trl.txt $(TORCH)
	$(PYTHON) -m venv .venv-trl
	bash envs/install.sh .venv-trl/bin/python envs/trl.txt
	@touch $@
