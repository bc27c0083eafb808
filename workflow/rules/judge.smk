# The published scorers on the final images, and how far ours are from them.

# Their environment: conda's with --sdm conda, or the one that `make judges` makes.
JUDGE = "python" if workflow.deployment_settings.deployment_method else ".venv-judges/bin/python"


rule judge_images:
    input:
        index=MAIN_SAMPLES.index,
        weights=ancient(files_of_all(*FILES.judges.values())),
    output:
        MAIN_SAMPLES.judged,
    log:
        LAYOUT.log("judge", "{source}", "steps-{steps}"),
    benchmark:
        LAYOUT.benchmark("judge", "{source}", "steps-{steps}")
    conda:
        "../../envs/judges.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        python=JUDGE,
        judges=to_json(FILES.judges),
        code=lambda w: ACCEPTED.code(
            record_beside(LAYOUT.samples(w.source, "validation", w.steps).judged),
            fingerprints.judge_code(),
        ),
        now=lambda w, output: fingerprints.judge_code(),
        weights=digest_of_all(*FILES.judges.values()),
        folder=subpath(input.index, parent=True),
    message:
        "Scoring the images of {wildcards.source} with the published packages"
    shell:
        "command -v {params.python} > /dev/null ||"
        " {{ echo 'error: {params.python} is missing: run `make judges`' > {log}; exit 2; }};"
        " exec {params.python} -m rocm_core.commands.launch --gpus {resources.gpu}"
        " workflow/scripts/judge.py --judges {params.judges:q}"
        " --samples {params.folder} --output {output} --fingerprint {params.now} > {log} 2>&1"


rule scorer_agreement:
    input:
        scores=main_scores("scores.csv"),
        judged=main_scores("judged.csv"),
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
        code=fingerprints.agreement_code(),
    message:
        "Comparing our scorers with the published packages"
    shell:
        "exec python workflow/scripts/scorer_agreement.py --ours {input.scores}"
        " --judged {input.judged} --output {output} --fingerprint {params.code} > {log} 2>&1"
