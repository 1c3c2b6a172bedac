#!/usr/bin/env bash
# Trains the four nano models from random weights, in about 45 minutes on two GPUs and 32 cores, longer on one:
#
#   bash nano/remake.sh FOLDER [SCALE]
#
# Clips are rendered on the cores while the GPUs train on those that are finished. Every line resumes where it stopped,
# except that the generated videos start again, so the script can be killed and called again. SCALE (default 1)
# multiplies the number of clips (0.1 is the least that leaves enough to hold out). The model card,
# assets/nano/README.md, has the results.
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
scale=${2:-1} data=$1/data models=$1/models
mkdir -p "$data" "$models"
other=$(python3 -c "import torch; print(min(1, torch.cuda.device_count() - 1))") # the second GPU, or the same

make() { # folder, task, scenes, seed, side of the object-receptacle split, faults
  local scenes
  scenes=$(python3 -c "print(max(3, int($3 * $scale)))")
  python -m simulator make --out "$data/$1" --task "$2" --clips "$scenes" --seed "$4" --pairs "$5" --faults "$6" --workers "$(nproc)"
}

clips() { # in the order in which they are needed; seeds differ by task, since one seed gives nearly the same scene in each
  make vae-place place 1300 31 all none # for the VAE alone: the base world model is never trained on placing
  make vae-move move 250 37 all none
  make vae-lift lift 150 39 all none
  make vae-point point 100 40 all none
  touch "$data/for-vae"
  make lift lift 2000 32 train none
  make tour tour 2000 33 train none
  make move move 1300 38 train none # set down on the bare table: teaches that things can be released elsewhere
  make reach reach 500 34 train none
  make point point 500 35 train none
  make push push 500 36 train none
  touch "$data/for-world"
  make critic place 1440 11 train 4 # with four faults each
  make critic-held place 70 13 held-out all
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
python3 -m nano.train_vae --data "$data"/vae-{place,move,lift,point} --out "$models/codec" --image-steps 1000 --clip-steps 5500 --minutes 60
ln -sfn codec/vae "$models/vae"

rendered world
python3 -m nano.train_world --data "$data"/{lift,tour,move,reach,point,push} --models "$models" --out "$models/base" --steps 8000 --minutes 60
# The last steps leave `move` out, after which the base sets nothing down elsewhere: post-training teaches that.
python3 -m nano.train_world --data "$data"/{lift,tour,reach,push} --models "$models" --start "$models/base" --out "$models/last" \
  --steps 120 --batch 6 --learning-rate 3e-4 --warmup 20 --ema-decay 0.97
python3 -m nano.networks --vae "$models" --text "$models" --transformer "$models/last" --out "$models/world"
wait "$rendering"

# Faults of generated videos look unlike the simulator's, so the critic is trained and measured on generated videos too.
# The two folders are generated side by side.
generate() { # GPU, folder, folder of the first frames, how many of them, videos of each
  CUDA_VISIBLE_DEVICES=$1 python3 -m nano.generate_clips --models "$models/world" --train assets/simulator/train \
    --data "$data/$3" --out "$data/$2" --prompts "$4" --seeds "$5"
}
generate "$other" generated-held critic-held 70 4 &
held=$!
generate 0 generated critic 720 1
wait "$held"
# It stops at half of the schedule: beyond it the critic overfits these videos, and ranks new ones worse.
python3 -m nano.critic train --data "$data"/{critic,lift,tour,generated} --held-out "$data"/{critic-held,generated-held} \
  --vae "$models/vae" --tokenizer "$models/tokenizer" --out "$models/critic" --minutes 12 --budget 6 --device cuda --batch 64
echo "finished: $models/world and $models/critic"
