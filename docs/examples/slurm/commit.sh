#!/bin/bash
# Finishes the data set when all jobs of the array have ended well. Submit it with
#   sbatch --dependency=afterok:ARRAY_JOB_ID commit.sh
#SBATCH --job-name=commit
#SBATCH --cpus-per-task=2
#SBATCH --mem=2G
#SBATCH --time=01:00:00
set -eu
neurofm-shards convert -o "$OUT" --commit --validate --workers "$SLURM_CPUS_PER_TASK"
