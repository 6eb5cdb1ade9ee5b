# The numbers of the papers that need no training, recomputed from the architectures.
rule published_counts:
    output:
        f"results/{PLAN.scale_name}/counts.json",
    params:
        methods=",".join(PLAN.declarations),
    log:
        f"logs/{PLAN.scale_name}/counts.log",
    threads: 1
    priority: 40
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "OMP_NUM_THREADS={threads} {STAGE} published-counts {output:q} --methods {params.methods} > {log:q} 2>&1"


# Tables and figures out of the result files, every one of them in the Snakemake report.
rule report:
    input:
        results_of(PLAN.runs),
        counts=rules.published_counts.output,
        deployed=lambda wildcards: rules.deployments_report.output if PLAN.deployments.timed else [],
        documents=[str(path) for path in PLAN.documents()],
        committed=[f for f in [COMMITTED_SEEDS] if f and not PLAN.claims_reports and Path(f).exists()],
    output:
        REPORTS,
    params:
        arguments=report_arguments(OUT),
    log:
        f"logs/{PLAN.scale_name}/report.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "{STAGE} {params.arguments} > {log:q} 2>&1"


# A page of whatever is finished, once a few runs are.
rule first_page:
    input:
        [f"{run.folder('evaluate')}/metrics.json" for run in PLAN.first_runs],
    output:
        f"{FIRST}/index.html",
    params:
        arguments=report_arguments(FIRST),
        folder=FIRST,
    log:
        f"logs/{PLAN.scale_name}/first_page.log",
    threads: 1
    priority: AHEAD
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "({STAGE} {params.arguments} --without-figures && {STAGE} page {params.folder:q}) > {log:q} 2>&1"


# Time at the papers' own sizes.
rule deployments_report:
    input:
        lambda wildcards: [str(file) for file in PLAN.deployments.files],
    output:
        [reported(f"{kind}/{PLAN.deployments.report}.{form}") for kind, form in DEPLOYMENT_FILES],
    params:
        arguments=f"{PLAN.scale_name} {shlex.quote(OUT)} --methods {','.join(PLAN.declarations)}",
    log:
        f"logs/{PLAN.scale_name}/deployments_report.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "{STAGE} deployments-report {params.arguments} > {log:q} 2>&1"


# One page to explore all of it.
rule page:
    input:
        REPORTS if PLAN.runs else [],
        lambda wildcards: rules.deployments_report.output if PLAN.deployments.timed else [],
        documents=[str(path) for path in PLAN.documents()],
    output:
        reported(reporting.PAGE),
    params:
        folder=OUT,
    log:
        f"logs/{PLAN.scale_name}/page.log",
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "{STAGE} page {params.folder:q} > {log:q} 2>&1"


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
        mem_mb=1000,
        runtime=30,
    shell:
        "({STAGE} tracking --optional) > {log:q} 2>&1"
