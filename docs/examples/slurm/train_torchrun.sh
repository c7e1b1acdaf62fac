#!/bin/bash
# Trains with one process per GPU, started by torchrun on each node. Submit it with
#   sbatch --nodes=2 --ntasks-per-node=1 --gpus-per-node=4 train_torchrun.sh
#SBATCH --job-name=train
#SBATCH --cpus-per-task=2
#SBATCH --mem=2G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export HEAD=${TRAIN_MASTER_ADDR:-$HEAD} PORT=${MASTER_PORT:-29500}
srun bash -c 'exec torchrun --nnodes=$SLURM_NNODES --nproc-per-node=${GPUS:-$SLURM_GPUS_ON_NODE} \
    --rdzv-backend=c10d --rdzv-id=$SLURM_JOB_ID --rdzv-endpoint=$HEAD:$PORT "$TRAIN"'
