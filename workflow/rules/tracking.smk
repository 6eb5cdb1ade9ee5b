# Training is tracked live; this logs the results of the stages that have no epochs.
rule tracked:
    input:
        results_of(PLAN.runs),
    output:
        touch(f"results/{PLAN.scale_name}/tracked"),
    log:
        f"logs/{PLAN.scale_name}/tracked.log",
    threads: 1
    resources:
        mem_mb=500,
        runtime=30,
    shell:
        "({STAGE} tracking --optional) > {log:q} 2>&1"
