# What the method trains after compression.
rule finetune:
    input:
        inputs_of("finetune"),
    output:
        multiext(f"results/{RUN}/finetune/", *MODEL_FILES, "history.csv", "record.json", "run.json"),
    params:
        digest=digest_of("finetune"),
    log:
        f"logs/{RUN}/finetune.log",
    benchmark:
        f"benchmarks/{RUN}/finetune.tsv"
    threads: 1
    priority: 10
    resources:
        mem_mb=2000,
        runtime=2880,
    shell:
        "COMPRESSBENCH_THREADS={threads} OMP_NUM_THREADS={threads} {STAGE} finetune " + RUN_ARGUMENT + " > {log:q} 2>&1"
