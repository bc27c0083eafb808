# Prompt sets: those to train on first, those to judge on without any of their prompts.


rule make_prompts:
    input:
        source=ancient(lambda w: prompt_source(w.set)),
        exclude=lambda w: (
            []
            if w.set in TRAINED_ON or CONFIG.prompts[w.set].overlap == "allow"
            else expand("{folder}/{set}.jsonl", folder=f"{RESULTS}/prompts", set=TRAINED_ON)
        ),
    output:
        f"{RESULTS}/prompts/{{set}}.jsonl",
    log:
        f"{LOGS}/prompts/{{set}}.log",
    benchmark:
        f"{BENCHMARKS}/prompts/{{set}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=lambda w: to_json(CONFIG.prompts[w.set]),
        code=lambda w: fingerprints.prompts_code(CONFIG.prompts[w.set]),
        content=lambda w: weights_of(*prompt_source(w.set)),
        exclude=lambda w, input: f"--exclude {input.exclude}" if input.get("exclude") else "",
    message:
        "Making the {wildcards.set} prompts"
    shell:
        "exec python workflow/scripts/make_prompts.py --settings {params.settings:q}"
        " --output {output} {params.exclude} > {log} 2>&1"
