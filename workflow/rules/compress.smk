# The method itself: from the dense model, or from scratch.
rule compress:
    input:
        inputs_of("compress"),
    output:
        multiext(f"results/{RUN}/compress/", *MODEL_FILES, "history.csv", "record.json", "run.json"),
    params:
        digest=digest_of("compress"),
    log:
        f"logs/{RUN}/compress.log",
    benchmark:
        f"benchmarks/{RUN}/compress.tsv"
    threads: 1
    priority: 10
    resources:
        mem_mb=2000,
        runtime=2880,
    shell:
        "COMPRESSBENCH_THREADS={threads} OMP_NUM_THREADS={threads} {STAGE} compress " + RUN_ARGUMENT + " > {log:q} 2>&1"
