"""Networks compared with the float network that they were made from, on images without labels."""

from dataclasses import replace

import pandas as pd

from compressbench.reporting.collect import Results
from compressbench.reporting.columns import METHOD, SETTING, STORED, Column, View, bullets, named, render
from compressbench.reporting.frames import of_group
from compressbench.reporting.groups import Group
from compressbench.reporting.statistics import t_interval
from compressbench.reporting.text import NOTHING, interval, number

MEASURES = ("agreement", "kl_divergence", "logits_snr", "top1")


FIDELITY = (
    replace(METHOD, note="Best agreement first. Bold: methods; plain: baselines. Nothing is trained."),
    SETTING,
    Column(
        "agreement",
        lambda view: view.group.header,
        lambda r: interval(r.agreement, r.low, r.high, r.n),
        note="Fidelity, not accuracy: the share of the images for which the largest logit is that of the float network.",
    ),
    Column(
        "kl_divergence",
        "KL, nats",
        lambda r: number(r.kl_divergence, 3),
        note="`KL`: divergence of the predicted distribution from the float network's, the mean over images.",
    ),
    Column(
        "logits_snr",
        "SNR, dB",
        lambda r: number(r.logits_snr, 1),
        note="`SNR`: the float network's logits over their error, of all images together; a dash where they are equal.",
    ),
    Column(
        "top1",
        "top-1, %",
        lambda r: number(r.top1),
        note="`top-1`: accuracy on ImageNet's validation images.",
        shown=lambda view: bool(view.rows.top1.notna().any()),
    ),
    STORED,
)


def fidelity_table(group: Group, results: Results) -> tuple[pd.DataFrame, str]:
    """One row per (method, setting), best agreement first: means over seeds; and its Markdown."""
    own = of_group(results.fidelity, group)
    heading = f"## Fidelity to the float network. {group.title}\n\n"
    rows = []
    for (method, setting), part in own.groupby(["method", "setting"], sort=False):
        agreement = t_interval(part.agreement)
        means = {name: part[name].mean() for name in (*MEASURES, "stored_bytes")}
        rows.append(
            {
                "method": method,
                "setting": setting,
                **means,
                "low": agreement.low,
                "high": agreement.high,
                "n": agreement.n,
            }
        )
    if not rows:
        return pd.DataFrame(columns=["method", "setting", *MEASURES]), heading + NOTHING
    table = pd.DataFrame(rows).sort_values(["agreement", "kl_divergence"], ascending=[False, True], kind="stable")
    text = render(FIDELITY, View(named(table, group), group))
    return table, f"{heading}{text.table}\n\n{bullets(text.notes)}"
