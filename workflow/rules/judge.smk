# The published scorers on the final images, and how far ours are from them.

JUDGES = {name: CONFIG.scorers[name] for name in CONFIG.judges}
# Their environment: conda's with --sdm conda, or the one that `make judges` makes.
JUDGE = "python" if workflow.deployment_settings.deployment_method else ".venv-judges/bin/python"


rule judge_images:
    input:
        index=f"{RESULTS}/samples/{{source}}/validation/steps-{{steps}}/index.jsonl",
        weights=ancient(fetched(*JUDGES.values())),
    output:
        f"{RESULTS}/samples/{{source}}/validation/steps-{{steps}}/judged.csv",
    log:
        f"{LOGS}/judge/{{source}}/steps-{{steps}}.log",
    benchmark:
        f"{BENCHMARKS}/judge/{{source}}/steps-{{steps}}.tsv"
    conda:
        "../../envs/judges.yaml"
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        python=JUDGE,
        judges=json.dumps(JUDGES, sort_keys=True),
        code=code_fingerprint("workflow/scripts/judge.py"),
        weights=weights_of(*JUDGES.values()),
        folder=subpath(input.index, parent=True),
    message:
        "Scoring the images of {wildcards.source} with the published packages"
    shell:
        "command -v {params.python} > /dev/null ||"
        " {{ echo 'error: {params.python} is missing: run `make judges`' > {log}; exit 2; }};"
        " exec {params.python} -m rocm_core.commands.launch --gpus {resources.gpu}"
        " workflow/scripts/judge.py --judges {params.judges:q}"
        " --samples {params.folder} --output {output} > {log} 2>&1"


rule scorer_agreement:
    input:
        scores=main_scores("scores.csv"),
        judged=main_scores("judged.csv"),
    output:
        f"{RESULTS}/tables/scorer_agreement.csv",
    log:
        f"{LOGS}/render/scorer_agreement.log",
    benchmark:
        f"{BENCHMARKS}/render/scorer_agreement.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        code=code_fingerprint("workflow/scripts/scorer_agreement.py"),
    message:
        "Comparing our scorers with the published packages"
    shell:
        "exec python workflow/scripts/scorer_agreement.py --ours {input.scores}"
        " --judged {input.judged} --output {output} > {log} 2>&1"
