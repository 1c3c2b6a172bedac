#!/usr/bin/env bash
# Trains the inverse dynamics model, and measures how much generated trajectories improve a policy, in about half an
# hour on two GPUs and 32 cores (an estimate from its parts), longer on one:
#
#   bash nano/policy.sh FOLDER
#
# Clips are rendered on the cores while the GPUs train on those that are finished. It continues when it is called again.
# Results in FOLDER: measured.json and curve.json (policies), decoded.json (inverse dynamics), whole_clip.json.
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
work=$1 cores=$(nproc --all) gpus=$(nvidia-smi -L | wc -l)
mkdir -p "$work"
export OMP_NUM_THREADS=1 # of each process

python3 -m nano.train_actions clips --work "$work" --workers $((cores / 2)) &
other_tasks=$!
python3 -m nano.policy clips --work "$work" --workers $((cores / 2)) &
placing=$!

(
  wait_for() { while kill -0 "$1" 2>/dev/null; do sleep 1; done; } # not a child of this subshell
  wait_for $other_tasks
  export CUDA_VISIBLE_DEVICES=$((gpus - 1))
  python3 -m nano.train_actions train --work "$work" --out "$work/actions"
  python3 -m nano.train_actions measure --work "$work" --model-folder "$work/actions" --workers $((cores / 4))
) &
decoder=$!

until [ -e "$work/photos/manifest.jsonl" ]; do kill -0 $placing; sleep 1; done
export CUDA_VISIBLE_DEVICES=0
python3 -m nano.ablate --models assets/nano/world --train assets/simulator/train --data "$work/photos" \
  --out "$work/tuned" --only "" --scenes 4 --seeds 1 --keep-best
python3 -m nano.policy_videos generate --work "$work" --tuned "$work/tuned/best"
wait $decoder
python3 -m nano.policy_videos decode --work "$work" --model-folder "$work/actions" --workers $((cores - 4))
unset CUDA_VISIBLE_DEVICES
wait $placing
for more in "" --curve; do
  python3 -m nano.policy measure --work "$work" --generated "$work/run/lerobot" --together $((7 * gpus)) --workers 4 $more
done
python3 -m nano.whole_clip --work "$work" --workers $((cores - 4))
