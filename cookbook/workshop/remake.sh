#!/usr/bin/env bash
# Makes the four nano models from nothing, on one GPU and 16 cores. The shipped ones were made by an earlier version of
# these lines, the last run of these is told in assets/nano/README.md:
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
make vae-place place 1300 31 all none  # for the VAE alone: the base world model never sees a placing
make vae-move move 250 37 all none
make vae-lift lift 150 39 all none
make vae-point point 100 40 all none
make lift lift 1300 32 train none
make tour tour 1300 33 train none
make move move 1300 38 train none      # set down on the bare table: that things can be let go elsewhere
make reach reach 500 34 train none
make point point 500 35 train none
make push push 500 36 train none
make critic place 720 11 train 4       # with four twins each
make critic-held place 70 13 held-out all

python3 -m cookbook.workshop.train_text --out "$models"
python3 -m cookbook.workshop.train_vae --data "$data"/vae-{place,move,lift,point} --out "$models/codec" --image-steps 1000 --clip-steps 5500
cp -r "$models/codec/vae" "$models/vae"
python3 -m cookbook.workshop.train_world --data "$data"/{lift,tour,move,reach,point,push} --models "$models" --out "$models/base" --steps 8000
python3 -m cookbook.workshop.nano --vae "$models" --text "$models" --transformer "$models/base" --out "$models/world"
python3 -m cookbook.workshop.dream_clips --models "$models/world" --train assets/workshop/train --data "$data/critic" --out "$data/dreams"
python3 -m cookbook.workshop.critic train --data "$data"/{critic,lift,tour,dreams} --held-out "$data/critic-held" --vae "$models/vae" \
  --tokenizer "$models/tokenizer" --out "$models/critic" --minutes 5.5 --device cuda --batch 32
echo "finished: $models/world and $models/critic"
