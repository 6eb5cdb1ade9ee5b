"""The shape of a method: what it gets (`Context`), what it gives (`Method`), and the tasks that it is measured on."""

from compressbench.config import MethodConfig
from compressbench.method.base import FLOAT, Deployment, Method, PublishedCount, Structure
from compressbench.method.context import Context

__all__ = ["FLOAT", "Context", "Deployment", "Method", "MethodConfig", "PublishedCount", "Structure"]
