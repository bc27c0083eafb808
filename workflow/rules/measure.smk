# What shows reward hacking in the images themselves: noise and lost diversity.

CLIP = CONFIG.scorers["clipscore"] if "clipscore" in CONFIG.metrics else None


rule measure_images:
    input:
        index=f"{RESULTS}/samples/{{source}}/validation/steps-{{steps}}/index.jsonl",
        weights=ancient(fetched(CLIP)),
    output:
        f"{RESULTS}/samples/{{source}}/validation/steps-{{steps}}/readouts.csv",
    log:
        f"{LOGS}/measure/{{source}}/steps-{{steps}}.log",
    benchmark:
        f"{BENCHMARKS}/measure/{{source}}/steps-{{steps}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        clip=f"--clip {CLIP}" if CLIP else "",
        code=fingerprints.measure_code(),
        weights=weights_of(CLIP),
        folder=subpath(input.index, parent=True),
    message:
        "Measuring the images of {wildcards.source}"
    shell:
        "exec python -m rocm_core.commands.launch --gpus {resources.gpu}"
        " workflow/scripts/measure.py --samples {params.folder} {params.clip}"
        " --output {output} --fingerprint {params.code} > {log} 2>&1"
