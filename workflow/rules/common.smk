# The plan comes from the library; here it only meets Snakemake. All configuration is validated before any job starts.
import os
import re
import shlex
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import RerunTrigger
from snakemake.utils import validate

sys.path.insert(0, str(Path(workflow.basedir)))

from compressbench import fork_server, processes, reporting, tracking
from compressbench.data import versioning
from compressbench.errors import UserError
from compressbench.files import write_text
from compressbench.plan import MODEL_FILES, Plan, Run, provenance

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


def report_arguments(out):
    names = {"methods": PLAN.declarations, "pairs": PLAN.pairs, "seeds": map(str, PLAN.seeds)}
    return " ".join(["report", PLAN.scale_name, shlex.quote(str(out)), *(f"--{k} {','.join(v)}" for k, v in names.items())])


COMMITTED_SEEDS = f"{PLAN.committed_report}/{reporting.SEEDS}" if PLAN.committed_report else None


def reported(name):
    """One output of the report stage, with its caption and its place in the Snakemake report."""
    about = reporting.describe(name)
    file = f"{OUT}/{name}"
    if file == COMMITTED_SEEDS:  # Snakemake removes the outputs of a job before it runs; the verdict has to see this one
        file = update(file)
    return report(file, caption=f"../report/{about.caption}", category=about.category, labels=about.labels)


REPORTS = [reported(name) for name in reporting.outputs(PLAN.runs, PLAN.declarations, PLAN.unlabelled)]


def one_of(names):
    return "|".join(sorted({re.escape(name) for name in names}))


wildcard_constraints:
    scale=one_of([PLAN.scale_name]),
    dataset=one_of(run.dataset for run in PLAN.runs),
    model=one_of(run.model for run in [*PLAN.runs, *PLAN.teachers]),
    method=one_of(PLAN.declarations),
    setting=one_of({run.setting for run in PLAN.runs} | {PLAN.synthesis_run(run).setting for run in PLAN.runs}),
    seed=r"\d+",


def run_of(wildcards):
    fields = {"method": "", "setting": ""} | dict(wildcards)
    return Run(**{**fields, "seed": int(fields["seed"])})


DATA = {name: f"results/data/{versioning.record_name(name, pinned)}" for name, pinned in PLAN.data.fetched.items()}

CHANGED = ".snakemake/compressbench/changed_configuration_or_data"  # newer than every result
if workflow.is_main_process:
    write_text(Path(CHANGED), f"{time.time_ns()}\n")


def inputs_of(stage):
    """The result files that a stage reads; where it has to run, also what it waits for, and why Snakemake should repeat it.

    run.json tells what made a result, for data as well and where Snakemake's own records are gone. No `ancient` files: Snakemake
    does not look at what lies behind a job that runs where these alone connect the two.
    """

    def files(wildcards):
        # The settings are there from now on. Of the set of inputs, run.json knows more than Snakemake's records do; and what a
        # killed run left half done is done again, whatever the command line says.
        workflow.dag_settings.rerun_triggers = set(workflow.dag_settings.rerun_triggers) - {RerunTrigger.INPUT}
        workflow.dag_settings.force_incomplete = True
        job = PLAN.job(run_of(wildcards), stage)
        read = [str(path) for path in job.paths]
        if provenance.is_current(Path(), job):
            return read
        return [*read, *([DATA[job.data]] if job.data in DATA else []), CHANGED]

    return files


def digest_of(stage):
    """Stands for everything that the stage reads."""
    return lambda wildcards: PLAN.job(run_of(wildcards), stage).digest


def results_of(runs):
    """What the report reads of these runs."""
    stages = {"evaluate": "metrics.json", "latency": "latency.json"}
    return [str(run.folder(s) / f) for run in runs for s, f in stages.items() if s in PLAN.stages(run)]
