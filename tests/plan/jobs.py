"""A job that compresses a dense model, and the job that trained it."""

from dataclasses import replace

from compressbench.config import Recipe, Workload
from compressbench.plan import Job, Run

RUN = Run("smoke", "digits", "plain_mini", "optg", "p95", 3)
WORKLOAD = Workload(architecture="plain", pretrain=Recipe(epochs=1, lr=0.1))
PRETRAIN = Job(replace(RUN, method="", setting=""), "pretrain", WORKLOAD, "cpu", "digits", data_hash="1")
COMPRESS = Job(RUN, "compress", WORKLOAD, "cpu", "digits", data_hash="1", inputs={"dense": PRETRAIN})
