# Images of a prompt set by a trained cell or, without a LoRA, by a base model; their scores by every
# metric, and read-outs of what shows reward hacking in the images themselves: noise, lost diversity.

SAMPLES = LAYOUT.samples("{source}", "{set}", "{steps}")


rule evaluate_images:
    input:
        prompts=LAYOUT.prompts("{set}"),
        lora=lambda w: [] if w.source in FILES.bases else FILES.lora(cell_of(w.source).name),
        weights=ancient(
            lambda w: inputs_of(*generation_of(w.source).weights, *CONFIG.scorer_paths().values())
        ),
    output:
        index=SAMPLES.index,
        manifest=SAMPLES.manifest,
        scores=SAMPLES.scores,
        readouts=SAMPLES.readouts,
    log:
        LAYOUT.log("evaluate", "{source}", "{set}", "steps-{steps}"),
    benchmark:
        LAYOUT.benchmark("evaluate", "{source}", "{set}", "steps-{steps}")
    priority: 1  # what is trained is measured before more is trained
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        **CONFIG.resources.request(GPUS),
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        gpus=lambda w, output: GPUS,
        settings=lambda w: to_json(generation_of(w.source, w.steps)),
        scorers=to_json(CONFIG.scorer_paths()),
        clip=[f"--clip={FILES.clip}"] if FILES.clip else [],
        code=lambda w: FILES.evaluation_code(w.source, w.set, w.steps, ACCEPTED),
        # What runs now, whatever was accepted; Snakemake compares no params that take `output`.
        now=lambda w, output: FILES.evaluation_code(w.source, w.set, w.steps),
        weights=lambda w: digest_of_all(
            *generation_of(w.source).weights, *CONFIG.scorer_paths().values()
        ),
        lora=lambda w, input: [f"--lora={input.lora}"] if input.get("lora") else [],
        folder=subpath(output.index, parent=True),
    message:
        "Evaluating {wildcards.source} on {wildcards.set}, {wildcards.steps} steps"
    shell:
        "printf '%s\\n' --settings {params.settings:q} --prompts={input.prompts:q} {params.lora:q}"
        " --fingerprint={params.now[0]} > {log}.generate;"
        " printf '%s\\n' --scorers {params.scorers:q} --fingerprint={params.now[1]} > {log}.score;"
        " printf '%s\\n' {params.clip:q} --fingerprint={params.now[2]} > {log}.measure;"
        " exec python -m rocm_core.commands.launch --gpus {params.gpus}"
        ' "$SCRIPTS/evaluate.py" --arguments {log} --output {params.folder} > {log} 2>&1'
