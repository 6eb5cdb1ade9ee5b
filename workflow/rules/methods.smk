# `snakemake --cores all optg`: every result of one method, without the report.
for name in PLAN.declarations:

    rule:
        name:
            f"{name}"
        input:
            results_of([run for run in PLAN.runs if run.method == name]),
