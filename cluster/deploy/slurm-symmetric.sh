#!/bin/bash
#SBATCH --job-name=occulta
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --time=04:00:00
#
# usage: sbatch slurm-symmetric.sh JOB.yaml [options of `occulta run`]
#
# The short way, by `ray symmetric-run`. It ends with `ray stop`, which ends every Ray of this user
# on the node: hence --exclusive.
set -euo pipefail
umask 077

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
port=$((20000 + SLURM_JOB_ID % 2000 * 4))
private=$(mktemp -d "${OCCULTA_SHARED:-$SLURM_SUBMIT_DIR}/.occulta-$SLURM_JOB_ID-XXXXXX")
trap 'rm -rf "$private"' EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$private/token RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_TOKEN RAY_ADDRESS
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH"

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
    ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --include-dashboard=false -- \
    occulta run "$@" --address "$head:$port"
