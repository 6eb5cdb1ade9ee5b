"""What a result file must hold to be read. Whatever else it holds stays as it is."""

from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError


class Shape(BaseModel):
    """Base: the keys that are read, with their types."""

    model_config = ConfigDict(extra="allow", strict=True)


class Scores(Shape):
    """Of one photograph."""

    psnr: float
    ssim: float


class Session(Shape):
    """One session of class-incremental learning."""

    draw: int
    session: int
    classes: int
    accuracy: float | None
    new: float | None
    old: float | None
    forgetting: float | None


class Quality(Shape):
    """What the task measured."""

    top1: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    images: dict[str, Scores] = {}
    sessions: list[Session] = []


class Metrics(Shape):
    """metrics.json of one network."""

    quality: Quality
    params: float | None = None
    weights: float | None = None
    kept_weights: float | None = None
    macs: float | None = None
    dense_macs: float | None = None
    bit_operations: float | None = None
    stored_bytes: float | None = None


class Point(Metrics):
    """Of one operating point."""

    label: str


class PointMetrics(Shape):
    """metrics.json of a model with operating points."""

    points: dict[str, Point]
    stored_bytes: float


class Times(Shape):
    """Milliseconds."""

    median: float


class Speedup(Times):
    """A ratio of medians with its confidence interval."""

    low: float
    high: float


class Comparison(Shape):
    """A network beside the dense one."""

    dense_ms: Times
    compressed_ms: Times
    speedup: Speedup


class Measurement(Comparison):
    """On one runtime."""

    runtime: str
    threads: int


class Throughput(Comparison):
    """At one batch size."""

    batch: int
    images: float


class Blocks(Shape):
    """Sums of the times of blocks against whole networks."""

    rank_correlation: float


class Latency(Shape):
    """latency.json of one network."""

    measurements: list[Measurement]
    throughput: list[Throughput] = []
    skipped: list[dict[str, str]] = []
    switching: dict[str, Times] = {}
    blocks: Blocks | None = None


class PointLatency(Shape):
    """latency.json of a model with operating points."""

    points: dict[str, Latency]
    switching: dict[str, Times] = {}
    blocks: Blocks | None = None


class StageRun(Shape):
    """run.json of a stage."""

    wall_seconds: float | None = None


class Count(Shape):
    """One published count, recomputed."""

    method: str
    model: str
    setting: str
    metric: str
    value: float


SHAPES: dict[str, TypeAdapter[Any]] = {
    "metrics.json": TypeAdapter(Metrics),
    "latency.json": TypeAdapter(Latency),
    "run.json": TypeAdapter(StageRun),
    "record.json": TypeAdapter(dict[str, Any]),
    "counts.json": TypeAdapter(list[Count]),
}
WITH_POINTS: dict[str, TypeAdapter[Any]] = {
    "metrics.json": TypeAdapter(PointMetrics),
    "latency.json": TypeAdapter(PointLatency),
}


def damage(name: str, content: Any) -> str:
    """What the content of the result file `name` lacks, or holds in another form; empty where it can be read."""
    points = isinstance(content, dict) and "points" in content
    shape = WITH_POINTS.get(name, SHAPES[name]) if points else SHAPES[name]
    try:
        shape.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    return ""
