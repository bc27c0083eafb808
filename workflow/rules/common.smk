# What all rules share: the checked configuration, the files of its grid, and what decides reruns.
import json
import os
import re
import sys

# The library beside these rules, whichever copy is installed; the jobs' too. The Snakefile imports
# only its light modules: no torch, numpy or pandas.
sys.path.insert(0, os.path.abspath(f"{workflow.current_basedir}/../.."))
if not os.path.isdir(f"{sys.path[0]}/rocm_core"):
    sys.exit(f"error: {workflow.current_basedir} is not a folder: name the Snakefile of a clone")

from rocm_core.commands.verify import require_fresh
from rocm_core.errors import told
from rocm_core.grid import Artefacts, given_config, job_code, needed, render_code
from rocm_core.grid import shown, shown_sections, snapshot_prompts, train_version
from rocm_core.jobs import job_environment, require_account, require_workplace
from rocm_core.provenance import Accepted, code_fingerprint, here, located, record_beside
from rocm_core.provenance import record_origin, require_same_origin
from rocm_core.weights import digest_of_all, inputs_of, table, to_fetch, weights_digest

os.environ.update(job_environment(tell=workflow.is_main_process))
CONFIG_FILES = [os.path.relpath(path) for path in workflow.configfiles]
with told():
    workflow.is_main_process and require_workplace()
    CONFIG = given_config(
        config,
        CONFIG_FILES,
        # What follows --config is for the workflow that this may be a module of.
        workflow.modifier.is_main_snakefile() and workflow.config_settings.config_args or (),
    )
    FILES = Artefacts(CONFIG)
    SECTIONS = shown_sections(CONFIG, "report", "report")
    require_same_origin(FILES.layout, CONFIG_FILES, SECTIONS)
    ACCEPTED = Accepted(FILES.layout)
    FILES.check_code()
    workflow.is_main_process and require_fresh(FILES)

# Where jobs write, not shards; and of every cell, {cell}: rules fill wildcards in.
LAYOUT, CELLS = FILES.layout.live, FILES.cells
CELL, SNAPSHOTS = LAYOUT.cell("{cell}"), LAYOUT.snapshots("{cell}")
ENVIRONMENT, WEIGHTS = "../../envs/rocm.yaml", needed(CONFIG)
THREADS, GPUS = CONFIG.resources.threads, min(1, CONFIG.resources.gpus)
MEMORY_MB, RUNTIME = int(CONFIG.resources.memory_gib * 1024), CONFIG.resources.runtime_minutes
# By the environment: where a file came from is no reason to fetch it again.
os.environ.update({f"WEIGHTS_{k.upper()}": v for k, v in CONFIG.weights.to_dict().items() if v})
samples, trained, shown_prompts = FILES.samples, FILES.trained, FILES.prompts
finished, main_scores, snapshot_scores = FILES.finished, FILES.main_scores, FILES.snapshot_scores

if CONFIG.partial and not (main_scores() or trained("history.csv") or FILES.unfinished_histories()):
    sys.exit(f"error: {LAYOUT.root} holds no training yet: run without partial=true first")


onstart:
    with told():
        record_origin(LAYOUT, CONFIG_FILES, SECTIONS)
        if workflow.executor_plugin and workflow.executor_plugin.name == "slurm":
            given = workflow.resource_settings.default_resources or {}
            require_account("slurm_account" in given)


wildcard_constraints:
    cell=r"[^/]+/[^/]+/seed-\d+",
    reward=r"[^/]+",
    method=r"[^/]+",
    source=r"base-[^/]+|[^/]+/[^/]+/seed-\d+",
    set="|".join(map(re.escape, CONFIG.prompts)),
    steps=r"\d+(--lora-[^/]+)?",


def cell_of(name):
    """The cell or the base's policy called `name`, or a sentence that ends the run."""
    with told():
        return FILES.source(name)


def generation_of(source, steps=None):
    """GenerationSettings of a cell's or a base's images."""
    cell_of(source)
    return FILES.generation(source, steps)


def to_json(value):
    """JSON that is the same whenever the value is: what a rule shows Snakemake in `params`. Being
    as long as it may be, it goes to a script in a file: `printf` is bash's own, Snakemake runs a
    long shell command from a file, and `script.py @file` reads it, also by hand."""
    value = value if isinstance(value, dict | list) else value.to_dict()
    return json.dumps(value, sort_keys=True)


def option(name):
    """For `params`: --name and the input of that name, or nothing where there is none."""
    return lambda w, input: f"--{name} {input[name]}" if input.get(name) else ""


def shown_config(*, study=False):
    """The configuration that a rendering depends on, in the order of the file, which is that of
    the methods. A function, because `params` would take a template's braces for wildcards."""
    text = json.dumps(shown(CONFIG, study=study))
    return lambda w: text
