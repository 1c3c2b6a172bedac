"""How the shipped nano models are trained and measured: `nano/remake.sh` is the whole recipe. Runs from a checkout."""
