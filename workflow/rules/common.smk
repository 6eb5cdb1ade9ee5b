# The plan comes from the library; here it only meets Snakemake. All configuration is validated before any job starts.
import functools
import os
import re
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import RerunTrigger
from snakemake.utils import validate

sys.path.insert(0, str(Path(workflow.basedir)))

from compressbench import fork_server, machine, processes, reporting, tracking
from compressbench.data import versioning
from compressbench.errors import UserError
from compressbench.files import write_json, write_text
from compressbench.plan import MODEL_FILES, Plan, Run, last_run_file, provenance, resources

os.environ["PYTHONUTF8"] = "1"  # jobs and what they call (DVC) read and write UTF-8 and such file names in every locale

config.setdefault("scale", "desk")
validate(config, "../schemas/config.schema.yaml")

try:
    PLAN = Plan(Path(), config["scale"], config.get("methods"), config.get("seeds"), config.get("pairs"))
    if workflow.is_main_process:
        processes.register(Path())
        PLAN.validate()
except UserError as error:
    raise WorkflowError(str(error)) from None

OUT = str(PLAN.report_folder)

STAGE = shlex.join([sys.executable, "-m", "compressbench"])
ON_THREADS = "COMPRESSBENCH_THREADS={threads} OMP_NUM_THREADS={threads} "
RUN = "{scale}/{dataset}/{model}/{method}/{setting}/seed{seed}"
RUN_ARGUMENT = "{wildcards.scale}/{wildcards.dataset}/{wildcards.model}/{wildcards.method}/{wildcards.setting}/seed{wildcards.seed}"
DENSE = "{scale}/{dataset}/{model}/pretrain/seed{seed}"
INCOMPLETE = f"results/{PLAN.scale_name}/incomplete_report"
FIRST = f"results/{PLAN.scale_name}/first_page"


def report_arguments(out):
    names = {"methods": PLAN.declarations, "pairs": PLAN.pairs, "seeds": map(str, PLAN.seeds)}
    return " ".join(["report", PLAN.scale_name, shlex.quote(str(out)), *(f"--{k} {','.join(v)}" for k, v in names.items())])


COMMITTED_SEEDS = f"{PLAN.committed_report}/{reporting.SEEDS}" if PLAN.committed_report else None


def reported(name):
    """One output of the report stage; what people look at has its caption and its place in the Snakemake report."""
    about = reporting.describe(name)
    file = f"{OUT}/{name}"
    if not about.shown:  # Snakemake removes the outputs of a job before it runs; the verdict has to see the committed seeds
        return update(file) if file == COMMITTED_SEEDS else file
    return report(file, caption=f"../report/{about.caption}", category=about.category, labels=about.labels)


DEPLOYMENT_FILES = (("tables", "csv"), ("tables", "md"), ("figures", "png"), ("figures", "svg"))

REPORTS = [reported(name) for name in reporting.outputs(PLAN.runs, PLAN.declarations, PLAN.unlabelled, PLAN.scale.multiples)]


def one_of(names):
    return "|".join(sorted({re.escape(name) for name in names}))


wildcard_constraints:
    scale=one_of([PLAN.scale_name]),
    dataset=one_of(run.dataset for run in PLAN.runs),
    model=one_of(run.model for run in [*PLAN.runs, *PLAN.teachers]),
    method=one_of(PLAN.declarations),
    setting=one_of({of(run).setting for run in PLAN.runs for of in (lambda run: run, PLAN.synthesis_run, PLAN.network_run)}),
    seed=r"\d+",


def run_of(wildcards):
    fields = {"method": "", "setting": ""} | dict(wildcards)
    return Run(**{**fields, "seed": int(fields["seed"])})


DATA = {name: f"results/data/{versioning.record_name(name, pinned)}" for name, pinned in PLAN.data.fetched.items()}

CHANGED = ".snakemake/compressbench/changed_configuration_or_data"  # newer than every result
if workflow.is_main_process:
    write_text(Path(CHANGED), f"{time.time_ns()}\n")


GROUPS = ("quick", "timed")  # of jobs that take seconds


@functools.cache
def settle():
    """Settings that are there only once the rules have been read: the first job that is looked at calls this."""
    # Of the set of inputs, run.json knows more than Snakemake's records do; and what a killed run left half done is done again,
    # whatever the command line says.
    workflow.dag_settings.rerun_triggers = set(workflow.dag_settings.rerun_triggers) - {RerunTrigger.INPUT}
    workflow.dag_settings.force_incomplete = True
    if workflow.is_main_process and workflow.executor_plugin and not workflow.dryrun:
        write_json(last_run_file(PLAN.scale_name), config)  # `make report` is about it
        if workflow.local_exec and "gpu" not in workflow.global_resources and (count := resources.gpus_here()):
            workflow.global_resources["gpu"] = count
    if workflow.remote_exec and workflow.group_settings.local_groupid != "local":  # jobs of seconds that share one of a cluster
        if workflow.local_exec:
            os.environ.update(fork_server.start())
        else:  # Slurm's step, which would start them component by component, with however many processors that takes
            workflow.group_settings.group_components = dict.fromkeys(GROUPS, sys.maxsize)
            workflow.global_resources["lane"] = int(os.environ.get("SLURM_CPUS_PER_TASK") or machine.usable_cores())
            workflow.global_resources["machine"] = 1


def inputs_of(stage):
    """The result files that a stage reads; where it has to run, also what it waits for, and why Snakemake should repeat it.

    run.json tells what made a result, for data as well and where Snakemake's own records are gone. No `ancient` files: Snakemake
    does not look at what lies behind a job that runs where these alone connect the two.
    """

    def files(wildcards):
        settle()
        job = PLAN.job(run_of(wildcards), stage)
        read = [str(path) for path in job.paths]
        if provenance.is_current(Path(), job):
            return read
        return [*read, *([DATA[job.data]] if job.data in DATA else []), CHANGED]

    return files


def digest_of(stage):
    """Stands for everything that the stage reads."""
    return lambda wildcards: PLAN.job(run_of(wildcards), stage).digest


@functools.cache
def resources_of(run, stage, attempt=1):
    return resources.of(PLAN.job(run, stage), attempt)


def asked(stage, name):
    """What the jobs of a stage ask for, by its name in `Resources`."""
    return lambda wildcards, attempt: getattr(resources_of(run_of(wildcards), stage, attempt), name)


def asked_gpus(stage):
    """None for none: Kubernetes takes a 0 for a GPU whose maker is not named."""
    return lambda wildcards: resources_of(run_of(wildcards), stage).gpus or None


def asked_threads(stage):
    return lambda wildcards: resources_of(run_of(wildcards), stage).threads


def every_core(wildcards):
    """All processors that Snakemake was given; in the job of a cluster, those of the job. One where nobody has said how many."""
    try:
        return workflow.cores
    except WorkflowError:
        return 1


AHEAD = 100  # more than the priority of any stage
FIRST_JOBS = {(run, stage) for run in PLAN.first_runs for stage in PLAN.stages(run) if stage != "latency"} | {
    (replace(run, method="", setting=""), "pretrain") for run in PLAN.first_runs
}


def priority_of(stage, priority):
    """Of the jobs of a stage; those that the first page needs come before all others."""
    return lambda wildcards: priority + AHEAD * ((run_of(wildcards), stage) in FIRST_JOBS)


def with_others(stage, name):
    """On a cluster, jobs of a stage that take seconds share one job of the cluster.

    Connected ones do by themselves; `group-components` in a profile says how many unconnected ones do, by `name`. Where
    pretraining takes longer, only those of one pair and seed do: others would wait for it as well.
    """

    def group(wildcards):
        run = run_of(wildcards)
        if workflow.dryrun or not resources_of(run, stage).is_quick:  # a plan lists single jobs
            return None
        if resources_of(replace(run, method="", setting=""), "pretrain").is_quick:
            return name
        together = f"{name}_{run.dataset}_{run.model}_seed{run.seed}"
        workflow.parent_groupids[together] = name
        return together

    return group


def results_of(runs):
    """What the report reads of these runs."""
    stages = {"evaluate": "metrics.json", "latency": "latency.json"}
    return [str(run.folder(s) / f) for run in runs for s, f in stages.items() if s in PLAN.stages(run)]
