# Images for methods without data, made against the dense model.
rule synthesize:
    input:
        inputs_of("synthesize"),
    output:
        multiext(f"results/{RUN}/synthesize/", "synthetic.safetensors", "synthetic.json", "history.csv", "record.json", "run.json"),
        report(
            f"results/{RUN}/synthesize/preview.png",
            caption="../report/synthetic.rst",
            category="Synthetic images",
            subcategory="{method}",
            labels={"setting": "{setting}", "seed": "{seed}"},
        ),
    params:
        digest=digest_of("synthesize"),
    log:
        f"logs/{RUN}/synthesize.log",
    benchmark:
        f"benchmarks/{RUN}/synthesize.tsv"
    threads: 1
    priority: 20
    resources:
        mem_mb=2000,
        runtime=1440,
    shell:
        "COMPRESSBENCH_THREADS={threads} OMP_NUM_THREADS={threads} {STAGE} synthesize " + RUN_ARGUMENT + " > {log:q} 2>&1"
