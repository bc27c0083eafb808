# The published weights and prompts: one job per file, on this machine, which has a network where others
# need none. A file appears when it is whole, so an interrupted fetch costs nothing that was fetched.


rule fetch_weights:
    output:
        "weights/{file}",
    log:
        LAYOUT.log("weights", "{file}"),
    benchmark:
        LAYOUT.benchmark("weights", "{file}")
    wildcard_constraints:
        file="|".join(re.escape(path.removeprefix("weights/")) for path in table()),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=600,
    params:
        origin=lambda w: weights_digest(f"weights/{w.file}"),
    message:
        "Fetching {output}"
    shell:
        'HF_HUB_OFFLINE=0 exec python "$SCRIPTS/fetch_weights.py" {output} > {log}'


rule weights:
    input:
        WEIGHTS,
    localrule: True
    message:
        f"{len(WEIGHTS)} files of weights and prompts; {to_fetch(WEIGHTS)}"
