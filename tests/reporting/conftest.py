"""A results tree as the stages would write it: five groups, two seeds; the numbers are drawn, not trained."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from compressbench.config import Declaration
from compressbench.plan import Run
from compressbench.reporting import write

SEEDS = (0, 1)
RESNET, PLAIN, RESNET8, THIN, EDSR = (
    "fashion_mnist/resnet_mini",
    "fashion_mnist/plain_mini",
    "fashion_mnist/resnet8",
    "fashion_mnist/resnet8_thin",
    "photographs/edsr_mini",
)
COMPARISONS = {
    "sparse": RESNET, "blocks": PLAIN, "quantization": RESNET8, "distillation": THIN, "super_resolution": EDSR
}  # fmt: skip
SPARSITIES = {"p95": {"level": {"sparsity": 0.95}}, "p98": {"level": {"sparsity": 0.98}}}
BLOCKS = {
    f"{name}_p{percent}": {"level": {"sparsity": percent / 100}, "variant": variant}
    for percent in (75, 90)
    for name, variant in (("n4", "1×4"), ("n16", "1×16"), ("n16_plain", "1×16 plain"))
}
FILTERS = {"p75": {"level": {"sparsity": 0.75}}, "p90": {"level": {"sparsity": 0.9}}}
WIDTHS = {"w4a4": {"level": {"bits": [4, 4]}}, "w3a3": {"level": {"bits": [3, 3]}}}
UNCHANGED = {"unchanged": {"level": {"macs_reduction": 0}}}
BITS = {f"b{bits}": {"level": {"bits": [bits, bits]}} for bits in (4, 3, 2)}
# name: (title, family, baseline, pairs, settings, loss of quality at the last setting)
METHODS = {
    "optg": ("OptG: gradient-driven sparsity", "unstructured", False, [RESNET], SPARSITIES, 9.5),
    "gradual_magnitude": ("Gradual magnitude", "unstructured", True, [RESNET], SPARSITIES, 2.1),
    "snip": ("SNIP", "unstructured", True, [RESNET], SPARSITIES, 5.0),
    "random": ("Random", "unstructured", True, [RESNET], SPARSITIES, 31.0),
    "magnitude": ("Magnitude, one shot", "unstructured", True, [RESNET, PLAIN], SPARSITIES | FILTERS, 2.5),
    "one_by_n": ("1×N pattern", "block", False, [PLAIN], BLOCKS, 5.5),
    "random_blocks": (
        "Random blocks",
        "block",
        True,
        [PLAIN],
        {k: v for k, v in BLOCKS.items() if "plain" not in k},
        8.5,
    ),
    "l1_filter": ("L1 filters", "filter", True, [PLAIN], FILTERS, 11.0),
    "intraq": (
        "IntraQ",
        "quantization",
        False,
        [RESNET8],
        WIDTHS | {"w4a4_bnloss": WIDTHS["w4a4"] | {"variant": "BN loss only"}},
        4.0,
    ),
    "minmax": ("MinMax PTQ", "quantization", True, [RESNET8, EDSR], WIDTHS | BITS, 17.0),
    "lsq": ("LSQ", "quantization", True, [RESNET8, EDSR], WIDTHS | BITS, 2.2),
    "ddtb": ("DDTB", "super_resolution", False, [EDSR], BITS, 1.3),
    "ffsd": ("FFSD", "distillation", False, [THIN], UNCHANGED, -0.4),
    "mutual_learning": ("Mutual learning", "distillation", True, [THIN], UNCHANGED, 0.3),
    "teacher": (
        "Knowledge distillation",
        "distillation",
        True,
        [THIN],
        UNCHANGED | {"unchanged_half": UNCHANGED["unchanged"] | {"variant": "λ 0.5"}},
        0.1,
    ),
    "bicubic": ("Bicubic", "super_resolution", True, [EDSR], {"default": {}}, 1.2),
    "dense": ("Dense", "dense", True, [RESNET, PLAIN, RESNET8, THIN, EDSR], {"default": {}}, 0.0),
}
SETTINGS_ON = {
    RESNET: set(SPARSITIES),
    PLAIN: set(BLOCKS) | set(FILTERS),
    RESNET8: {*WIDTHS, "w4a4_bnloss"},
    THIN: {*UNCHANGED, "unchanged_half"},
    EDSR: set(BITS),
}
DENSE = {
    RESNET: (90.4, 74_512, 4.1e6),
    PLAIN: (90.2, 70_154, 2.9e6),
    RESNET8: (91.0, 78_042, 12.5e6),
    THIN: (86.3, 19_436, 2.4e6),
    EDSR: (32.4, 31_043, 1.9e9),
}


def declare(name: str) -> Declaration:
    """The declaration of one of METHODS."""
    title, family, baseline, pairs, settings, _ = METHODS[name]
    task = ["super_resolution" if p == EDSR else "classification" for p in pairs]
    content = {
        "title": title,
        "paper": f"arXiv 0000.00000 ({name})",
        "family": family,
        "task": sorted(set(task)),
        "starts_from": "dense",
        "stages": ["synthesize", "compress", "finetune"] if name == "intraq" else ["compress", "finetune"],
        "settings": settings,
        "scales": {
            "desk": {
                "runs": {
                    comparison: [s for s in settings if s in SETTINGS_ON[pair] | {"default"}]
                    for comparison, pair in COMPARISONS.items()
                    if pair in pairs
                }
            }
        },
    }
    package = f"methods.baselines.{name}" if baseline else f"methods.{name}"
    return Declaration.model_validate(content).model_copy(update={"package": package})


def all_runs(declarations: dict[str, Declaration]) -> list[Run]:
    """The runs of the desk scale."""
    return [
        Run("desk", *COMPARISONS[comparison].split("/"), name, setting, seed)
        for name, declared in declarations.items()
        for comparison, settings in declared.scales["desk"].runs.items()
        for setting in settings
        for seed in SEEDS
    ]


def strength(setting: str) -> tuple[float, float]:
    """(density, bits) of a setting."""
    tokens = setting.split("_")
    removed = next((int(t[1:]) / 100 for t in tokens if t[0] == "p" and t[1:].isdigit()), 0.0)
    bits = next((int(t[1]) for t in tokens if t[0] in "wb" and t[1:2].isdigit()), 32)
    return 1 - removed, bits


def write_run(root: Path, run: Run) -> None:
    """Every result file of one run."""
    rng = np.random.default_rng([run.seed, *map(ord, run.name)])
    quality, weights, macs = DENSE[run.pair]
    density, bits = strength(run.setting)
    loss = METHODS[run.method][5] * {"p95": 0.35, "p75": 0.4, "w4a4": 0.3, "b4": 0.25, "b3": 0.5}.get(
        run.setting.split("_")[-1], 1.0
    )
    loss *= 1.25 if "plain" in run.setting or "bnloss" in run.setting else 1.1 if "n16" in run.setting else 1.0
    scatter = 0.02 if run.pair == EDSR else 0.15
    final = quality - loss + rng.normal(0, scatter) if run.method != "bicubic" else 31.31
    structured = METHODS[run.method][1] == "filter"
    scores = {"psnr": final, "ssim": 0.93} if run.pair == EDSR else {"top1": final}
    if run.pair == EDSR:
        scores["images"] = {
            n: {"psnr": final + d, "ssim": 0.9} for n, d in (("astronaut", 0.5), ("chelsea", -0.2), ("coffee", 0.8))
        }
        write_crops(root / run.folder("evaluate").relative_to("results") / "images", rng, loss)
    kept = round(weights * density)
    exists = run.method != "bicubic"
    save(
        root,
        run,
        "evaluate",
        "metrics.json",
        {
            "quality": scores,
            "params": exists * (kept + 500 if structured else weights + 500),
            "weights": exists * (kept if structured else weights),
            "kept_weights": exists * kept,
            "macs": exists * macs * density**0.9,
            "dense_macs": macs,
            "bit_operations": exists * macs * density**0.9 * bits**2,
            "stored_bytes": exists * (kept * bits / 8 + (0 if structured or density == 1 else weights / 8) + 2_000),
        },
    )
    for stage, seconds in (("compress", 0.05), ("finetune", 12 + run.seed)):
        save(root, run, stage, "run.json", {"wall_seconds": seconds})
    write_latency(root, run, density, structured, rng)
    if run.method not in ("minmax", "bicubic"):
        write_history(root, run, final, rng)
    if run.method == "intraq":
        write_synthetic(root, run, rng)
    if run.pair == RESNET and run.method != "dense":
        write_masks(root, run, density, rng)


def save(root: Path, run: Run, stage: str, name: str, content: object) -> None:
    """A JSON file in a stage folder."""
    path = root / run.folder(stage).relative_to("results") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_latency(root: Path, run: Run, density: float, structured: bool, rng: np.random.Generator) -> None:
    measurements = []
    for runtime, dense_ms, gain in (
        ("torch_eager", 0.62, 0.0),
        ("onnxruntime", 0.21, 0.1),
        ("compressbench", 0.24, 0.75),
    ):
        if runtime == "compressbench" and "n4" not in run.setting and "n16" not in run.setting:
            continue
        for threads in (1, 2):
            speedup = density ** -(0.8 if structured else gain) * (0.97 + 0.05 * rng.random())
            measurements.append(
                {
                    "runtime": runtime,
                    "threads": threads,
                    "library": f"{runtime} 1.0",
                    "isa": "AVX2",
                    "rounds": 50,
                    "dense_ms": {"median": dense_ms / threads**0.3, "minimum": dense_ms * 0.9},
                    "compressed_ms": {"median": dense_ms / speedup / threads**0.3, "minimum": dense_ms * 0.9 / speedup},
                    "speedup": {"median": speedup, "low": speedup * 0.96, "high": speedup * 1.05},
                }
            )
    skipped = (
        [] if len(measurements) > 4 else [{"runtime": "compressbench", "reason": "the model has no block-sparse layer"}]
    )
    save(
        root,
        run,
        "latency",
        "latency.json",
        {"batch": 1, "input_shape": [1, 1, 28, 28], "machine": {}, "measurements": measurements, "skipped": skipped},
    )


def write_history(root: Path, run: Run, final: float, rng: np.random.Generator) -> None:
    epochs = 40 if run.method == "optg" else 8
    column = "validation_psnr" if run.pair == EDSR else "validation_top1"
    beside = {"ffsd": ("students", "fusion", "ensemble"), "mutual_learning": ("students", "ensemble")}.get(
        run.method, ()
    )
    lines = [",".join(["epoch,loss,lr,steps", column, *(f"validation_top1_{name}" for name in beside)])]
    for epoch in range(epochs):
        rest = math.exp(-4 * (epoch + 1) / epochs)
        loss = 0.3 + (95 - min(final, 95)) / 60 + 1.5 * rest + rng.normal(0, 0.01)
        quality = final * (1 - 0.3 * rest) + 0.3
        others = "".join(f",{quality + (-0.5, 0.2, 0.6)[i] * (1 + 4 * rest)}" for i in range(len(beside)))
        lines.append(f"{epoch},{loss},0.1,{100 * (epoch + 1)},{quality}{others}")
    stage = "pretrain" if run.pair == THIN and run.method == "dense" else "finetune"
    folder = root / run.folder(stage).relative_to("results")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_synthetic(root: Path, run: Run, rng: np.random.Generator) -> None:
    from safetensors.numpy import save_file

    labels = np.repeat(np.arange(10), 8)
    y, x = np.mgrid[0:28, 0:28] / 28
    waves = [
        np.sin((c + 2) * x * 3 + rng.normal(0, 1)) * np.cos((c % 4 + 1) * y * 4 + rng.normal(0, 1)) for c in labels
    ]
    folder = root / run.folder("synthesize").relative_to("results")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {"images": np.stack(waves)[:, None].astype(np.float32), "labels": labels.astype(np.int64)},
        folder / "synthetic.safetensors",
    )
    save(root, run, "synthesize", "record.json", {"diversity_within_class": 0.4 + 0.1 * run.seed, "seconds": 12.5})
    distances = {"synthetic": [*rng.uniform(0.01, 0.02, 9), None], "real": list(rng.uniform(0.03, 0.04, 10))}
    save(root, run, "synthesize", "synthetic.json", {"distance_within_class": distances})


def write_masks(root: Path, run: Run, density: float, rng: np.random.Generator) -> None:
    """A stored model whose kept weights are drawn at random."""
    from safetensors.numpy import save_file

    masks = {f"{name}.mask": rng.random((16, size)) < density for name, size in (("conv1", 9), ("conv2", 144))}
    folder = root / run.folder("finetune").relative_to("results")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(masks | {"conv1.weight": np.zeros((16, 9), np.float32)}, folder / "model.safetensors")


def write_crops(folder: Path, rng: np.random.Generator, blur: float) -> None:
    from PIL import Image, ImageFilter

    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(("astronaut", "chelsea", "coffee")):
        y, x = np.mgrid[0:96, 0:96] / 96.0
        rings = 127 + 120 * np.sin(40 * np.hypot(x - 0.3 * i, y - 0.5))
        original = Image.fromarray(np.stack([rings, rings * x, 255 - rings * y], -1).clip(0, 255).astype(np.uint8))
        original.save(folder / f"{name}_hr.png")
        original.filter(ImageFilter.GaussianBlur(2)).save(folder / f"{name}_bicubic.png")
        original.filter(ImageFilter.GaussianBlur(blur + 0.3)).save(folder / f"{name}_sr.png")


def write_methods(root: Path) -> None:
    """READMEs and published numbers of two methods."""
    optg = root / "optg"
    optg.mkdir(parents=True)
    (optg / "README.md").write_text(
        "# OptG\n\nWhat it does.\n\n## What reproducing it taught us\n\n"
        "Masks collapse when re-ranked **once per epoch**.\n\n"
        "| run | top-1 |\n|---|---|\n| once | 17.1 |\n\n## References\n\nNot a finding.\n",
        encoding="utf-8",
    )
    (optg / "published.csv").write_text(
        "dataset,model,setting,metric,value,source\nImageNet,ResNet-50,dense,top1,77.01,README\nImageNet,ResNet-50,p95,top1,72.45,README\n"
        "ImageNet,ResNet-50,p98,top1,67.20,README\nImageNet,ResNet-50,dense,macs,4089e6,README\nImageNet,ResNet-50,p95,macs,221e6,README\n",
        encoding="utf-8",
    )


COUNTS = [
    {"method": "optg", "model": "ResNet-50", "setting": "dense", "metric": "macs", "value": 4_089_184_256},
    {"method": "optg", "model": "ResNet-50", "setting": "p95", "metric": "macs", "value": 204_459_212},
    {"method": "intraq", "model": "ResNet-20", "setting": "w4a4", "metric": "size_ratio", "value": 7.6878},
]


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Results, methods folder, plan, and the written report."""
    root = tmp_path_factory.mktemp("project")
    declarations = {name: declare(name) for name in METHODS}
    runs = all_runs(declarations)
    for run in runs:
        write_run(root / "results", run)
    (root / "results" / "desk" / "counts.json").write_text(json.dumps(COUNTS), encoding="utf-8")
    write_methods(root / "methods")
    written = write(root / "results", "desk", runs, declarations, root / "methods", root / "reports")
    return SimpleNamespace(
        root=root, results=root / "results", runs=runs, declarations=declarations, out=root / "reports", written=written
    )


@pytest.fixture(scope="module")
def chosen(report: SimpleNamespace) -> list:
    return [run for run in report.runs if run.method in ("optg", "intraq")]
