# The user study: `snakemake study` makes the page; `python -m rocm_core.study serve` collects votes
# in results/<world>/study/votes.jsonl; `snakemake figure3` counts them and draws what they say.

from rocm_core.grid import study_code

STUDY = LAYOUT.study
STUDY_PROMPTS = CONFIG.study.prompts if CONFIG.study else "validation"
# What it shows, and of which models the best is shown, which their scores decide.
STUDIED, CONTESTS = FILES.compared(), FILES.contests()
STUDY_SAMPLES = [files.index for files in STUDIED.values()]


rule study:
    input:
        prompts=LAYOUT.prompts(STUDY_PROMPTS),
        samples=lambda w: (
            STUDY_SAMPLES
            if CONFIG.study
            else sys.exit("error: there is no study in the configuration: add the key study")
        ),
        validation=[LAYOUT.prompts("validation")] if CONTESTS else [],
        scores=[path for c in CONTESTS.values() for path in (c.base, *c.scores.values())],
    output:
        page=directory(STUDY.page),
        key=STUDY.key,
    log:
        LAYOUT.log("study", "build"),
    benchmark:
        LAYOUT.benchmark("study", "build")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=to_json(CONFIG.study or {}),
        samples=to_json({name: str(files.folder) for name, files in STUDIED.items()}),
        contests=to_json({name: contest.to_dict() for name, contest in CONTESTS.items()}),
        validation=option("validation"),
        folder=subpath(output.key, parent=True),
        code=study_code("build"),
    message:
        "Building the user study"
    shell:
        "printf '%s\\n' --settings {params.settings:q} --samples {params.samples:q}"
        " --contests {params.contests:q} > {log}.args;"
        " exec python -m rocm_core.study build @{log}.args"
        " --prompts {input.prompts} {params.validation}"
        " --output {params.folder} --fingerprint {params.code}"
        " > {log} 2>&1"


# The votes come from people: no rule makes them.
rule study_results:
    input:
        key=rules.study.output.key,
        votes=lambda w: (
            STUDY.votes
            if STUDY.votes.exists()
            else sys.exit(
                f"error: {STUDY.votes} does not exist: vote first, on the page that"
                f" `python -m rocm_core.study serve --study {STUDY.folder}` serves"
            )
        ),
    output:
        table=STUDY.table,
        results=STUDY.results,
    log:
        LAYOUT.log("study", "aggregate"),
    benchmark:
        LAYOUT.benchmark("study", "aggregate")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        folder=subpath(output.table, parent=True),
        code=study_code("aggregate"),
    message:
        "Counting the votes of the user study"
    shell:
        "exec python -m rocm_core.study aggregate --study {params.folder}"
        " --fingerprint {params.code} > {log} 2>&1"
