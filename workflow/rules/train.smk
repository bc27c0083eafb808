# One training job per cell, with one process per GPU. `exec` hands the job's signals to the trainer. Its
# state, in a folder for each version of the job, outlives it until this Snakemake run has ended, so
# that a job that was started twice, or whose end nobody saw, finds what is done.
from rocm_core.jobs import remove_finished

PROCESSES = max(1, CONFIG.resources.gpus)  # each sees batches of its own, so they count as params


rule train_cell:
    input:
        prompts=lambda w: LAYOUT.prompts(cell_of(w.cell).settings.prompts),
        weights=ancient(lambda w: inputs_of(*cell_of(w.cell).settings.weights)),
        choice=lambda w: FILES.choice(cell_of(w.cell).name),
    output:
        lora=CELL.lora,
        history=CELL.history,
        manifest=CELL.manifest,
        snapshots=directory(CELL.snapshots),
    log:
        LAYOUT.log("train", "{cell}"),
    benchmark:
        LAYOUT.benchmark("train", "{cell}")
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **CONFIG.resources.request(CONFIG.resources.gpus),
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        gpus=lambda w, output: CONFIG.resources.gpus,
        settings=lambda w: to_json(cell_of(w.cell).settings),
        code=lambda w: ACCEPTED.code(
            LAYOUT.cell(w.cell).manifest, job_code("train", cell_of(w.cell).settings)
        ),
        now=lambda w, output: job_code("train", cell_of(w.cell).settings),
        weights=lambda w: digest_of_all(*cell_of(w.cell).settings.weights),
        state=lambda w, output: LAYOUT.state(
            w.cell,
            train_version(
                cell_of(w.cell).settings,
                digest_of_all(*cell_of(w.cell).settings.weights),
                PROCESSES,
            ),
        ),
        processes=f"--processes {PROCESSES}" if PROCESSES > 1 else "",
        choice=lambda w, input: f"--choice {input.choice}" if input.get("choice") else "",
        folder=subpath(output.lora, parent=True),
        # Compared no more than `now`: what is shown of a training is no reason to run it again.
        progress=lambda w, output: to_json(CONFIG.progress),
        project=lambda w, output: CONFIG.name,
        run=lambda w, output: LAYOUT.run(w.cell).folder,
        # One process inherits Snakemake's stderr as its third file; torch's launcher would close it.
        terminal=lambda w, output: "--terminal 3" if PROCESSES == 1 else "",
    message:
        "Training {wildcards.cell}"
    shell:
        "mkdir -p {params.state}; printf '%s\\n' --settings {params.settings:q}"
        " --progress {params.progress:q} > {params.state}/args;"
        " exec python -m rocm_core.commands.launch --gpus {params.gpus} {params.processes}"
        ' "$SCRIPTS/train.py" @{params.state}/args'
        " --prompts {input.prompts} --output {params.folder} --state {params.state} --keep-state"
        " {params.choice} --fingerprint {params.now} --run {params.run} --name {wildcards.cell}"
        " --project {params.project} {params.terminal} 3>&2 > {log} 2>&1"


onsuccess:
    CONFIG.resources.keep_states or remove_finished(LAYOUT.states, LAYOUT.cells)


onerror:
    CONFIG.resources.keep_states or remove_finished(LAYOUT.states, LAYOUT.cells)
