#!/bin/bash
# Trains with one process per GPU, started by srun; goes on from its checkpoint when it was preempted and requeued.
# Submit it with
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-task=1 train_srun.sh
#SBATCH --job-name=train
#SBATCH --cpus-per-task=2
#SBATCH --mem=2G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR=${TRAIN_MASTER_ADDR:-$MASTER_ADDR}
export MASTER_PORT=${MASTER_PORT:-29500}
srun --kill-on-bad-exit=1 bash -c 'RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID exec python "$TRAIN"'
