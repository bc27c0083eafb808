# The published scorers on the final images, and how far ours are from them.

from rocm_core.plugins import ROOT

MAIN_SAMPLES = LAYOUT.samples("{source}", "validation", "{steps}")
# Their environment: conda's with --sdm conda, or the one that `make judges` makes.
PUBLISHED = (
    "python"
    if workflow.deployment_settings.deployment_method
    else f"{ROOT}/.venv-judges/bin/python"
)


rule score_published:
    input:
        index=MAIN_SAMPLES.index,
        weights=ancient(inputs_of(*FILES.published.values())),
    output:
        MAIN_SAMPLES.published,
    log:
        LAYOUT.log("published", "{source}", "steps-{steps}"),
    benchmark:
        LAYOUT.benchmark("published", "{source}", "steps-{steps}")
    conda:
        "../../envs/judges.yaml"
    threads: THREADS
    resources:
        **CONFIG.resources.request(GPUS),
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        gpus=lambda w, output: GPUS,
        # A function of `output`, whose value Snakemake does not compare: the checkout may move.
        python=lambda w, output: PUBLISHED,
        scorers=to_json(FILES.published),
        code=lambda w: ACCEPTED.code(
            record_beside(LAYOUT.samples(w.source, "validation", w.steps).published),
            job_code("score_published"),
        ),
        now=lambda w, output: job_code("score_published"),
        weights=digest_of_all(*FILES.published.values()),
        folder=subpath(input.index, parent=True),
    message:
        "Scoring the images of {wildcards.source} with the published packages"
    shell:
        "command -v {params.python:q} > /dev/null ||"
        " {{ echo 'error: {params.python} is missing: run `make judges`' > {log}; exit 2; }};"
        " printf '%s\\n' --scorers {params.scorers:q} > {log}.args;"
        " exec {params.python:q} -m rocm_core.commands.launch --gpus {params.gpus}"
        ' "$SCRIPTS/score_published.py" @{log}.args'
        " --samples {params.folder} --output {output} --fingerprint {params.now} > {log} 2>&1"


rule scorer_agreement:
    input:
        scores=main_scores("scores.csv"),
        published=main_scores("published.csv"),
    output:
        LAYOUT.scorer_agreement,
    log:
        LAYOUT.log("render", "scorer_agreement"),
    benchmark:
        LAYOUT.benchmark("render", "scorer_agreement")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        code=job_code("scorer_agreement"),
    message:
        "Comparing our scorers with the published packages"
    shell:
        "printf '%s\\n' --ours {input.scores} --published {input.published} > {log}.args;"
        ' exec python "$SCRIPTS/scorer_agreement.py" @{log}.args'
        " --output {output} --fingerprint {params.code} > {log} 2>&1"
