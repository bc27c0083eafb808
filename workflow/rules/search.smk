# The search for a method's settings: its trials are cells, and their scores choose. The final cells
# read the choice, so that the grid is known before anything has run.


rule choose_settings:
    input:
        scores=lambda w: FILES.trial_scores(w.reward, w.method),
        base=lambda w: FILES.base_scores(w.reward, w.method),
        standards=lambda w: FILES.trial_standards(w.reward, w.method),
    output:
        LAYOUT.choice("{reward}", "{method}"),
    log:
        LAYOUT.log("choose", "{reward}", "{method}"),
    benchmark:
        LAYOUT.benchmark("choose", "{reward}", "{method}")
    priority: 1  # as what it chooses from
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        tried=lambda w: to_json(FILES.tried(w.reward, w.method)),
        code=lambda w: ACCEPTED.code(
            record_beside(LAYOUT.choice(w.reward, w.method)), job_code("choose")
        ),
        now=lambda w, output: job_code("choose"),
        trained=lambda w: to_json(FILES.trial_reward(w.reward, w.method)),
        standards=option("standards"),
    message:
        "Choosing settings of {wildcards.method} on {wildcards.reward}"
    shell:
        "printf '%s\\n' --tried {params.tried:q} --trained {params.trained:q}"
        " --scores {input.scores} > {log}.args;"
        ' exec python "$SCRIPTS/choose.py" @{log}.args {params.standards}'
        " --base {input.base} --output {output}"
        " --fingerprint {params.now} > {log} 2>&1"
