# Images of a prompt set by a trained cell or, without a LoRA, by a base model.


rule generate_images:
    input:
        prompts=f"{RESULTS}/prompts/{{set}}.jsonl",
        lora=lambda w: ([] if w.source in BASES else f"{RESULTS}/cells/{w.source}/lora.safetensors"),
        weights=ancient(lambda w: fetched(*generation_of(w.source).weights)),
    output:
        index=f"{RESULTS}/samples/{{source}}/{{set}}/steps-{{steps}}/index.jsonl",
        manifest=f"{RESULTS}/samples/{{source}}/{{set}}/steps-{{steps}}/manifest.json",
    log:
        f"{LOGS}/generate/{{source}}/{{set}}/steps-{{steps}}.log",
    benchmark:
        f"{BENCHMARKS}/generate/{{source}}/{{set}}/steps-{{steps}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        settings=lambda w: to_json(generation_of(w.source, w.steps)),
        code=lambda w: fingerprints.generate_code(generation_of(w.source)),
        weights=lambda w: weights_of(*generation_of(w.source).weights),
        lora=lambda w, input: f"--lora {input.lora}" if input.get("lora") else "",
        folder=subpath(output.index, parent=True),
    message:
        "Generating {wildcards.set} images with {wildcards.source}, {wildcards.steps} steps"
    shell:
        "exec python -m rocm_core.commands.launch --gpus {resources.gpu}"
        " workflow/scripts/generate.py --settings {params.settings:q}"
        " --prompts {input.prompts} {params.lora} --output {params.folder}"
        " --fingerprint {params.code} > {log} 2>&1"
