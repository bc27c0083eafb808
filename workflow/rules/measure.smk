# What shows reward hacking in the images themselves: noise and lost diversity.


rule measure_images:
    input:
        index=MAIN_SAMPLES.index,
        weights=ancient(inputs_of(FILES.clip)),
    output:
        MAIN_SAMPLES.readouts,
    log:
        LAYOUT.log("measure", "{source}", "steps-{steps}"),
    benchmark:
        LAYOUT.benchmark("measure", "{source}", "steps-{steps}")
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        gpus=lambda w, output: GPUS,
        clip=f"--clip {FILES.clip}" if FILES.clip else "",
        code=lambda w: ACCEPTED.code(
            record_beside(LAYOUT.samples(w.source, "validation", w.steps).readouts),
            job_code("measure"),
        ),
        now=lambda w, output: job_code("measure"),
        weights=digest_of_all(FILES.clip),
        folder=subpath(input.index, parent=True),
    message:
        "Measuring the images of {wildcards.source}"
    shell:
        "exec python -m rocm_core.commands.launch --gpus {params.gpus}"
        ' "$SCRIPTS/measure.py" --samples {params.folder} {params.clip}'
        " --output {output} --fingerprint {params.now} > {log} 2>&1"
