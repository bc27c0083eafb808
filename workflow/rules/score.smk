# All metrics of one folder of images; and of the snapshots of one training.


rule score_images:
    input:
        index=f"{RESULTS}/samples/{{source}}/{{set}}/steps-{{steps}}/index.jsonl",
        weights=ancient(fetched(*CONFIG.scorer_paths().values())),
    output:
        scores=f"{RESULTS}/samples/{{source}}/{{set}}/steps-{{steps}}/scores.csv",
    log:
        f"{LOGS}/score/{{source}}/{{set}}/steps-{{steps}}.log",
    benchmark:
        f"{BENCHMARKS}/score/{{source}}/{{set}}/steps-{{steps}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        scorers=to_json(CONFIG.scorer_paths()),
        code=fingerprints.score_code(CONFIG.metrics),
        weights=weights_of(*CONFIG.scorer_paths().values()),
        folder=subpath(input.index, parent=True),
    message:
        "Scoring the {wildcards.set} images of {wildcards.source}, {wildcards.steps} steps"
    shell:
        "exec python -m rocm_core.commands.launch --gpus {resources.gpu}"
        " workflow/scripts/score.py --scorers {params.scorers:q}"
        " --samples {params.folder} --output {output.scores}"
        " --fingerprint {params.code} > {log} 2>&1"


rule monitor_cell:
    input:
        prompts=lambda w: f"{RESULTS}/prompts/{cell_of(w.cell).monitored_on}.jsonl",
        snapshots=f"{RESULTS}/cells/{{cell}}/snapshots",
        weights=ancient(
            lambda w: fetched(*generation_of(w.cell).weights, *CONFIG.scorer_paths().values())
        ),
    output:
        scores=f"{RESULTS}/samples/{{cell}}/snapshots/scores.csv",
        manifest=f"{RESULTS}/samples/{{cell}}/snapshots/manifest.json",
    log:
        f"{LOGS}/monitor/{{cell}}.log",
    benchmark:
        f"{BENCHMARKS}/monitor/{{cell}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        settings=lambda w: to_json(generation_of(w.cell)),
        scorers=to_json(CONFIG.scorer_paths()),
        first=grid.monitor_prompts(CONFIG),
        code=lambda w: fingerprints.monitor_code(generation_of(w.cell), CONFIG.metrics),
        weights=lambda w: weights_of(
            *generation_of(w.cell).weights, *CONFIG.scorer_paths().values()
        ),
        folder=subpath(output.scores, parent=True),
    message:
        "Judging the snapshots of {wildcards.cell}"
    shell:
        "exec python -m rocm_core.commands.launch --gpus {resources.gpu}"
        " workflow/scripts/monitor.py --settings {params.settings:q}"
        " --scorers {params.scorers:q} --prompts {input.prompts} --count {params.first}"
        " --snapshots {input.snapshots} --output {params.folder}"
        " --fingerprint {params.code} > {log} 2>&1"
