# Its output is named after the pin, not newer than it: data that are there as pinned are not asked for again.
rule data:
    output:
        list(DATA.values()),
    log:
        "logs/data.log",
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    shell:
        "({STAGE} data --record results/data) 2>&1 | tee {log:q}"
