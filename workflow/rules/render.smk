# Tables, figures and the report: one rule each, named after it. partial=true uses what exists.


from rocm_core.figures import figures
from rocm_core.tables import tables

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
    "figure3": lambda: [LAYOUT.study.results],
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
TABLES, FIGURES = tables(CONFIG), figures(CONFIG)  # that this configuration has the data for
if CONFIG.partial and len(finished(STUDY_SAMPLES)) < len(STUDY_SAMPLES):
    FIGURES = [name for name in FIGURES if name != "figure3"]
TABLE_FILES = [LAYOUT.rendered("table", name)[-1] for name in TABLES]
FIGURE_FILES = [LAYOUT.rendered("figure", name)[1] for name in FIGURES]


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
                    file,
                    caption=f"../report/{_name}.rst",
                    category="Tables" if _kind == "table" else "Figures",
                    labels={"shows": _name, "as": file.suffix[1:]},
                )
                for file in LAYOUT.rendered(_kind, _name)
            ],
        log:
            LAYOUT.log("render", _name),
        benchmark:
            LAYOUT.benchmark("render", _name)
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
            stem=subpath(output[0], strip_suffix=f".{LAYOUT.SUFFIXES[_kind][0]}"),
            code=fingerprints.render_code(_kind, _name, CONFIG),
        message:
            f"Rendering the {_kind} {_name}"
        shell:
            "exec python workflow/scripts/render.py {params.kind} {params.name}"
            " --config {params.config:q} --output {params.stem}"
            " --fingerprint {params.code} > {log} 2>&1"


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
        json=LAYOUT.rendered("claims")[0],
        text=report(LAYOUT.rendered("claims")[1], caption="../report/claims.rst", category="Claims"),
    log:
        LAYOUT.log("render", "claims"),
    benchmark:
        LAYOUT.benchmark("render", "claims")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        config=shown(study=True),
        stem=subpath(output.json, strip_suffix=".json"),
        code=fingerprints.render_code("claims", "claims", CONFIG),
    message:
        "Judging the claims"
    shell:
        "exec python workflow/scripts/render.py claims claims --config {params.config:q}"
        " --output {params.stem} --fingerprint {params.code} > {log} 2>&1"


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
        report(LAYOUT.rendered("report")[0], caption="../report/report.rst", category="Report"),
    log:
        LAYOUT.log("render", "report"),
    benchmark:
        LAYOUT.benchmark("render", "report")
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        config=shown(study=True),
        stem=subpath(output[0], strip_suffix=".html"),
        code=fingerprints.render_code("report", "report", CONFIG, TABLES),
    message:
        "Assembling the report"
    shell:
        "exec python workflow/scripts/render.py report report --config {params.config:q}"
        " --output {params.stem} --fingerprint {params.code} > {log} 2>&1"
