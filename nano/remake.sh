#!/usr/bin/env bash
# Trains the five nano models from random weights, in about half an hour on two GPUs and 32 cores, longer on one:
#
#   bash nano/remake.sh FOLDER [SCALE]
#
# Clips are rendered on the cores while the GPUs train on those that are finished. Training resumes where it stopped, so
# the script can be killed and called again; generated videos start again. SCALE (default 1) multiplies the number of
# scenes (0.1 is the least that leaves enough to hold out). The model card, assets/nano/README.md, has the results.
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
scale=${2:-1} data=$1/data models=$1/models
mkdir -p "$data" "$models"
other=$(python3 -c "import torch; print(min(1, torch.cuda.device_count() - 1))") # the second GPU, or the same

make() { # folder, task, scenes, seed, instructions of each scene, faults
  local scenes
  scenes=$(python3 -c "print(max(6, int($3 * $scale)))")
  OMP_NUM_THREADS=1 python3 -m simulator make --out "$data/$1" --task "$2" --scenes "$scenes" --seed "$4" \
    --instructions "$5" --faults "$6" --workers "$(nproc)"
}

clips() { # in the order in which they are needed
  make vae-place place 600 31 2 none # for the VAE alone: the base world model is never trained on placing
  make vae-carry carry 150 37 2 none
  make vae-lift lift 100 39 2 none
  touch "$data/for-vae"
  make carry carry 700 38 4 none
  make tour tour 450 33 4 none
  make lift lift 400 32 4 none
  make reach reach 450 34 4 none
  touch "$data/for-world"
  make critic place 450 11 2 4 # with four faults of each clip
  make critic-held place 70 13 1 all
}

rendered() { # wait until these clips exist, unless rendering has stopped
  until [ -e "$data/for-$1" ]; do
    kill -0 "$rendering" 2>/dev/null || [ -e "$data/for-$1" ] || { echo "the clips for the $1 could not be rendered" >&2; return 1; }
    sleep 1
  done
}

rm -f "$data"/for-*
clips &
rendering=$!
CUDA_VISIBLE_DEVICES=$other python3 -m nano.train_text --out "$models"
rendered vae
CUDA_VISIBLE_DEVICES=0 python3 -m nano.train_vae --data "$data"/vae-{place,carry,lift} --out "$models/codec" --clip-steps 5000
ln -sfn codec/vae "$models/vae"

rendered world
CUDA_VISIBLE_DEVICES=0 python3 -m nano.train_world --data "$data"/{carry,tour,lift,reach} --models "$models" --out "$models/base"
python3 -m nano.networks --vae "$models" --text "$models" --transformer "$models/base" --out "$models/world"
wait "$rendering"

# Faults of generated videos look unlike the simulator's, so the critic is trained and measured on generated videos too.
# The two folders are generated side by side.
generate() { # GPU, folder, folder of the first frames, how many scenes, videos of each clip
  CUDA_VISIBLE_DEVICES=$1 python3 -m nano.generate_clips --models "$models/world" --train assets/simulator/train \
    --data "$data/$3" --out "$data/$2" --scenes "$4" --seeds "$5"
}
generate "$other" generated-held critic-held 70 4 &
held=$!
generate 0 generated critic 250 1
wait "$held"
CUDA_VISIBLE_DEVICES=0 python3 -m nano.critic train --data "$data"/{critic,carry,tour,generated} --held-out "$data"/{critic-held,generated-held} \
  --vae "$models/vae" --tokenizer "$models/tokenizer" --out "$models/critic"

python3 -m nano.train_actions clips --work "$data/actions" --workers "$(nproc)"
python3 -m nano.train_actions train --work "$data/actions" --out "$models/actions"
echo "finished: $models/world, $models/critic and $models/actions"
