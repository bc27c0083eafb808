# Prompt sets: those to train on first, those to evaluate on without any of their prompts.


rule make_prompts:
    input:
        source=ancient(lambda w: here(*FILES.prompt_sources(w.set))),
        exclude=lambda w: FILES.kept_out(w.set),
    output:
        LAYOUT.prompts("{set}"),
    log:
        LAYOUT.log("prompts", "{set}"),
    benchmark:
        LAYOUT.benchmark("prompts", "{set}")
    priority: 1  # every evaluation waits for them
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=lambda w: to_json(CONFIG.prompts[w.set]),
        code=lambda w: ACCEPTED.code(
            record_beside(LAYOUT.prompts(w.set)),
            job_code("make_prompts"),
        ),
        now=lambda w, output: job_code("make_prompts"),
        content=lambda w: digest_of_all(*FILES.prompt_sources(w.set)),
        exclude=option("exclude"),
    message:
        "Making the {wildcards.set} prompts"
    shell:
        "printf '%s\\n' --settings {params.settings:q} {params.exclude} > {log}.args;"
        ' exec python "$SCRIPTS/make_prompts.py" @{log}.args'
        " --output {output} --fingerprint {params.now} > {log} 2>&1"
