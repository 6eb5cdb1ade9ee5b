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
        "({STAGE} tracking) > {log} 2>&1"
