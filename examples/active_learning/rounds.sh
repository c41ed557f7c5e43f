#!/usr/bin/env bash
# Label in rounds: is what the network is unsure of worth more than what comes by chance?
#   ./rounds.sh
# Each round lists new objects for labels, and tunes the network of survey A on all labels so far.
set -euo pipefail

accuracy() {  # of the network in a run folder, on galaxies that nothing was learned from
    python -c 'import json, sys
print(json.load(open(sys.argv[1] + "/card.json"))["metrics"]["judges"]["accuracy"]["value"])' "$1"
}

tune() {  # the run folder, then the files of labels
    local run=$1 IFS=,
    shift
    occulta run tune.yaml --set "only=[$*]" --out "$run" >&2
}

by_chance() {  # how many ids of the pool; fewer are always among more
    python -c 'import random, sys
ids = [f"B-{number:07}" for number in range(2400)]
random.Random(0).shuffle(ids)
print("id", *ids[: int(sys.argv[1])], sep="\n")' "$1"
}

occulta run survey.yaml >&2
network=runs/labels/network
before=0
chosen=()
echo "labels,by_mutual_information,at_random"
for labels in 40 80 160 320; do
    occulta run unsure.yaml --set "network=$network" --out "runs/unsure-$labels" >&2
    occulta select "runs/unsure-$labels" --by mutual_information --draw 0 --n $((labels - before)) \
        "${chosen[@]/#/--exclude=}" --out "chosen-$labels.csv" >&2
    before=$labels
    chosen+=("chosen-$labels.csv")
    network=runs/chosen-$labels
    tune "$network" "${chosen[@]}"

    by_chance "$labels" > "random-$labels.csv"
    tune "runs/random-$labels" "random-$labels.csv"

    echo "$labels,$(accuracy "$network"),$(accuracy "runs/random-$labels")"
done
