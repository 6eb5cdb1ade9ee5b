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


# What all methods deploy on one network of a paper, with random weights. The first measurement of a network tries all runtimes,
# others repeat what was fastest there. Claims all cores, like `latency`.
rule deployment:
    input:
        lambda wildcards: PLAN.deployments.before(wildcards.network, int(wildcards.used), int(wildcards.process)) or [],
    output:
        f"results/{PLAN.scale_name}/deployments/{{network}}/threads{{used}}/process{{process}}.json",
    params:
        methods=lambda wildcards: ",".join(PLAN.deployments.of(wildcards.network, int(wildcards.used))),
        measured=lambda wildcards: PLAN.deployments.digest(wildcards.network, int(wildcards.used)),
    log:
        f"logs/{PLAN.scale_name}/deployments/{{network}}_threads{{used}}_process{{process}}.log",
    threads: every_core
    resources:
        mem_mb=8000,
        runtime=60,
        machine=1,
    shell:
        "{STAGE} deployment {PLAN.scale_name} {wildcards.network} {wildcards.used} {wildcards.process}"
        " --methods {params.methods} > {log:q} 2>&1"
