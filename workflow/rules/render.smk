# Tables, figures and the report: one rule each, named after it. partial=true uses what exists.
# What a table or figure needs, reads and finds stands in its module: a new one is that file alone.

from rocm_core.plugins import facts, module_of, names

# What READS of a table or figure can name.
READS = {
    "scores": main_scores(),
    "scores at every step": samples("scores.csv", ["validation"]),
    "scores on every set": samples("scores.csv", every_step=False),
    "readouts": main_scores("readouts.csv"),
    "histories": trained("history.csv"),
    "manifests": trained("manifest.json"),
    "snapshots": monitored(),
    "prompts": shown_prompts(),
    "prompts of snapshots": shown_prompts({cell.monitored_on: None for cell in CELLS.values()}),
    "images": final_images(),
    "times": samples("manifest.json", ["validation"]),
    "published curves": [*filter(None, [CONFIG.efficiency_overlay])],
    "votes": [f"{RESULTS}/study/results.json"],
}
SUFFIXES = {"table": ("md", "tex", "csv"), "figure": ("pdf", "png", "csv")}
try:  # those that this configuration has the data for
    TABLES, FIGURES = tables(CONFIG), figures(CONFIG)
except UserError as error:
    sys.exit(f"error: {error}")
# What shows votes can be asked for before there are any, and then says so.
OF_VOTES = [n for n in names("figures") if "votes" in facts("figures", n)["NEEDS"]]
if CONFIG.partial and len(finished(STUDY_SAMPLES)) < len(STUDY_SAMPLES):
    FIGURES = [name for name in FIGURES if name not in OF_VOTES]
# Votes come from people: they speak where there are any.
READS["votes, if any"] = READS["votes"] if set(OF_VOTES) & set(FIGURES) else []
TABLE_FILES = [f"{RESULTS}/tables/{name}.csv" for name in TABLES]
FIGURE_FILES = [f"{RESULTS}/figures/{name}.png" for name in FIGURES]


def files_read(kind, name):
    """The files that a table or figure depends on."""
    words = facts(kind, name)["READS"]
    for word in set(words) - set(READS):
        sys.exit(f"error: {kind}/{name}.py: READS can be {', '.join(READS)}, not {word!r}")
    return [file for word in words for file in READS[word]]


def modules_of(kind, name):
    """The module of a table or figure, and those that it finds by name."""
    found = [module_of(of, n, of) for of in facts(kind, name)["FINDS"] for n in names(of)]
    return [module_of(kind, name, kind), *found]


for _name, _kind in [
    *((n, "table") for n in TABLES),
    *((n, "figure") for n in dict.fromkeys([*FIGURES, *OF_VOTES])),
]:

    rule:
        name:
            _name
        input:
            files_read(f"{_kind}s", _name),
        output:
            [
                report(
                    f"{RESULTS}/{_kind}s/{_name}.{suffix}",
                    caption="../report/drawing.rst",
                    category="Tables" if _kind == "table" else "Figures",
                    labels={"shows": _name, "as": suffix},
                )
                for suffix in SUFFIXES[_kind]
            ],
        log:
            f"{LOGS}/render/{_name}.log",
        benchmark:
            f"{BENCHMARKS}/render/{_name}.tsv"
        group:
            "render"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=4000,
            runtime=10,
        params:
            config=shown(study=_name in OF_VOTES),
            kind=_kind,
            name=_name,
            title=lambda w, of=f"{_kind}s", name=_name: facts(of, name)["TITLE"],
            stem=subpath(output[0], strip_suffix=f".{SUFFIXES[_kind][0]}"),
            code=code_fingerprint("workflow/scripts/render.py", *modules_of(f"{_kind}s", _name)),
        message:
            f"Rendering the {_kind} {_name}"
        shell:
            "exec python workflow/scripts/render.py {params.kind} {params.name}"
            " --config {params.config:q} --output {params.stem} > {log} 2>&1"


rule claims:
    input:
        scores=samples("scores.csv"),
        judged=main_scores("judged.csv") if CONFIG.judges else [],
        readouts=main_scores("readouts.csv"),
        monitored=monitored(),
        histories=trained("history.csv"),
        votes=READS["votes, if any"],
    output:
        json=f"{RESULTS}/claims.json",
        text=report(f"{RESULTS}/claims.md", caption="../report/claims.rst", category="Claims"),
    log:
        f"{LOGS}/render/claims.log",
    benchmark:
        f"{BENCHMARKS}/render/claims.tsv"
    group:
        "render"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        config=shown(study=True),
        stem=subpath(output.json, strip_suffix=".json"),
        code=code_fingerprint("workflow/scripts/render.py", "rocm_core.claims"),
    message:
        "Judging the claims"
    shell:
        "exec python workflow/scripts/render.py claims claims --config {params.config:q}"
        " --output {params.stem} > {log} 2>&1"


rule report:
    input:
        claims=rules.claims.output.json,
        tables=TABLE_FILES,
        figures=FIGURE_FILES,
        scores=main_scores(),
        readouts=main_scores("readouts.csv"),
        images=final_images(),
        manifests=trained("manifest.json"),
    output:
        report(f"{RESULTS}/report.html", caption="../report/report.rst", category="Report"),
    log:
        f"{LOGS}/render/report.log",
    benchmark:
        f"{BENCHMARKS}/render/report.tsv"
    group:
        "render"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        config=shown(study=True),
        stem=subpath(output[0], strip_suffix=".html"),
        code=code_fingerprint(
            "workflow/scripts/render.py",
            "rocm_core.report",
            *(module for name in TABLES for module in modules_of("tables", name)),
        ),
        page=weights_of("rocm_core/report/page.html.j2", "rocm_core/report/style.css"),
    message:
        "Assembling the report"
    shell:
        "exec python workflow/scripts/render.py report report --config {params.config:q}"
        " --output {params.stem} > {log} 2>&1"
