rule data:
    input:
        "data.dvc",
    output:
        "results/data.json",
    log:
        "logs/data.log",
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    shell:
        "({STAGE} data --record {output:q}) 2>&1 | tee {log:q}"
