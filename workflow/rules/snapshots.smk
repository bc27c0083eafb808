# Images and scores of the snapshots of one training, from the base to the last; and the one that the
# scorers of `stop_by` choose.


rule evaluate_snapshots:
    input:
        prompts=lambda w: LAYOUT.prompts(cell_of(w.cell).evaluated_on),
        snapshots=ancient(CELL.snapshots),
        # Tells that there are other snapshots: of a folder Snakemake knows only the time.
        history=CELL.history,
        weights=ancient(
            lambda w: inputs_of(*generation_of(w.cell).weights, *CONFIG.scorer_paths().values())
        ),
    output:
        scores=SNAPSHOTS.scores,
        manifest=SNAPSHOTS.manifest,
    log:
        LAYOUT.log("snapshots", "{cell}"),
    benchmark:
        LAYOUT.benchmark("snapshots", "{cell}")
    priority: 1
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **CONFIG.resources.request(GPUS),
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        gpus=lambda w, output: GPUS,
        settings=lambda w: to_json(generation_of(w.cell)),
        scorers=to_json(CONFIG.scorer_paths()),
        first=snapshot_prompts(CONFIG),
        code=lambda w: ACCEPTED.code(
            LAYOUT.snapshots(w.cell).manifest,
            job_code("evaluate_snapshots", generation_of(w.cell), CONFIG.metrics),
        ),
        now=lambda w, output: job_code("evaluate_snapshots", generation_of(w.cell), CONFIG.metrics),
        weights=lambda w: digest_of_all(
            *generation_of(w.cell).weights, *CONFIG.scorer_paths().values()
        ),
        folder=subpath(output.scores, parent=True),
    message:
        "Evaluating the snapshots of {wildcards.cell}"
    shell:
        "printf '%s\\n' --settings {params.settings:q} --scorers {params.scorers:q} > {log}.args;"
        " exec python -m rocm_core.commands.launch --gpus {params.gpus}"
        ' "$SCRIPTS/evaluate_snapshots.py" @{log}.args'
        " --prompts {input.prompts} --count {params.first}"
        " --snapshots {input.snapshots} --output {params.folder}"
        " --fingerprint {params.now} > {log} 2>&1"


rule choose_snapshot:
    input:
        prompts=lambda w: LAYOUT.prompts(cell_of(w.cell).settings.prompts),
        snapshots=ancient(CELL.snapshots),
        history=CELL.history,
        weights=ancient(
            lambda w: inputs_of(
                *generation_of(w.cell).weights, *FILES.choosers(cell_of(w.cell).name).values()
            )
        ),
    output:
        lora=CELL.best,
        choice=CELL.choice,
    log:
        LAYOUT.log("choose_snapshot", "{cell}"),
    benchmark:
        LAYOUT.benchmark("choose_snapshot", "{cell}")
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **CONFIG.resources.request(GPUS),
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        gpus=lambda w, output: GPUS,
        settings=lambda w: to_json(generation_of(w.cell)),
        scorers=lambda w: to_json(FILES.choosers(cell_of(w.cell).name)),
        first=CONFIG.snapshots.stop_prompts,
        code=lambda w: ACCEPTED.code(
            record_beside(LAYOUT.cell(w.cell).best), FILES.choosing_code(w.cell)
        ),
        now=lambda w, output: FILES.choosing_code(w.cell),
        weights=lambda w: digest_of_all(
            *generation_of(w.cell).weights, *FILES.choosers(cell_of(w.cell).name).values()
        ),
    message:
        "Choosing a snapshot of {wildcards.cell}"
    shell:
        "printf '%s\\n' --settings {params.settings:q} --scorers {params.scorers:q} > {log}.args;"
        " exec python -m rocm_core.commands.launch --gpus {params.gpus}"
        ' "$SCRIPTS/choose_snapshot.py" @{log}.args'
        " --prompts {input.prompts} --count {params.first}"
        " --snapshots {input.snapshots} --output {output.lora}"
        " --fingerprint {params.now} > {log} 2>&1"
