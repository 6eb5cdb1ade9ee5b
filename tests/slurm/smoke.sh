#!/bin/sh
# The smoke scale on a Slurm of one node: PATH=.venv/bin:$PATH tests/slurm/smoke.sh [what --config may say, such as 'methods=[snip,dense]']
# Results that are there already are not made again: use a fresh copy of the project for a whole run.
set -eu
folder=/tmp/compressbench-slurm
here=$(dirname "$0")
python -c 'import snakemake_executor_plugin_slurm' 2> /dev/null || {
  echo "error: the plugin is missing; pip install '.[slurm]'" >&2
  exit 2
}
trap '"$here/one_node.sh" stop $folder' EXIT
"$here/one_node.sh" start $folder
start=$(date +%s)
python -m snakemake --profile workflow/profiles/slurm --resources "lane=$(nproc)" machine=1 --config scale=smoke "$@"
echo "smoke on Slurm: $(($(date +%s) - start)) s"
