"""How the shipped nano models were made and measured: `nano/remake.sh` is the whole recipe."""
