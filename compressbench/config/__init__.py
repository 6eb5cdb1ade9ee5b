"""The typed forms of config/*.yaml and of every method's config.yaml, and what reads them; without torch or a method."""

from compressbench.config.forms import (
    Declaration,
    Frozen,
    ImageFolder,
    Latency,
    MethodConfig,
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
    "Frozen",
    "ImageFolder",
    "Latency",
    "MethodConfig",
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
