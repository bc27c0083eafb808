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
        standards=lambda w: FILES.standards(cell_of(w.cell).name),
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
        settings=lambda w: to_json(cell_of(w.cell).trained_with),
        code=lambda w: ACCEPTED.code(
            LAYOUT.cell(w.cell).manifest, job_code("train", cell_of(w.cell).settings)
        ),
        now=lambda w, output: job_code("train", cell_of(w.cell).settings),
        weights=lambda w: digest_of_all(*cell_of(w.cell).settings.weights),
        state=lambda w, output: LAYOUT.state(
            w.cell,
            train_version(
                cell_of(w.cell).trained_with,
                digest_of_all(*cell_of(w.cell).settings.weights),
                PROCESSES,
            ),
        ),
        processes=f"--processes {PROCESSES}" if PROCESSES > 1 else "",
        choice=option("choice"),
        standards=option("standards"),
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
        " {params.choice} {params.standards} --fingerprint {params.now} --run {params.run} --name {wildcards.cell}"
        " --project {params.project} {params.terminal} 3>&2 > {log} 2>&1"


# How the base scores on the training prompts: what scorers are standardised by, once for all cells.
rule measure_base:
    input:
        prompts=LAYOUT.prompts("{set}"),
        weights=ancient(
            lambda w: inputs_of(
                *generation_of(f"base-{w.policy}").weights,
                *FILES.scorer_paths(w.scorers.split("+")).values(),
            )
        ),
    output:
        LAYOUT.standards("{policy}", "{set}", "{scorers}"),
    log:
        LAYOUT.log("standards", "{policy}", "{set}", "{scorers}"),
    benchmark:
        LAYOUT.benchmark("standards", "{policy}", "{set}", "{scorers}")
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **CONFIG.resources.request(GPUS),
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        gpus=lambda w, output: GPUS,
        settings=lambda w: to_json(generation_of(f"base-{w.policy}")),
        scorers=lambda w: to_json(FILES.scorer_paths(w.scorers.split("+"))),
        code=lambda w: ACCEPTED.code(
            record_beside(LAYOUT.standards(w.policy, w.set, w.scorers)),
            FILES.measuring_code(w.policy, w.scorers.split("+")),
        ),
        now=lambda w, output: FILES.measuring_code(w.policy, w.scorers.split("+")),
        weights=lambda w: digest_of_all(
            *generation_of(f"base-{w.policy}").weights,
            *FILES.scorer_paths(w.scorers.split("+")).values(),
        ),
    message:
        "Measuring how base-{wildcards.policy} scores on {wildcards.set}"
    shell:
        "printf '%s\\n' --settings {params.settings:q} --scorers {params.scorers:q} > {log}.args;"
        " exec python -m rocm_core.commands.launch --gpus {params.gpus}"
        ' "$SCRIPTS/standardise.py" @{log}.args --prompts {input.prompts} --output {output}'
        " --fingerprint {params.now} > {log} 2>&1"


# What the base scores on the prompts and the noise of trainings, once for all that share them.
rule score_base:
    input:
        prompts=lambda w: LAYOUT.prompts(FILES.base_run(w.key).prompts),
        standards=lambda w: FILES.base_run_standards(w.key),
        weights=ancient(lambda w: inputs_of(*FILES.base_run(w.key).weights)),
    output:
        LAYOUT.base_rewards("{policy}", "{key}"),
    log:
        LAYOUT.log("base_rewards", "{policy}", "{key}"),
    benchmark:
        LAYOUT.benchmark("base_rewards", "{policy}", "{key}")
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **CONFIG.resources.request(GPUS),
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        gpus=lambda w, output: GPUS,
        settings=lambda w: to_json(FILES.base_run_settings(w.key)),
        code=lambda w: ACCEPTED.code(
            record_beside(LAYOUT.base_rewards(w.policy, w.key)), FILES.base_run_code(w.key)
        ),
        now=lambda w, output: FILES.base_run_code(w.key),
        weights=lambda w: digest_of_all(*FILES.base_run(w.key).weights),
        standards=option("standards"),
    message:
        "Scoring what base-{wildcards.policy} makes of trainings' prompts and noise"
    shell:
        "printf '%s\\n' --settings {params.settings:q} > {log}.args;"
        " exec python -m rocm_core.commands.launch --gpus {params.gpus}"
        ' "$SCRIPTS/score_base.py" @{log}.args --prompts {input.prompts}'
        " {params.standards} --output {output} --fingerprint {params.now} > {log} 2>&1"


onsuccess:
    CONFIG.resources.keep_states or remove_finished(LAYOUT.states, LAYOUT.cells)


onerror:
    CONFIG.resources.keep_states or remove_finished(LAYOUT.states, LAYOUT.cells)
