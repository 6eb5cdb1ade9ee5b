# The dense model that every method on the same (dataset, model, seed) starts from.
rule pretrain:
    input:
        inputs_of("pretrain"),
    output:
        multiext(f"results/{DENSE}/", *MODEL_FILES, "history.csv", "run.json"),
    params:
        digest=digest_of("pretrain"),
    log:
        f"logs/{DENSE}.log",
    benchmark:
        f"benchmarks/{DENSE}.tsv"
    threads: 1
    priority: 30
    resources:
        mem_mb=2000,
        runtime=2880,
    shell:
        "COMPRESSBENCH_THREADS={threads} OMP_NUM_THREADS={threads} "
        "{STAGE} pretrain {wildcards.scale} {wildcards.dataset} {wildcards.model} {wildcards.seed} > {log:q} 2>&1"
