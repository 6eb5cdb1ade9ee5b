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
    threads: asked_threads("evaluate")
    priority: priority_of("evaluate", 5)
    group:
        with_others("evaluate", "quick")
    resources:
        mem_mb=asked("evaluate", "memory_mb"),
        runtime=asked("evaluate", "minutes"),
        gpu=asked_gpus("evaluate"),
        lane=1,
    shell:
        ON_THREADS + "{STAGE} evaluate " + RUN_ARGUMENT + " > {log:q} 2>&1"


# Claims all cores: nothing else runs while it measures. A cluster's profile asks for a whole node.
rule latency:
    input:
        inputs_of("latency"),
    output:
        multiext(f"results/{RUN}/latency/", "latency.json", "run.json"),
    params:
        digest=digest_of("latency"),
    log:
        f"logs/{RUN}/latency.log",
    threads: every_core
    group:
        with_others("latency", "timed")
    resources:
        mem_mb=asked("latency", "memory_mb"),
        runtime=asked("latency", "minutes"),
        machine=1,
    shell:
        "{STAGE} latency " + RUN_ARGUMENT + " > {log:q} 2>&1"


# What all methods deploy on one network of a paper, with random weights. Claims all cores, like `latency`.
rule deployment:
    output:
        f"results/{PLAN.scale_name}/deployments/{{network}}/threads{{used}}/process{{process}}.json",
    params:
        methods=",".join(PLAN.declarations),
        measured=PLAN.deployment_digest,
    log:
        f"logs/{PLAN.scale_name}/deployments/{{network}}_threads{{used}}_process{{process}}.log",
    threads: lambda wildcards: workflow.cores
    resources:
        mem_mb=8000,
        runtime=60,
    shell:
        "{STAGE} deployment {PLAN.scale_name} {wildcards.network} {wildcards.used} {wildcards.process}"
        " --methods {params.methods} > {log:q} 2>&1"
