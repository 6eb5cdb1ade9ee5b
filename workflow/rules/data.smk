# What the plan reads of the data sets that nobody has to bring. Its output is named after the pin, not newer than it: data that
# are there as pinned are not asked for again.
rule data:
    output:
        list(DATA.values()),
    params:
        sets=",".join(DATA),
    log:
        "logs/data.log",
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    shell:
        "({STAGE} data --sets {params.sets} --record results/data) 2>&1 | tee {log:q}"
