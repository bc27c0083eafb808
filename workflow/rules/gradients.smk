# How far the gradients of single images scatter, where trainings start and where one ends, by every
# method that the configuration compares.


rule measure_gradients:
    input:
        prompts=lambda w: LAYOUT.prompts(cell_of(w.cell).settings.prompts),
        lora=CELL.lora,
        standards=lambda w: FILES.standards(cell_of(w.cell).name),
        weights=ancient(lambda w: inputs_of(*cell_of(w.cell).settings.weights)),
    output:
        CELL.gradients,
    log:
        LAYOUT.log("gradients", "{cell}"),
    benchmark:
        LAYOUT.benchmark("gradients", "{cell}")
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **CONFIG.resources.request(GPUS),
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        gpus=lambda w, output: GPUS,
        settings=lambda w: to_json(FILES.gradient_settings(cell_of(w.cell).name)),
        code=lambda w: ACCEPTED.code(
            record_beside(LAYOUT.cell(w.cell).gradients), FILES.gradient_code(w.cell)
        ),
        now=lambda w, output: FILES.gradient_code(w.cell),
        weights=lambda w: digest_of_all(*cell_of(w.cell).settings.weights),
        standards=option("standards"),
    message:
        "Measuring gradients of {wildcards.cell}"
    shell:
        "printf '%s\\n' --settings {params.settings:q} > {log}.args;"
        " exec python -m rocm_core.commands.launch --gpus {params.gpus}"
        ' "$SCRIPTS/measure_gradients.py" @{log}.args --prompts {input.prompts}'
        " --lora {input.lora} {params.standards} --output {output}"
        " --fingerprint {params.now} > {log} 2>&1"
