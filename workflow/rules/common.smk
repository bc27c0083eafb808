# What all rules share: the checked configuration, the grid, and the params that decide reruns.
import functools
import json
import os
import re
import sys

# This checkout's library, whichever copy is installed; the jobs' too. The Snakefile imports only
# its light modules: no torch, numpy or pandas.
sys.path.insert(0, workflow.basedir)

from rocm_core import grid
from rocm_core.grid import code as fingerprints
from rocm_core.grid import needed, parse_config
from rocm_core.configuration import read_yaml
from rocm_core.errors import UserError
from rocm_core.figures import figures
from rocm_core.prompts import prompt_files
from rocm_core.provenance import code_fingerprint
from rocm_core.provenance import digest_of
from rocm_core.tables import tables
from rocm_core.weights import files_of, table, to_fetch, weights_digest

os.environ.update(
    PATH=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),
    PYTHONPATH=workflow.basedir,
    OMP_WAIT_POLICY="passive",  # waiting OpenMP threads sleep: jobs share the cores
    HF_HUB_OFFLINE="1",
)

try:
    for _path in map(os.path.relpath, workflow.configfiles):
        read_yaml(_path)  # what Snakemake's own reader lets pass: a key given twice
    CONFIG = parse_config(config)
    CELLS = {cell.name: cell for cell in grid.make_grid(CONFIG)}
except UserError as error:
    _files = ", ".join(os.path.relpath(path) for path in workflow.configfiles)
    sys.exit(f"error: {error}" if _files in str(error) else f"error: {_files}: {error}")

RESULTS = CONFIG.root.as_posix()
LOGS, BENCHMARKS = f"{RESULTS}/logs", f"{RESULTS}/benchmarks"
BASES = {f"base-{policy}": policy for policy in [c.settings.policy for c in CELLS.values()]}
ENVIRONMENT = "../../envs/rocm.yaml"
THREADS, GPUS = CONFIG.resources.threads, min(1, CONFIG.resources.gpus)
TRAINED_ON = grid.training_sets(CELLS.values())
JUDGED_ON = grid.evaluation_sets(CONFIG, CELLS.values())
MEMORY_MB, RUNTIME = int(CONFIG.resources.memory_gib * 1024), CONFIG.resources.runtime_minutes
WEIGHTS = needed(CONFIG)
# By the environment: where a file came from is no reason to fetch it again.
os.environ.update({f"WEIGHTS_{k.upper()}": v for k, v in CONFIG.weights.to_dict().items() if v})


wildcard_constraints:
    cell=r"[^/]+/[^/]+/seed-\d+",
    source=r"base-[^/]+|[^/]+/[^/]+/seed-\d+",
    set="|".join(map(re.escape, CONFIG.prompts)),
    steps=r"\d+",


def cell_of(name):
    """The cell called `name`, or a sentence that ends the run."""
    if name not in CELLS:
        sys.exit(f"error: {name} is no cell of {RESULTS}: `make cells` lists them")
    return CELLS[name]


def to_json(value):
    """JSON that is the same whenever the value is: what a rule shows Snakemake in `params`."""
    value = value if isinstance(value, dict) else value.to_dict()
    return json.dumps(value, sort_keys=True)


@functools.cache
def weights_of(*paths):
    """One digest of what the folders hold: a `touch` does not change it, nor does fetching them."""
    return digest_of({path: weights_digest(path) for path in paths if path})


@functools.cache
def fetched(*paths):
    """The files of these folders that are to be fetched before they are used."""
    return [file for path in paths if path for file in files_of(path)]


def prompt_source(name):
    """The files that a prompt set is read from; none for an embedded world's captions."""
    return [p for p in prompt_files(CONFIG.prompts[name]) if os.path.isfile(p) or files_of(p)]


def origin_of(source):
    """The cell, or the name of the policy, that made a source's images."""
    return BASES.get(source) or cell_of(source)


@functools.cache
def generation_of(source, steps=None):
    """GenerationSettings of a cell's or a base's images."""
    return grid.generation_settings(CONFIG, origin_of(source), steps and int(steps))


def samples(file, sets=None, every_step=True):
    """A file beside the images of every source: of these prompt sets (None: of all), at every
    number of inference steps or at the first."""
    found = []
    for source in [*BASES, *CELLS]:
        folders = grid.sample_sets(CONFIG, JUDGED_ON, origin_of(source))
        found += [
            f"{RESULTS}/samples/{source}/{name}/steps-{steps}/{file}"
            for name, steps in folders
            if (sets is None or name in sets) and (every_step or steps == folders[0][1])
        ]
    return finished(found)


def finished(paths):
    """`paths`; with partial=true those that exist."""
    return [path for path in paths if not CONFIG.partial or os.path.exists(path)]


def trained(file="lora.safetensors"):
    return finished(f"{RESULTS}/cells/{name}/{file}" for name in CELLS)


def main_scores(*files):
    """The scores that fill the tables, of validation prompts at the first number of steps; the
    published packages' too where the configuration asks for them."""
    files = files or ["scores.csv", *(["judged.csv"] if CONFIG.judges else [])]
    return [p for file in files for p in samples(file, ["validation"], every_step=False)]


def monitored():
    judged = [n for n, c in CELLS.items() if CONFIG.monitor.prompts and c.settings.snapshot_every]
    return finished(f"{RESULTS}/samples/{name}/snapshots/scores.csv" for name in judged)


if CONFIG.partial and not main_scores():
    sys.exit(f"error: {RESULTS} holds no scores yet: run without partial=true first")


def shown_prompts(sets=("validation",)):
    return finished(f"{RESULTS}/prompts/{name}.jsonl" for name in sets)


def final_images():
    return samples("index.jsonl", ["validation"], every_step=False)


def shown(*, study=False):
    """The configuration that a rendering depends on, in the order of the file, which is that of
    the methods. A function, because `params` would take a template's braces for wildcards."""
    hidden = {"resources", "weights"} | (set() if study else {"study"})
    text = json.dumps({k: v for k, v in CONFIG.to_dict().items() if k not in hidden})
    return lambda w: text
