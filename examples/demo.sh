#!/usr/bin/env bash
# The whole mission on a laptop: phantom CT scans go in, a backbone comes out, is measured, served and answers.
#
#   make demo                   about 32 phantoms and 8 held out
#   make demo SCANS=FOLDER      real scans as well, in the same lake (collection "real")
#
# Every stage reads the lake and writes the lake, so killing this script and running it again goes on where it was.
# All it writes lies in $DEMO (default ./demo) and in a temporary folder for Ray, which is removed.
set -euo pipefail

DEMO=${DEMO:-demo}
SCANS=${SCANS:-}
PORT=${PORT:-8117}
mkdir -p "$DEMO/results"
export SEMGEN_LAKE="$DEMO/lake" SEMGEN_LAKE_KEY_FILE="$DEMO/lake.key"
[ -f "$SEMGEN_LAKE_KEY_FILE" ] || (umask 077 && head -c 32 /dev/urandom >"$SEMGEN_LAKE_KEY_FILE")

# stage NAME COMMAND...: run one command, keep its JSON in results/NAME.json and its seconds in results/NAME.seconds
stage() {
    local name=$1 started=$SECONDS
    shift
    echo "--- $name: semgen-platform $*" >&2
    semgen-platform "$@" --json >"$DEMO/results/$name.json.part"
    mv "$DEMO/results/$name.json.part" "$DEMO/results/$name.json"
    echo $((SECONDS - started)) >"$DEMO/results/$name.seconds"
}

# made NAME FIELD: what a stage made, from its JSON. "latest" would be wrong for a stage that found its work done.
made() {
    python -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$DEMO/results/$1.json" "$2"
}

# One Ray for all stages, in a process group of its own, ended as that group.
ray_folder=$(mktemp -d /tmp/sgXXXX)
ray_group=
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    [ -z "$ray_group" ] || kill -TERM -- "-$ray_group" 2>/dev/null || true
    [ -z "$ray_group" ] || wait "$ray_group" 2>/dev/null || true
    [ -z "$ray_group" ] || kill -KILL -- "-$ray_group" 2>/dev/null || true
    rm -rf "$ray_folder"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

ray_port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
setsid ray start --head --block --node-ip-address=127.0.0.1 --port="$ray_port" --num-cpus=4 --include-dashboard=false \
    --object-store-memory=200000000 --temp-dir="$ray_folder" >"$DEMO/results/ray.log" 2>&1 &
ray_group=$!
export RAY_ADDRESS="127.0.0.1:$ray_port"
for _ in $(seq 60); do
    ray status --address="$RAY_ADDRESS" >/dev/null 2>&1 && break
    sleep 1
done
semgen-platform lake init >/dev/null

# 1. Scans. The held-out patients have other noise and another kernel, and a collection of their own.
stage phantom phantom "$DEMO/phantoms" --patients 32 --seed 7 --format mixed --matrix 160 --workers 2 \
    --set "slice_mm=[2,3]" --set "kernels=[soft,standard]"
stage phantom_held_out phantom "$DEMO/held_out" --patients 8 --seed 7 --matrix 160 --workers 2 --set first_patient=1000 \
    --set "slice_mm=[2,3]" --set "noise_hu=[30,45]" --set "kernels=[sharp]"

# 2. Into the lake, with what the manifest says of each.
stage ingest ingest "$DEMO/phantoms/scans" --collection phantoms --manifest "$DEMO/phantoms/manifest.csv"
stage ingest_held_out ingest "$DEMO/held_out/scans" --collection held-out --manifest "$DEMO/held_out/manifest.csv"
[ -z "$SCANS" ] || stage ingest_real ingest "$SCANS" --collection real --report "$DEMO/results/real.csv"

# 3. An auto-encoder, a vector for every scan, and neighbours.
stage train_encoder train-encoder --recipe demo --collection phantoms
stage embed embed
stage build_index build-index

# 4. Recurring anatomy becomes classes: as published, and aligned in millimetres. The audit knows the phantoms' truth.
for recipe in published aligned; do
    stage "discover_$recipe" discover --recipe "$recipe-demo" --collection phantoms
    stage "audit_$recipe" discoveries audit "$(made "discover_$recipe" discovery_id)" --truth "$DEMO/phantoms/truth"
done

# 5. Pretrain on the aligned patterns, publish, and measure on patients that nothing has seen.
stage pretrain pretrain --recipe tiny --discovery "$(made discover_aligned discovery_id)"
stage publish publish "$(made pretrain run_id)" --name demo
stage evaluate evaluate probe --model demo --collection held-out --truth "$DEMO/held_out/truth"

# 6. Serve, and ask.
echo "--- serve: semgen-platform serve --port $PORT --model demo" >&2
semgen-platform serve --port "$PORT" --model demo &
server=$!
started=$SECONDS
python examples/demo_query.py "http://127.0.0.1:$PORT" "$DEMO/held_out/scans" >"$DEMO/results/query.json"
echo $((SECONDS - started)) >"$DEMO/results/serve.seconds"

semgen-platform lake stats --json >"$DEMO/results/lake.json"
python examples/demo_summary.py "$DEMO"
