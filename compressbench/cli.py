"""The command line: one sub-command per stage, each usable without Snakemake."""

import contextlib
import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressbench import environment
from compressbench.errors import UserError
from compressbench.files import FULL

if TYPE_CHECKING:
    from compressbench.plan import Plan

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="compressbench, stage by stage."
)
RunName = Annotated[str, typer.Argument(help="scale/dataset/model/method/setting/seedN")]
ROOT = Path()


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A sub-command, which needs a project: nothing is written or fetched elsewhere."""

    @app.command()
    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> None:
        environment.require_project(ROOT)
        function(*arguments, **options)

    return checked


def listed(text: str, option: str) -> list[str] | None:
    """The names of a comma-separated option; None where it is not given. UserError where it names nothing."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if text and not names:
        raise UserError(f"{option} names nothing; write names with commas between them, or leave it out.")
    return names or None


@command
def data(
    record: Annotated[
        Path | None, typer.Option(help="write a JSON file for each data set, with its hash, here")
    ] = None,
    sets: Annotated[
        str,
        typer.Option(help="only these, comma-separated; also those that are downloaded beside data/, such as cifar10"),
    ] = "",
    repin: Annotated[
        bool, typer.Option("--repin", help="for maintainers: make data.dvc pin what is in data/ now")
    ] = False,
) -> None:
    """Fetch what is missing in data/, compare it with data.dvc, and bring it into the DVC cache."""
    from compressbench.data import sources, versioning
    from compressbench.files import write_json

    if repin:
        typer.echo(versioning.repin(ROOT))
    hashes = sources.prepare(ROOT, listed(sets, "--sets"))
    for name, digest in hashes.items():
        typer.echo(f"{name}: {digest}")
        if record:
            write_json(record / versioning.record_name(name, digest), {name: digest})


@command
def rehearsal_data(folder: Path, classes: int = 20, train: int = 8, val: int = 2) -> None:
    """Write FOLDER in ImageNet's layout, cut from photographs: what reads ImageNet can be tried on it, without any download.

    TRAIN images of every class, VAL of the first twenty: the others show the same photographs.
    """
    from compressbench.data import photograph_folder

    if folder.exists():
        raise UserError(f"{folder} exists already; remove it, or name another folder.")
    images = photograph_folder.write(folder, classes, train, val)
    typer.echo(f"{folder}: {images} images of {classes} classes")


@command
def tracking(
    prepare: Annotated[str, typer.Option(help="only make the store and the experiment of this scale ready")] = "",
    optional: Annotated[
        bool, typer.Option("--optional", help="a store that cannot be used is a warning, not an error")
    ] = False,
) -> None:
    """Make MLflow's store, and log every finished result that it does not have yet."""
    from compressbench import tracking as mlflow

    try:
        if prepare:
            mlflow.prepare(ROOT, prepare)
        else:
            count = mlflow.synchronise(ROOT)
            typer.echo(f"{mlflow.uri(ROOT)}: {count.new} results logged; it has {count.present} of {count.finished}")
    except UserError as error:
        if not optional:
            raise
        logging.getLogger(__name__).warning("%s", error)


@command
def ui(scale: str = "desk", port: int = 5000) -> None:
    """Look at the results of a scale in MLflow."""
    from compressbench.tracking.ui import show

    sys.exit(show(ROOT, scale, port))


@command
def unlock() -> None:
    """Remove the locks that a killed Snakemake left in this folder, unless another one works in it: `make reproduce` does."""
    from compressbench import processes

    if processes.unlock(ROOT):
        typer.echo("removed the locks that a killed run left behind")


@command
def validate(scale: str) -> None:
    """Check every configuration of a scale: config/{scale}.yaml and all methods' config.yaml."""
    from compressbench.plan import Plan

    plan = Plan(ROOT, scale)
    plan.validate()
    typer.echo(f"{scale}: {len(plan.declarations)} methods, {len(plan.runs)} runs, all valid")


@command
def pretrain(scale: str, dataset: str, model: str, seed: int) -> None:
    """Train the dense model that all methods on (dataset, model, seed) share."""
    from compressbench.plan import Run
    from compressbench.stages.stages import run_stage

    run_stage(ROOT, Run(scale, dataset, model, "", "", seed), "pretrain")


def _stage(name: str, stage: str) -> None:
    from compressbench.config.discovery import declaration
    from compressbench.plan import parse_run

    run = parse_run(name)
    declared = declaration(ROOT, run.method)
    if run.setting not in declared.settings:
        known = ", ".join(declared.settings)
        raise UserError(f"unknown setting {run.setting!r} of {run.method}; its config.yaml has: {known}.")
    stages = [*declared.stages, "evaluate", "latency"]
    if stage not in stages:
        raise UserError(f"{run.method} has no stage {stage}; it has: {', '.join(stages)}.")

    from compressbench.stages.stages import run_stage

    run_stage(ROOT, run, stage)


@command
def synthesize(run: RunName) -> None:
    """Synthesize images against the dense model."""
    _stage(run, "synthesize")


@command
def compress(run: RunName) -> None:
    """Compress the dense model, or train a compressed one from scratch."""
    _stage(run, "compress")


@command
def finetune(run: RunName) -> None:
    """Fine-tune the compressed model."""
    _stage(run, "finetune")


@command
def evaluate(run: RunName) -> None:
    """Measure quality on the test data and count parameters, MACs, bit-operations and bytes."""
    _stage(run, "evaluate")


@command
def latency(run: RunName) -> None:
    """Measure milliseconds per image beside the dense model."""
    _stage(run, "latency")


@command
def export(
    run: RunName,
    form: Annotated[str, typer.Option("--format", help="onnx, or torch for PyTorch's ExportedProgram")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="default: results/RUN/export/model.onnx or model.pt2")] = None,
) -> None:
    """Write the compressed network of a run as a file that runs without this package, and check what it computes."""
    from compressbench.export.formats import FORMATS
    from compressbench.plan import parse_run
    from compressbench.stages.export import export_run

    if form not in FORMATS:
        raise UserError(f"--format {form} is unknown; known: {', '.join(FORMATS)}.")
    for sentence in export_run(ROOT, parse_run(run), form, out):
        typer.echo(sentence)


@command
def bench_kernels(out: Path = Path("reports"), networks: str = "") -> None:
    """Measure our kernels against the best dense forms, by layer, in sequence and end to end. NETWORKS is comma-separated."""
    from compressbench import machine
    from compressbench.reporting.kernels import write_kernels
    from compressbench.timing import benchmark, int8_benchmark

    names = listed(networks, "--networks") or list(benchmark.NETWORKS)
    frames = benchmark.measure(names) | {"int8": int8_benchmark.measure(names)}
    write_kernels(frames, ROOT / "methods/one_by_n/published.csv", machine.summary(), out)
    typer.echo((out / "tables/kernels.md").read_text(encoding="utf-8"))


@command
def deployment(scale: str, network: str, threads: int, process: int, methods: str = "") -> None:
    """Time what METHODS (comma-separated) deploy on NETWORK, in one of several processes that do the same.

    PROCESS 0 tries all runtimes; the others, from 1, measure again what was fastest there. More threads take the forms that
    were fastest with the least.
    """
    from compressbench import machine
    from compressbench.files import read_json, write_json
    from compressbench.plan import Plan
    from compressbench.timing import deployments

    plan = Plan(ROOT, scale, listed(methods, "--methods")).deployments
    chosen, wanted, before = plan.of(network, threads), plan.wanted, plan.before(network, threads, process)
    assert wanted is not None, "a plan with deployments has it"
    known = {"first" if process else "like": read_json(ROOT / before)} if before else {}
    machine.keep_freed_memory()
    found = deployments.measure(
        next(iter(chosen.values()))[0].network,
        chosen,
        wanted.runtimes,
        threads=threads,
        rounds=wanted.rounds,
        process=process,
        **known,
    )
    write_json(ROOT / plan.file(network, threads, process), found)


@command
def deployments_report(scale: str, out: Path, methods: str = "") -> None:
    """Write the table and the figure of all that `compressbench deployment` has timed at a scale."""
    from compressbench.config.discovery import discover
    from compressbench.plan import Plan
    from compressbench.reporting.deployments import write_deployments

    plan = Plan(ROOT, scale, listed(methods, "--methods")).deployments
    write_deployments([ROOT / file for file in plan.files], discover(ROOT), plan.report, out)


@command
def published_counts(file: Path, methods: str = "") -> None:
    """Recompute the published numbers that need no training. METHODS is comma-separated; default all."""
    from compressbench.config.discovery import discover
    from compressbench.stages.stages import write_published_counts

    write_published_counts(ROOT, listed(methods, "--methods") or list(discover(ROOT)), file)


def _plan(scale: str, methods: str, seeds: str, pairs: str) -> "Plan":
    from compressbench.plan import Plan

    return Plan(ROOT, scale, listed(methods, "--methods"), _seeds(seeds), listed(pairs, "--pairs"))


def _seeds(text: str) -> Any:
    return listed(text.strip(" []"), "--seeds")


@command
def report(
    scale: str,
    out: Annotated[Path | None, typer.Argument(help="default: the folder that report-folder prints")] = None,
    methods: str = "",
    seeds: str = "",
    pairs: str = "",
    figures: Annotated[bool, typer.Option("--figures/--without-figures", help="figures take most of the time")] = True,
) -> None:
    """Regenerate the tables and figures from the results, and compare them with the committed numbers.

    Works on incomplete results and names what is missing; reports/ alone is written from complete ones only.
    METHODS, SEEDS and PAIRS (dataset/model) are comma-separated; default all of the scale.
    """
    from compressbench import reporting
    from compressbench.plan import REPORTS
    from compressbench.reporting.headline import DEPLOYMENT_TABLES

    plan = _plan(scale, methods, seeds, pairs)
    folder = plan.report_folder if out is None else out
    complete = folder.resolve() == (ROOT / REPORTS).resolve()
    if complete and not plan.claims_reports:
        raise UserError(
            f"{folder} is about all methods and pairs of a scale with the seeds that it claims (report_seeds in "
            f"config/{scale}.yaml: {list(plan.scale.report_seeds) or 'none'}); report this run into another folder, by default "
            f"{plan.report_folder}."
        )
    files = reporting.write(
        ROOT / "results",
        scale,
        plan.runs,
        plan.declarations,
        ROOT / "methods",
        folder,
        timed=plan.timed,
        unlabelled=plan.unlabelled,
        multiples=plan.scale.multiples,
        committed=plan.committed_report,
        complete=complete,
        figures=figures,
        deployments=[place / f"tables/{name}.csv" for place in (folder, ROOT / REPORTS) for name in DEPLOYMENT_TABLES],
        obstacles=plan.obstacles(),
    )
    typer.echo((folder / "verdict.md").read_text(encoding="utf-8"))
    typer.echo(f"{folder}: {len(files)} files")


@command
def page(folder: Annotated[Path, typer.Argument(help="of a report, with its tables")] = Path("reports")) -> None:
    """Write FOLDER/index.html, the page to explore a report, from the tables in FOLDER: no results are needed."""
    typer.echo(_page(folder))


def _page(folder: Path) -> Path:
    from compressbench.config.discovery import discover
    from compressbench.plan import REPORTS
    from compressbench.reporting.page import what_was_found, write_page

    found = what_was_found(ROOT, folder) if folder.resolve() == (ROOT / REPORTS).resolve() else ""
    return write_page(folder, ROOT / "methods", discover(ROOT), found)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def snakemake(context: typer.Context) -> None:
    """Run Snakemake with the arguments that follow; one line says how far it is. Its own log stays in .snakemake/log."""
    from compressbench import progress

    environment.require_project(ROOT)
    progress.snakemake(context.args)


@command
def report_folder(
    scale: str,
    methods: str = "",
    seeds: str = "",
    pairs: str = "",
    last: Annotated[bool, typer.Option("--last", help="what is not given is as in the last run of this scale")] = False,
) -> None:
    """Where the report of a run goes: reports/ if it is the run that reports/ is about, else below results/."""
    from compressbench.plan import Plan, last_run

    said = last_run(ROOT, scale) if last else {}
    given = {"methods": listed(methods, "--methods"), "pairs": listed(pairs, "--pairs"), "seeds": _seeds(seeds)}
    typer.echo(Plan(ROOT, scale, **(said | {name: value for name, value in given.items() if value})).report_folder)


@command
def verdict(scale: str, methods: str = "", seeds: str = "", pairs: str = "") -> None:
    """Print the verdict of the last report of a run: which committed numbers are equal, and which are not."""
    page = _plan(scale, methods, seeds, pairs).report_folder / "verdict.md"
    if not page.exists():
        raise UserError(f"{page} does not exist; it comes with the report: compressbench report {scale}.")
    typer.echo(page.read_text(encoding="utf-8"))


@command
def quotes(reports: Path = Path("reports")) -> None:
    """Write the numbers that READMEs and docs/ quote from reports/tables anew, and pages with them; name claims that fail."""
    from compressbench.config.discovery import discover
    from compressbench.reporting.findings import findings, write_findings
    from compressbench.reporting.quotes import requote

    changed, failing = requote(ROOT, reports / "tables")
    write_findings(findings(ROOT / "methods", discover(ROOT)), reports)
    _page(reports)
    typer.echo("\n".join([*changed, f"{len(changed)} numbers changed"]))
    if failing:
        raise UserError("these claims do not hold in the tables; correct the sentences:\n" + "\n".join(failing))


def main() -> None:
    """Run the command line; a UserError, and a file that the system refuses, become one sentence and exit code 2."""
    environment.print_every_letter()
    try:
        logging.basicConfig(level=environment.log_level(), format="%(levelname)s %(name)s: %(message)s")
        app()
    except UserError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        if error.errno not in FULL:
            raise
        sys.exit(_fail("the disk is full; make room and start again: finished results are kept."))


def _fail(sentence: str) -> int:
    logging.getLogger(__name__).debug("where it was noticed:", exc_info=True)
    with contextlib.suppress(OSError):  # the log may be on the disk that is full
        print(f"error: {sentence}", file=sys.stderr)
    return 2
