# compressbench: data -> pretrain -> (synthesize) -> compress -> (finetune) -> evaluate + latency -> report.
#
#   snakemake --cores all                              everything at desk scale
#   snakemake --cores all --config scale=smoke         the same DAG in minutes
#   snakemake --cores all optg                         one method (or: --config 'methods=[optg,snip]')
#   snakemake -n                                       the plan
import os

from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/methods.smk"


rule all:
    input:
        [rules.report.output, results_of(PLAN.runs), rules.tracked.output] if PLAN.runs else [],
        lambda wildcards: rules.deployments_report.output if PLAN.deployments.timed else [],
        rules.page.output if PLAN.runs or PLAN.claims_reports else [],
    default_target: True


# A page of what is finished after some minutes: `make reproduce` asks for this as well.
rule first:
    input:
        rules.first_page.output if PLAN.runs else [],


# What needs no node of a cluster runs where Snakemake does.
localrules:
    data,
    published_counts,
    report,
    deployments_report,
    page,
    first_page,
    tracked,
    all,
    first,


onstart:
    try:
        PLAN.data.check()  # here and not with the configuration: a plan can be looked at without the data
    except UserError as error:
        raise WorkflowError(str(error)) from None
    os.environ[provenance.VERSION_VARIABLE] = provenance.code_version(Path())
    if workflow.local_exec:
        os.environ |= fork_server.start()
    os.environ |= tracking.gate(PLAN.scale_name)
    # With every decision, Snakemake's limit of jobs per second leaves a timer that plans anew each second from then on: after
    # 300 jobs that took a third of a core. Jobs on this machine need no such limit.
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


onerror:
    # Some stage failed: report what there is, beside the last complete report, and name what is missing.
    if PLAN.runs:
        shell("{command}", command=f"{STAGE} {report_arguments(INCOMPLETE)} && {STAGE} page {INCOMPLETE}")
    shell("{command}", command=f"{STAGE} tracking --optional")
