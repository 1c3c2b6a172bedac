"""The command line of the nano critic.

python -m nano.critic init --out assets/nano/critic
python -m nano.critic train --data CLIPS --held-out OTHERS --vae assets/nano/world/vae --out critic
python -m nano.critic measure --critic assets/nano/critic --held-out OTHERS --vae assets/nano/world/vae
"""

import tyro

from cookbook.errors import report_user_errors
from nano.critic_model import init
from nano.critic_training import assess, train

if __name__ == "__main__":
    with report_user_errors():
        tyro.extras.subcommand_cli_from_dict(
            {"init": init, "train": train, "measure": assess}, prog="python -m nano.critic"
        )
