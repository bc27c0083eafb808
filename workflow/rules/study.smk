# The user study: `snakemake study` makes the page; `python -m rocm_core.study serve` collects votes
# in results/<world>/study/votes.jsonl; `snakemake figure3` counts them and draws what they say.

import itertools

STUDY = f"{RESULTS}/study"
VOTES = f"{STUDY}/votes.jsonl"
STUDY_PROMPTS = CONFIG.study.prompts if CONFIG.study else "validation"
STUDIED = {
    name: f"{RESULTS}/samples/{name}/{STUDY_PROMPTS}/steps-{generation_of(name).inference_steps}"
    for name in itertools.chain(*(CONFIG.study.comparisons if CONFIG.study else []))
}
STUDY_SAMPLES = [f"{folder}/index.jsonl" for folder in STUDIED.values()]


rule study:
    input:
        prompts=f"{RESULTS}/prompts/{STUDY_PROMPTS}.jsonl",
        samples=lambda w: STUDY_SAMPLES
        or sys.exit("error: there is no study in the configuration: add the key study"),
    output:
        page=directory(f"{STUDY}/page"),
        key=f"{STUDY}/key.json",
    log:
        f"{LOGS}/study/build.log",
    benchmark:
        f"{BENCHMARKS}/study/build.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=to_json(CONFIG.study or {}),
        samples=to_json(STUDIED),
        folder=subpath(output.key, parent=True),
        code=code_fingerprint("rocm_core.study.build"),
        page=weights_of("rocm_core/study/page"),
    message:
        "Building the user study"
    shell:
        "exec python -m rocm_core.study build --settings {params.settings:q}"
        " --samples {params.samples:q} --prompts {input.prompts} --output {params.folder}"
        " > {log} 2>&1"


# The votes come from people: no rule makes them.
rule study_results:
    input:
        key=rules.study.output.key,
        votes=lambda w: (
            VOTES
            if os.path.exists(VOTES)
            else sys.exit(
                f"error: {VOTES} does not exist: vote first, on the page that"
                f" `python -m rocm_core.study serve --study {STUDY}` serves"
            )
        ),
    output:
        table=f"{STUDY}/results.csv",
        results=f"{STUDY}/results.json",
    log:
        f"{LOGS}/study/aggregate.log",
    benchmark:
        f"{BENCHMARKS}/study/aggregate.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        folder=subpath(output.table, parent=True),
        code=code_fingerprint("rocm_core.study.aggregate"),
    message:
        "Counting the votes of the user study"
    shell:
        "exec python -m rocm_core.study aggregate --study {params.folder} > {log} 2>&1"
