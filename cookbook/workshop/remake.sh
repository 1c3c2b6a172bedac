#!/usr/bin/env bash
# Remakes the four nano models from nothing, on one GPU and 16 cores (17 minutes on an H100, once):
#
#   bash cookbook/workshop/remake.sh FOLDER [SCALE]
#
# Every line continues where it stopped, so the whole can be killed and called again. SCALE (default 1) multiplies the
# number of clips (0.1 is the least that leaves enough to hold out). The card, assets/nano/README.md, says what came of it.
set -euo pipefail
scale=${2:-1} data=$1/data models=$1/models
make() { # folder, task, scenes, seed, side of the object-receptacle split, twins
  local scenes
  scenes=$(python3 -c "print(max(3, int($3 * $scale)))")
  cookbook workshop make --out "$data/$1" --task "$2" --clips "$scenes" --seed "$4" --pairs "$5" --twins "$6" --workers "$(nproc)"
}

# Clips. Seeds differ by task, since one seed gives nearly the same scene in each.
make place place 420 31 train none     # for the VAE alone: the base world model never sees a placing
make lift lift 800 32 train none
make tour tour 800 33 train none
make reach reach 450 34 train none
make point point 450 35 train none
make push push 350 36 train none
make critic place 750 11 train 4       # with four twins each
make critic-held place 70 13 held-out all

python3 -m cookbook.workshop.train_text --out "$models"
python3 -m cookbook.workshop.train_vae --data "$data"/{place,lift,tour} --clips 420 --out "$models/codec" --image-steps 1000 --clip-steps 3300
cp -r "$models/codec/vae" "$models/vae"
python3 -m cookbook.workshop.train_world --data "$data"/{lift,tour,reach,point,push} --models "$models" --out "$models/base" --steps 10000
python3 -m cookbook.workshop.nano --vae "$models" --text "$models" --transformer "$models/base" --out "$models/world"
python3 -m cookbook.workshop.dream_clips --models "$models/world" --train assets/workshop/train --data "$data/critic" --out "$data/dreams"
python3 -m cookbook.workshop.critic train --data "$data"/{critic,lift,tour,dreams} --held-out "$data/critic-held" --vae "$models/vae" \
  --tokenizer "$models/tokenizer" --out "$models/critic" --minutes 5.5 --device cuda --batch 32
echo "finished: $models/world and $models/critic"
