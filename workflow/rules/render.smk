# Tables, figures and the report: one rule each, named after it. partial=true uses what exists.

# What each one reads; the registries rocm_core.tables and rocm_core.figures say which there are.
READS = {
    "table1": main_scores,
    "table4": main_scores,
    "sweep": main_scores,
    "costs": lambda: trained("history.csv"),
    "samples": lambda: [
        *finished([f"{RESULTS}/prompts/validation.jsonl"]),
        *samples("index.jsonl", ["validation"], every_step=False),
    ],
    "training": monitored,
    "gold_vs_reward": monitored,
    "gold_vs_kl": monitored,
    "squared_distance": lambda: trained("history.csv"),
    "efficiency": lambda: [*trained("history.csv"), *filter(None, [CONFIG.efficiency_overlay])],
    "horizon": lambda: trained("history.csv"),
    "inference_time": lambda: [
        *samples("scores.csv", ["validation"]),
        *samples("manifest.json", ["validation"]),
    ],
    "generalisation": lambda: samples("scores.csv", every_step=False),
}
SUFFIXES = {"table": ("md", "tex", "csv"), "figure": ("pdf", "png", "csv")}
TABLES, FIGURES = tables(CONFIG), figures(CONFIG)  # that this configuration has the data for
TABLE_FILES = [f"{RESULTS}/tables/{name}.csv" for name in TABLES]
FIGURE_FILES = [f"{RESULTS}/figures/{name}.png" for name in FIGURES]
# A rendering depends on the configuration, but not on what its jobs ask of the machine or the hub.
# It may hold braces, of a template: in `params` only a function keeps them from being wildcards.
SHOWN = json.dumps(
    {k: config[k] for k in sorted(config) if k not in ("resources", "weights")}, sort_keys=True
)


for _name, _kind in [*((n, "table") for n in TABLES), *((n, "figure") for n in FIGURES)]:

    rule:
        name:
            _name
        input:
            READS[_name](),
        output:
            [
                report(
                    f"{RESULTS}/{_kind}s/{_name}.{suffix}",
                    caption=f"../report/{_name}.rst",
                    category="Tables" if _kind == "table" else "Figures",
                    labels={"shows": _name, "as": suffix},
                )
                for suffix in SUFFIXES[_kind]
            ],
        log:
            f"{LOGS}/render/{_name}.log",
        benchmark:
            f"{BENCHMARKS}/render/{_name}.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=4000,
            runtime=10,
        params:
            config=lambda w: SHOWN,
            kind=_kind,
            name=_name,
            stem=subpath(output[0], strip_suffix=f".{SUFFIXES[_kind][0]}"),
            code=code_fingerprint("workflow/scripts/render.py", f"rocm_core.{_kind}s.{_name}"),
        message:
            f"Rendering the {_kind} {_name}"
        shell:
            "exec python workflow/scripts/render.py {params.kind} {params.name}"
            " --config {params.config:q} --output {params.stem} > {log} 2>&1"


rule report:
    input:
        tables=TABLE_FILES,
        figures=FIGURE_FILES,
        scores=main_scores(),
        manifests=trained("manifest.json"),
    output:
        report(f"{RESULTS}/report.html", caption="../report/report.rst", category="Report"),
    log:
        f"{LOGS}/render/report.log",
    benchmark:
        f"{BENCHMARKS}/render/report.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        config=lambda w: SHOWN,
        stem=subpath(output[0], strip_suffix=".html"),
        code=code_fingerprint(
            "workflow/scripts/render.py",
            "rocm_core.report",
            *[f"rocm_core.tables.{name}" for name in TABLES],
        ),
    message:
        "Assembling the report"
    shell:
        "exec python workflow/scripts/render.py report report --config {params.config:q}"
        " --output {params.stem} > {log} 2>&1"
