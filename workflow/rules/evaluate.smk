# Quality on the test data, params, MACs, bit-operations, stored bytes.
rule evaluate:
    input:
        inputs_of("evaluate"),
    output:
        multiext(f"results/{RUN}/evaluate/", "metrics.json", "run.json"),
    params:
        digest=digest_of("evaluate"),
    log:
        f"logs/{RUN}/evaluate.log",
    threads: 1
    priority: 5
    resources:
        mem_mb=2000,
        runtime=120,
    shell:
        "COMPRESSBENCH_THREADS={threads} OMP_NUM_THREADS={threads} {STAGE} evaluate " + RUN_ARGUMENT + " > {log:q} 2>&1"
