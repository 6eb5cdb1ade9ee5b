# Concurrent first connections race on MLflow's schema migration: the store exists before the first parallel job.
rule tracking:
    output:
        touch("results/tracking.ready"),
    log:
        "logs/tracking.log",
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    shell:
        "({STAGE} tracking) > {log:q} 2>&1"


# Training is tracked live; this logs the results of the stages that have no epochs.
rule tracked:
    input:
        results_of(PLAN.runs),
        "results/tracking.ready",
    output:
        touch(f"results/{PLAN.scale_name}/tracked"),
    log:
        f"logs/{PLAN.scale_name}/tracked.log",
    threads: 1
    resources:
        mem_mb=500,
        runtime=30,
    shell:
        "({STAGE} tracking) > {log:q} 2>&1"
