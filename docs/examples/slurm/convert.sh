#!/bin/bash
# Converts with a job array: each job writes one part of the shards. Submit it with
#   neurofm-shards convert -i "$INPUTS" -o "$OUT" --plan-only --parts 64
#   sbatch --array=1-64 convert.sh
# and repeat what failed, for example
#   sbatch --array=3,7 convert.sh
#SBATCH --job-name=convert
#SBATCH --cpus-per-task=2
#SBATCH --mem=2G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu
srun neurofm-shards convert -o "$OUT" --part auto --workers "$SLURM_CPUS_PER_TASK"
