# The weights of resources/shapes, made from nothing: `snakemake world --cores all`, hours of CPU. What
# is interrupted goes on from results/world/states.
# Nothing else depends on these rules; copy the folder results/world/shapes by hand when it is good.

WORLD = "results/world"
SHAPES = f"{WORLD}/shapes"
SCORERS = ["hpsv2", "pickscore", "clipscore", "aesthetic", "blipscore", "imagereward"]


rule world_tokenizer:
    output:
        directory(f"{SHAPES}/tokenizer"),
    log:
        f"{WORLD}/logs/tokenizer.log",
    benchmark:
        f"{WORLD}/benchmarks/tokenizer.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        code=lambda w: code_fingerprint("rocm_core.shapes.tokenizer"),
    message:
        "Making the shapes world's tokenizer"
    shell:
        'exec python -c "from pathlib import Path; from rocm_core.shapes import tokenizer;'
        " tokenizer.save_tokenizer(Path('{output}'))\" > {log} 2>&1"


rule world_autoencoder:
    output:
        directory(f"{WORLD}/autoencoder"),
    log:
        f"{WORLD}/logs/autoencoder.log",
    benchmark:
        f"{WORLD}/benchmarks/autoencoder.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        mem_mb=8000,
        runtime=600,
    params:
        state=f"{WORLD}/states/autoencoder",
        code=lambda w: code_fingerprint("rocm_core.recipes.autoencoder"),
    message:
        "Training the shapes world's autoencoder"
    shell:
        "exec python -m rocm_core.recipes.autoencoder --output {output} --state {params.state}"
        " > {log} 2>&1"


rule world_diffusion:
    input:
        vae=rules.world_autoencoder.output,
        tokenizer=rules.world_tokenizer.output,
    output:
        unet=directory(f"{WORLD}/diffusion/unet"),
        text_encoder=directory(f"{WORLD}/diffusion/text_encoder"),
    log:
        f"{WORLD}/logs/diffusion.log",
    benchmark:
        f"{WORLD}/benchmarks/diffusion.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        mem_mb=8000,
        runtime=1440,
    params:
        folder=subpath(output.unet, parent=True),
        state=f"{WORLD}/states/diffusion",
        code=lambda w: code_fingerprint("rocm_core.recipes.diffusion"),
    message:
        "Training the shapes world's diffusion model"
    shell:
        "exec python -m rocm_core.recipes.diffusion --vae {input.vae}"
        " --tokenizer {input.tokenizer} --output {params.folder} --state {params.state}"
        " > {log} 2>&1"


rule world_consistency:
    input:
        vae=rules.world_autoencoder.output,
        tokenizer=rules.world_tokenizer.output,
        unet=rules.world_diffusion.output.unet,
        text_encoder=rules.world_diffusion.output.text_encoder,
    output:
        consistency=directory(f"{SHAPES}/consistency"),
        diffusion=directory(f"{SHAPES}/diffusion"),
    log:
        f"{WORLD}/logs/consistency.log",
    benchmark:
        f"{WORLD}/benchmarks/consistency.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        mem_mb=8000,
        runtime=1440,
    params:
        teacher=subpath(input.unet, parent=True),
        folder=subpath(output.consistency, parent=True),
        state=f"{WORLD}/states/consistency",
        code=lambda w: code_fingerprint("rocm_core.recipes.consistency"),
    message:
        "Distilling the shapes world's consistency model"
    shell:
        "exec python -m rocm_core.recipes.consistency --vae {input.vae}"
        " --tokenizer {input.tokenizer} --diffusion {params.teacher}"
        " --output {params.folder} --state {params.state} > {log} 2>&1"


rule world_flow:
    input:
        vae=rules.world_autoencoder.output,
        tokenizer=rules.world_tokenizer.output,
    output:
        directory(f"{SHAPES}/flow"),
    log:
        f"{WORLD}/logs/flow.log",
    benchmark:
        f"{WORLD}/benchmarks/flow.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        mem_mb=8000,
        runtime=1440,
    params:
        state=f"{WORLD}/states/flow",
        code=lambda w: code_fingerprint("rocm_core.recipes.flow"),
    message:
        "Training the shapes world's second few-step model, a transformer"
    shell:
        "exec python -m rocm_core.recipes.flow --vae {input.vae} --tokenizer {input.tokenizer}"
        " --output {output} --state {params.state} > {log} 2>&1"


rule world_choices:
    input:
        consistency=rules.world_consistency.output.consistency,
        diffusion=rules.world_consistency.output.diffusion,
    output:
        f"{WORLD}/choices.pt",
    log:
        f"{WORLD}/logs/choices.log",
    benchmark:
        f"{WORLD}/benchmarks/choices.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        world=subpath(input.consistency, parent=True),
        code=lambda w: code_fingerprint("rocm_core.recipes.choices"),
    message:
        "Making images of the shapes world's bases to choose between"
    shell:
        "exec python -m rocm_core.recipes.choices --world {params.world} --output {output}"
        " > {log} 2>&1"


rule world_scorer:
    input:
        base=rules.world_consistency.output,
        choices=rules.world_choices.output,
        tokenizer=rules.world_tokenizer.output[0],
    output:
        directory(f"{WORLD}/repetition-{{n}}/{{scorer}}"),
    log:
        f"{WORLD}/logs/repetition-{{n}}/{{scorer}}.log",
    benchmark:
        f"{WORLD}/benchmarks/repetition-{{n}}/{{scorer}}.tsv"
    wildcard_constraints:
        scorer="|".join(SCORERS),
        n="[01]",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        mem_mb=8000,
        runtime=600,
    params:
        world=subpath(input.tokenizer, parent=True),
        folder=subpath(output[0], parent=True),
        state=f"{WORLD}/states/repetition-{{n}}",
        code=lambda w: code_fingerprint(
            "rocm_core.recipes.scorers", f"rocm_core.rewards.{w.scorer}"
        ),
    message:
        "Training the shapes world's {wildcards.scorer}, repetition {wildcards.n}"
    shell:
        "exec python -m rocm_core.recipes.scorers --only {wildcards.scorer}"
        " --repetition {wildcards.n} --world {params.world} --candidates {input.choices}"
        " --tokenizer {input.tokenizer} --output {params.folder} --state {params.state}"
        " > {log} 2>&1"


rule world:
    input:
        rules.world_consistency.output,
        rules.world_flow.output,
        scorers=expand(rules.world_scorer.output, n=0, scorer=SCORERS),
        again=expand(rules.world_scorer.output, n=1, scorer=SCORERS),
    output:
        quality=f"{SHAPES}/quality.json",
        samples=f"{SHAPES}/samples.png",
        seeds=f"{SHAPES}/seeds.png",
        metrics=f"{SHAPES}/scorers.json",
        scorers=directory(f"{SHAPES}/scorers"),
        listing=f"{SHAPES}/MANIFEST.json",
    log:
        f"{WORLD}/logs/evaluate.log",
    benchmark:
        f"{WORLD}/benchmarks/evaluate.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        folder=subpath(output.quality, parent=True),
        code=lambda w: code_fingerprint("rocm_core.recipes.evaluate"),
    message:
        "Measuring the shapes world"
    shell:
        "exec python -m rocm_core.recipes.evaluate --world {params.folder}"
        " --scorers {input.scorers} --again {input.again} > {log} 2>&1"
