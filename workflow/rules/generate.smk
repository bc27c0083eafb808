# Images of a prompt set by a trained cell or, without a LoRA, by a base model.


rule generate_images:
    input:
        prompts=LAYOUT.prompts("{set}"),
        lora=lambda w: [] if w.source in FILES.bases else LAYOUT.cell(w.source).lora,
        weights=ancient(lambda w: inputs_of(*generation_of(w.source).weights)),
    output:
        index=SAMPLES.index,
        manifest=SAMPLES.manifest,
    log:
        LAYOUT.log("generate", "{source}", "{set}", "steps-{steps}"),
    benchmark:
        LAYOUT.benchmark("generate", "{source}", "{set}", "steps-{steps}")
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        gpus=lambda w, output: GPUS,
        settings=lambda w: to_json(generation_of(w.source, w.steps)),
        code=lambda w: ACCEPTED.code(
            LAYOUT.samples(w.source, w.set, w.steps).manifest,
            job_code("generate", generation_of(w.source)),
        ),
        # What runs now, whatever was accepted; Snakemake compares no params that take `output`.
        now=lambda w, output: job_code("generate", generation_of(w.source)),
        weights=lambda w: digest_of_all(*generation_of(w.source).weights),
        lora=lambda w, input: f"--lora {input.lora}" if input.get("lora") else "",
        folder=subpath(output.index, parent=True),
    message:
        "Generating {wildcards.set} images with {wildcards.source}, {wildcards.steps} steps"
    shell:
        "printf '%s\\n' --settings {params.settings:q} > {log}.args;"
        " exec python -m rocm_core.commands.launch --gpus {params.gpus}"
        ' "$SCRIPTS/generate.py" @{log}.args'
        " --prompts {input.prompts} {params.lora} --output {params.folder}"
        " --fingerprint {params.now} > {log} 2>&1"
