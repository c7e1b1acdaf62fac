#!/bin/bash
# Opens thousands of inputs with a job array, each job a share of them. Submit it with
#   sbatch --array=1-16 plan.sh
# and, when all have ended, join what they found:
#   neurofm-shards convert -o "$OUT" --plan-only --parts 64
#SBATCH --job-name=plan
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=01:00:00
#SBATCH --requeue
set -eu
srun neurofm-shards convert -i "$INPUTS" -o "$OUT" --plan-only --part auto --parts "$SLURM_ARRAY_TASK_COUNT" ${OPTIONS:-}
