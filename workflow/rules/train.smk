# The dense model that every method on the same (dataset, model, seed) starts from.
rule pretrain:
    input:
        inputs_of("pretrain"),
    output:
        multiext(f"results/{DENSE}/", *MODEL_FILES, "history.csv", "run.json"),
    params:
        digest=digest_of("pretrain"),
    log:
        f"logs/{DENSE}.log",
    benchmark:
        f"benchmarks/{DENSE}.tsv"
    threads: asked_threads("pretrain")
    priority: priority_of("pretrain", 30)
    group:
        with_others("pretrain", "quick")
    resources:
        mem_mb=asked("pretrain", "memory_mb"),
        runtime=asked("pretrain", "minutes"),
        gpu=asked_gpus("pretrain"),
        lane=1,
    shell:
        ON_THREADS + "{STAGE} pretrain {wildcards.scale} {wildcards.dataset} {wildcards.model} {wildcards.seed} > {log:q} 2>&1"


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
    threads: asked_threads("synthesize")
    priority: priority_of("synthesize", 20)
    group:
        with_others("synthesize", "quick")
    resources:
        mem_mb=asked("synthesize", "memory_mb"),
        runtime=asked("synthesize", "minutes"),
        gpu=asked_gpus("synthesize"),
        lane=1,
    shell:
        ON_THREADS + "{STAGE} synthesize " + RUN_ARGUMENT + " > {log:q} 2>&1"


# The method itself: from the dense model, or from scratch.
rule compress:
    input:
        inputs_of("compress"),
    output:
        multiext(f"results/{RUN}/compress/", *MODEL_FILES, "history.csv", "record.json", "run.json"),
    params:
        digest=digest_of("compress"),
    log:
        f"logs/{RUN}/compress.log",
    benchmark:
        f"benchmarks/{RUN}/compress.tsv"
    threads: asked_threads("compress")
    priority: priority_of("compress", 10)
    group:
        with_others("compress", "quick")
    resources:
        mem_mb=asked("compress", "memory_mb"),
        runtime=asked("compress", "minutes"),
        gpu=asked_gpus("compress"),
        lane=1,
    shell:
        ON_THREADS + "{STAGE} compress " + RUN_ARGUMENT + " > {log:q} 2>&1"


# What the method trains after compression.
rule finetune:
    input:
        inputs_of("finetune"),
    output:
        multiext(f"results/{RUN}/finetune/", *MODEL_FILES, "history.csv", "record.json", "run.json"),
    params:
        digest=digest_of("finetune"),
    log:
        f"logs/{RUN}/finetune.log",
    benchmark:
        f"benchmarks/{RUN}/finetune.tsv"
    threads: asked_threads("finetune")
    priority: priority_of("finetune", 10)
    group:
        with_others("finetune", "quick")
    resources:
        mem_mb=asked("finetune", "memory_mb"),
        runtime=asked("finetune", "minutes"),
        gpu=asked_gpus("finetune"),
        lane=1,
    shell:
        ON_THREADS + "{STAGE} finetune " + RUN_ARGUMENT + " > {log:q} 2>&1"
