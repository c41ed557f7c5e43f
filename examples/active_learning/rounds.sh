#!/usr/bin/env bash
# Label in rounds: is what the network is unsure of worth more than what comes by chance?
#   ./rounds.sh
# It begins with 100 labels by chance, 60 of which decide when to stop. Each round lists objects for
# more labels, and tunes the network of survey A on all labels so far, three times.
set -euo pipefail

tune() {  # the run folder, then the files of labels
    local run=$1 IFS=,
    shift
    occulta run tune.yaml --set "also_train=[$*]" --out "$run" >&2
}

accuracy() {  # mean of a run's fits, on galaxies that nothing was learned from
    python -c 'import json, pathlib, statistics, sys
cards = pathlib.Path(sys.argv[1]).glob("fits/*/card.json")
print(round(statistics.mean(
    json.loads(card.read_text())["metrics"]["judges"]["accuracy"]["value"] for card in cards
), 3))' "$1"
}

by_chance() {  # ids of the pool in an order by chance: from which to which
    python -c 'import random, sys
ids = [f"B-{number:07}" for number in range(2400)]
random.Random(0).shuffle(ids)
print("id", *ids[int(sys.argv[1]) : int(sys.argv[2])], sep="\n")' "$@"
}

occulta run survey.yaml >&2
by_chance 0 100 > first.csv
tune runs/chosen-40
echo "labels,by_mutual_information,at_random"
echo "40,$(accuracy runs/chosen-40),$(accuracy runs/chosen-40)"

before=40
chosen=()
for labels in 80 160 320; do
    network=runs/chosen-$before/fits/0000
    occulta run unsure.yaml --set "network=$network" --out "runs/unsure-$labels" >&2
    occulta select "runs/unsure-$labels" --by mutual_information --n $((labels - before)) \
        --exclude first.csv "${chosen[@]/#/--exclude=}" --out "chosen-$labels.csv" >&2
    chosen+=("chosen-$labels.csv")
    tune "runs/chosen-$labels" "${chosen[@]}"

    by_chance 100 $((60 + labels)) > "random-$labels.csv"
    tune "runs/random-$labels" "random-$labels.csv"

    echo "$labels,$(accuracy "runs/chosen-$labels"),$(accuracy "runs/random-$labels")"
    before=$labels
done
