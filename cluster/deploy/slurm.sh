#!/bin/bash
#SBATCH --job-name=occulta
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#
# usage: sbatch slurm.sh JOB.yaml [options of `occulta run`]
#
# A Ray cluster for one job: a head and workers on the nodes of the allocation, with a token and
# ports of their own, so that nodes may be shared with other jobs. Adapt the lines above; activate
# the environment that has occulta before sbatch, which passes it on.
set -euo pipefail
umask 077

nodes=$SLURM_JOB_NUM_NODES
cpus=${SLURM_CPUS_PER_TASK:-1}
port=$((20000 + SLURM_JOB_ID % 2000 * 4))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)

# Every node must see the token, and nobody else.
private=$(mktemp -d "${OCCULTA_SHARED:-$SLURM_SUBMIT_DIR}/.occulta-$SLURM_JOB_ID-XXXXXX")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$private/token RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_TOKEN RAY_ADDRESS
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH"

steps=()
finish() {
    kill "${steps[@]}" 2> /dev/null || true
    wait "${steps[@]}" 2> /dev/null || true
    rm -rf "$private"
}
trap finish EXIT

address=$(srun --overlap --nodes=1 --ntasks=1 -w "$head" hostname -I)
address=${address%% *}:$port

srun --overlap --nodes=1 --ntasks=1 -w "$head" ray start --head --block \
    --node-ip-address="${address%:*}" --port="$port" --num-cpus="$cpus" \
    --ray-client-server-port=$((port + 1)) --dashboard-agent-listen-port=$((port + 2)) \
    --min-worker-port=0 --max-worker-port=0 \
    --include-dashboard=false --temp-dir="/tmp/occulta-$SLURM_JOB_ID" &
steps+=($!)
if ((nodes > 1)); then
    srun --overlap --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --exclude="$head" \
        bash -c 'for try in {1..60}; do
            : < "/dev/tcp/${1%:*}/${1#*:}" && break || sleep 2
        done 2> /dev/null
        exec ray start --block --address="$1" --num-cpus="$2" \
            --dashboard-agent-listen-port="$3" --min-worker-port=0 --max-worker-port=0
        ' worker "$address" "$cpus" $((port + 3)) &
    steps+=($!)
fi

# The driver waits for all nodes; `wait` lets the trap run when Slurm asks for an end.
srun --overlap --nodes=1 --ntasks=1 -w "$head" bash -c '
    python -P -m cluster.nodes "$1" "$2" && exec occulta run "${@:3}" --address "$1"
    ' driver "$address" "$nodes" "$@" &
driver=$!
trap 'kill -TERM $driver' TERM INT
code=0
wait $driver || code=$?
if ((code > 128)); then wait $driver || code=$?; fi
exit $code
