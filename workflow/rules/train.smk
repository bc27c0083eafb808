# One training job a cell, of one process a GPU. `exec` hands the job's signals to the trainer. Its
# state, in a folder for each version of the job, outlives it until this Snakemake run has ended, so
# that a job that was started twice, or whose end nobody saw, finds what is done.
from pathlib import Path

from rocm_core.jobs import remove_finished

PROCESSES = max(1, CONFIG.resources.gpus)  # each sees batches of its own, so they count as params


rule train_cell:
    input:
        prompts=lambda w: f"{RESULTS}/prompts/{cell_of(w.cell).settings.prompts}.jsonl",
        weights=ancient(lambda w: fetched(*cell_of(w.cell).settings.weights)),
    output:
        lora=f"{RESULTS}/cells/{{cell}}/lora.safetensors",
        history=f"{RESULTS}/cells/{{cell}}/history.csv",
        manifest=f"{RESULTS}/cells/{{cell}}/manifest.json",
        snapshots=directory(f"{RESULTS}/cells/{{cell}}/snapshots"),
    log:
        f"{LOGS}/train/{{cell}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{cell}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=CONFIG.resources.gpus,
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        settings=lambda w: to_json(cell_of(w.cell).settings),
        code=lambda w: fingerprints.train_code(cell_of(w.cell).settings),
        weights=lambda w: weights_of(*cell_of(w.cell).settings.weights),
        state=lambda w: f"{RESULTS}/.state/{w.cell}/"
        + fingerprints.train_version(
            cell_of(w.cell).settings, weights_of(*cell_of(w.cell).settings.weights), PROCESSES
        ),
        processes=f"--processes {PROCESSES}" if PROCESSES > 1 else "",
        folder=subpath(output.lora, parent=True),
    message:
        "Training {wildcards.cell}"
    shell:
        "exec python -m rocm_core.commands.launch --gpus {resources.gpu} {params.processes}"
        " workflow/scripts/train.py --settings {params.settings:q}"
        " --prompts {input.prompts} --output {params.folder} --state {params.state} --keep-state"
        " --fingerprint {params.code} > {log} 2>&1"


onsuccess:
    remove_finished(Path(RESULTS, ".state"), Path(RESULTS, "cells"))


onerror:
    remove_finished(Path(RESULTS, ".state"), Path(RESULTS, "cells"))
