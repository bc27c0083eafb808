# Tables, figures and the report: one rule each, named after it. partial=true uses what exists.

from rocm_core.plugins import names

# What each one reads; the registries rocm_core.tables and rocm_core.figures say which there are.
READS = {
    "table1": main_scores,
    "table2": lambda: [*main_scores(), *trained("manifest.json")],
    "table3": lambda: [],
    "table4": main_scores,
    "sweep": main_scores,
    "costs": lambda: trained("history.csv"),
    "figure1": lambda: [*shown_prompts(), *final_images()],
    "figure2": lambda: [*shown_prompts(), *final_images()],
    "figure3": lambda: [f"{RESULTS}/study/results.json"],
    "figure4": lambda: [
        *main_scores(),
        *trained("manifest.json"),
        *(READS["figure3"]() if "figure3" in FIGURES else []),
    ],
    "figure5": lambda: [*trained("history.csv"), *trained("manifest.json")],
    "figure6": lambda: [
        *shown_prompts({cell.monitored_on: None for cell in CELLS.values()}),
        *monitored(),
    ],
    "readouts": lambda: [
        *main_scores("scores.csv", "readouts.csv"),
        *monitored(),
        *trained("history.csv"),
    ],
    "divergences": lambda: [],
    "samples": lambda: [*shown_prompts(), *final_images()],
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
# Code that a rendering finds by name, beside what it imports.
FINDS = dict.fromkeys(
    ["table3", "divergences"], [f"rocm_core.divergences.{n}" for n in names("divergences")]
)
SUFFIXES = {"table": ("md", "tex", "csv"), "figure": ("pdf", "png", "csv")}
TABLES, FIGURES = tables(CONFIG), figures(CONFIG)  # that this configuration has the data for
if CONFIG.partial and len(finished(STUDY_SAMPLES)) < len(STUDY_SAMPLES):
    FIGURES = [name for name in FIGURES if name != "figure3"]
TABLE_FILES = [f"{RESULTS}/tables/{name}.csv" for name in TABLES]
FIGURE_FILES = [f"{RESULTS}/figures/{name}.png" for name in FIGURES]


# Figure 3 can be asked for before there are votes, and then says so.
for _name, _kind in [
    *((n, "table") for n in TABLES),
    *((n, "figure") for n in dict.fromkeys([*FIGURES, "figure3"])),
]:

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
            config=shown(study=_name == "figure3"),
            kind=_kind,
            name=_name,
            stem=subpath(output[0], strip_suffix=f".{SUFFIXES[_kind][0]}"),
            code=code_fingerprint(
                "workflow/scripts/render.py",
                f"rocm_core.{_kind}s.{_name}",
                *FINDS.get(_name, []),
            ),
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
        # Votes come from people: they speak where there are any.
        votes=READS["figure3"]() if "figure3" in FIGURES else [],
    output:
        json=f"{RESULTS}/claims.json",
        text=report(f"{RESULTS}/claims.md", caption="../report/claims.rst", category="Claims"),
    log:
        f"{LOGS}/render/claims.log",
    benchmark:
        f"{BENCHMARKS}/render/claims.tsv"
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
            "rocm_core.report.build",
            *[f"rocm_core.tables.{name}" for name in TABLES],
            *(module for name in TABLES for module in FINDS.get(name, [])),
        ),
    message:
        "Assembling the report"
    shell:
        "exec python workflow/scripts/render.py report report --config {params.config:q}"
        " --output {params.stem} > {log} 2>&1"
