# Claims all cores: nothing else runs while it measures.
rule latency:
    input:
        inputs_of("latency"),
    output:
        multiext(f"results/{RUN}/latency/", "latency.json", "run.json"),
    params:
        digest=digest_of("latency"),
    log:
        f"logs/{RUN}/latency.log",
    threads: lambda wildcards: workflow.cores
    resources:
        mem_mb=2000,
        runtime=60,
    shell:
        "{STAGE} latency " + RUN_ARGUMENT + " > {log:q} 2>&1"
