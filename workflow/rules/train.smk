# One training job a cell. `exec` hands the job's signals to the trainer.


rule train_cell:
    input:
        prompts=f"{RESULTS}/prompts/train.jsonl",
        weights=ancient(
            lambda w: fetched(cell_of(w.cell).settings.model, cell_of(w.cell).settings.scorer)
        ),
    output:
        lora=f"{RESULTS}/cells/{{cell}}/lora.safetensors",
        history=f"{RESULTS}/cells/{{cell}}/history.csv",
        manifest=f"{RESULTS}/cells/{{cell}}/manifest.json",
        snapshots=directory(f"{RESULTS}/cells/{{cell}}/snapshots"),
    log:
        f"{LOGS}/train/{{cell}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{cell}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=MEMORY_MB,
        runtime=RUNTIME,
    params:
        settings=lambda w: to_json(cell_of(w.cell).settings),
        code=lambda w: grid.train_code(cell_of(w.cell).settings),
        weights=lambda w: weights_of(
            cell_of(w.cell).settings.model, cell_of(w.cell).settings.scorer
        ),
        state=lambda w, output: state_of(w.cell),
        folder=subpath(output.lora, parent=True),
    message:
        "Training {wildcards.cell}"
    shell:
        "exec python workflow/scripts/train.py --settings {params.settings:q}"
        " --prompts {input.prompts} --output {params.folder} --state {params.state}"
        " --fingerprint {params.code} > {log} 2>&1"
