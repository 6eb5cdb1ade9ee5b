"""The contract of a method: its input (`Context`), its interface (`Method`), and the tasks."""

from compressbench.config import MethodConfig
from compressbench.method.base import FLOAT, Deployment, Method, PublishedCount
from compressbench.method.context import Context

__all__ = ["FLOAT", "Context", "Deployment", "Method", "MethodConfig", "PublishedCount"]
