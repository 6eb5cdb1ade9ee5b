"""The typed forms of config/*.yaml and of every method's config.yaml, and their readers; without torch or a method."""

from compressbench.config.forms import (
    Declaration,
    Deployments,
    Frozen,
    ImageFolder,
    Latency,
    MethodConfig,
    MethodScale,
    Pair,
    Pretrained,
    Recipe,
    Scale,
    Setting,
    Workload,
)
from compressbench.config.reading import load_scale, parse, read_yaml

__all__ = [
    "Declaration",
    "Deployments",
    "Frozen",
    "ImageFolder",
    "Latency",
    "MethodConfig",
    "MethodScale",
    "Pair",
    "Pretrained",
    "Recipe",
    "Scale",
    "Setting",
    "Workload",
    "load_scale",
    "parse",
    "read_yaml",
]
