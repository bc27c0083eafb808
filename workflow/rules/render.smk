# Tables, figures and the report: one rule each, named after it. partial=true uses what exists.
# What a table or figure needs, reads and finds stands in its module: a new one is that file alone.

from rocm_core.grid import offered
from rocm_core.plugins import facts, names

# What READS of a table or figure can name.
READS = {
    "scores": main_scores(),
    # The snapshot that `stop_by` chose is known by its images.
    "scores, if any stop early": (
        main_scores() if any(cell.settings.stop_by for cell in CELLS.values()) else []
    ),
    "scores at every step": samples("scores.csv", ["validation"]),
    "scores on every set": samples("scores.csv", every_step=False),
    "readouts": main_scores("readouts.csv"),
    "histories": trained("history.csv"),
    "base rewards": FILES.base_reward_files(),
    "histories, also unfinished": trained("history.csv") + FILES.unfinished_histories(),
    "manifests": trained("manifest.json"),
    "snapshots": snapshot_scores(),
    "gradients": FILES.gradient_files(),
    "choices": finished(dict.fromkeys(file for name in CELLS for file in FILES.choice(name))),
    "prompts": shown_prompts(),
    "prompts of snapshots": shown_prompts({cell.evaluated_on: None for cell in CELLS.values()}),
    "images": main_scores("index.jsonl"),
    "times": samples("manifest.json", ["validation"]),
    "published curves": [*map(located, filter(None, [CONFIG.efficiency_overlay]))],
    "votes": [FILES.layout.outcomes],
}
with told():  # those that this configuration has the data for
    TABLES, FIGURES = (offered(k, CONFIG, FILES.layout) for k in ("tables", "figures"))
# What shows votes can be asked for before there are any, and then says so.
OF_VOTES = [n for n in names("figures") if "votes" in facts("figures", n)["NEEDS"]]
if CONFIG.partial and len(finished(STUDY_SAMPLES)) < len(STUDY_SAMPLES):
    FIGURES = [name for name in FIGURES if name not in OF_VOTES]
# Votes come from people: they speak where there are any.
READS["votes, if any"] = READS["votes"] if set(OF_VOTES) & set(FIGURES) else []
TABLE_FILES = [LAYOUT.rendered("table", name)[-1] for name in TABLES]
FIGURE_FILES = [LAYOUT.rendered("figure", name)[1] for name in FIGURES]
# One Slurm job draws all, one after the other; there they are single jobs, each a step of it.
TOGETHER = "render" if workflow.is_main_process else None
DRAWN = [
    *((n, "table") for n in TABLES),
    *((n, "figure") for n in dict.fromkeys([*FIGURES, *OF_VOTES])),
]
WORDS = {drawn: facts(f"{drawn[1]}s", drawn[0])["READS"] for drawn in DRAWN}
for (_name, _kind), _words in WORDS.items():
    if _unknown := set(_words) - set(READS):
        _known = ", ".join(READS)
        sys.exit(f"error: {_kind}s/{_name}.py: READS can be {_known}, not {min(_unknown)!r}")


for _name, _kind in DRAWN:

    rule:
        name:
            _name
        input:
            [file for word in WORDS[_name, _kind] for file in READS[word]],
        output:
            [
                report(
                    file,
                    caption="../report/drawing.rst",
                    category="Tables" if _kind == "table" else "Figures",
                    labels={"shows": _name, "as": file.suffix[1:]},
                )
                for file in LAYOUT.rendered(_kind, _name)
            ],
        log:
            LAYOUT.log("render", _name),
        benchmark:
            LAYOUT.benchmark("render", _name)
        group:
            TOGETHER
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=4000,
            runtime=10,
        params:
            config=shown_config(study=_name in OF_VOTES),
            kind=_kind,
            name=_name,
            title=lambda w, of=f"{_kind}s", name=_name: facts(of, name)["TITLE"],
            stem=subpath(output[0], strip_suffix=f".{LAYOUT.SUFFIXES[_kind][0]}"),
            code=render_code(_kind, _name, CONFIG),
        message:
            f"Rendering the {_kind} {_name}"
        shell:
            "printf '%s\\n' --config {params.config:q} > {log}.args;"
            ' exec python "$SCRIPTS/render.py" {params.kind} {params.name}'
            " @{log}.args --output {params.stem}"
            " --fingerprint {params.code} > {log} 2>&1"


rule claims:
    input:
        scores=samples("scores.csv"),
        published=main_scores("published.csv") if CONFIG.published else [],
        readouts=main_scores("readouts.csv"),
        snapshots=snapshot_scores(),
        histories=trained("history.csv"),
        gradients=FILES.gradient_files(),
        base_rewards=FILES.base_reward_files(),
        votes=READS["votes, if any"],
    output:
        json=LAYOUT.rendered("claims")[0],
        text=report(LAYOUT.rendered("claims")[1], caption="../report/claims.rst", category="Claims"),
    log:
        LAYOUT.log("render", "claims"),
    benchmark:
        LAYOUT.benchmark("render", "claims")
    group:
        TOGETHER
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        config=shown_config(study=True),
        stem=subpath(output.json, strip_suffix=".json"),
        code=render_code("claims", "claims", CONFIG),
    message:
        "Deciding the claims"
    shell:
        "printf '%s\\n' --config {params.config:q} > {log}.args;"
        ' exec python "$SCRIPTS/render.py" claims claims @{log}.args'
        " --output {params.stem} --fingerprint {params.code} > {log} 2>&1"


rule report:
    input:
        claims=rules.claims.output.json,
        tables=TABLE_FILES,
        figures=FIGURE_FILES,
        scores=main_scores(),
        readouts=main_scores("readouts.csv"),
        images=main_scores("index.jsonl"),
        manifests=trained("manifest.json"),
    output:
        report(LAYOUT.rendered("report")[0], caption="../report/report.rst", category="Report"),
    log:
        LAYOUT.log("render", "report"),
    benchmark:
        LAYOUT.benchmark("render", "report")
    group:
        TOGETHER
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        config=shown_config(study=True),
        stem=subpath(output[0], strip_suffix=".html"),
        code=render_code("report", "report", CONFIG),
    message:
        "Assembling the report"
    shell:
        "printf '%s\\n' --config {params.config:q} > {log}.args;"
        ' exec python "$SCRIPTS/render.py" report report @{log}.args'
        " --output {params.stem} --fingerprint {params.code} > {log} 2>&1"
