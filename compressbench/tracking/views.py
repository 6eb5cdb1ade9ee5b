"""The start of MLflow's pages: an experiment of training runs, its description, and a predefined view."""

import json

KIND_TAG = "mlflow.experimentKind"
VIEW = "results"
COLUMNS = (
    "metrics.`quality`",
    "metrics.`stored_bytes`",
    "metrics.`macs`",
    "metrics.`speedup`",
    "tags.`method`",
    "tags.`level`",
    "tags.`model`",
    "tags.`seed`",
    "tags.`published`",
    "attributes.`Dataset`",
)
RUNS_ONLY = 'tags.kind = "run"'


def page(experiment: str) -> str:
    """The address of the ready-made view, below the server's: the runs without their stages, best quality first."""
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning"


def experiment_tags(experiment: str, scale: str) -> dict[str, str]:
    """What the experiment of a scale is tagged with."""
    state = {
        "searchFilter": RUNS_ONLY,
        "orderByKey": "metrics.`quality`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "columnOrder": ["attributes.`Run Name`", *COLUMNS],
        "columnWidths": {"attributes.`Run Name`": 300},
        "viewMaximized": True,
    }
    table = page(experiment).removeprefix("/")
    note = (
        f"All results of compressbench at {scale} scale. **A row is one network**: a method with one setting, trained with one "
        f"seed; its page links to its stages. [Best quality first]({table}), [as curves]({table}&compareRunsMode=CHART), "
        'or filter with `tags.method = "optg"`, `tags.model = "resnet_mini"`, `metrics.quality > 90`. The chart icon '
        "draws the curves of the rows whose eye is open; mark rows and press Compare to see them side by side. The switch at "
        "the upper left belongs at *Model training*.\n\n"
        "`quality`: test accuracy or agreement with the float network in %, or PSNR in dB. `stored_bytes`: the packed network. "
        "`speedup`: over the dense network, one thread, each where it is fastest. `published`: the paper's own nearest result."
    )
    return {
        KIND_TAG: "custom_model_development",
        "mlflow.experiment.primaryMetric.name": "quality",
        "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
        "mlflow.note.content": note,
        f"mlflow.sharedViewState.{VIEW}": json.dumps(state),
    }
