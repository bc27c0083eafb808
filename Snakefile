# "ROCM: RLHF on consistency models", reproduced: prompts -> train -> evaluate -> render, per cell.
#   snakemake -n                              what the demo would do
#   snakemake --cores all                     do it
#   snakemake --profile slurm all             the paper's grid on a cluster
#   snakemake figures --config partial=true --cores 1     draw the cells that are finished
#
# Targets come before --configfile, --config and -R, which swallow what follows them.
import os

from snakemake.utils import min_version

min_version("9.0")
DEMO = "config/demo.yaml"

if not workflow.configfiles or not config:

    configfile: DEMO if os.path.exists(DEMO) else f"{workflow.current_basedir}/{DEMO}"


include: "workflow/rules/common.smk"
include: "workflow/rules/study.smk"
include: "workflow/rules/render.smk"


# Without the rules that make them, existing scores and cells are given: nothing but drawing starts.
if not CONFIG.partial:

    include: "workflow/rules/weights.smk"
    include: "workflow/rules/prompts.smk"
    include: "workflow/rules/search.smk"
    include: "workflow/rules/train.smk"
    include: "workflow/rules/evaluate.smk"
    include: "workflow/rules/snapshots.smk"
    include: "workflow/rules/gradients.smk"
    include: "workflow/rules/published.smk"
    include: "workflow/rules/world.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        rules.report.output,
        trained(),
        samples("scores.csv"),
        snapshot_scores(),
        finished([LAYOUT.scorer_agreement] if CONFIG.published else []),


rule prompts:
    input:
        shown_prompts(CONFIG.prompts),


rule train:
    input:
        trained(),


rule generate:
    input:
        samples("index.jsonl"),


rule score:
    input:
        samples("scores.csv"),
        snapshot_scores(),


rule tables:
    input:
        TABLE_FILES,


rule figures:
    input:
        FIGURE_FILES,
