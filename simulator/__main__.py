"""The command line of the simulator: `python -m simulator make` and `python -m simulator show`."""

from __future__ import annotations

from cookbook.errors import UserError, report_user_errors


def main() -> None:
    import tyro

    try:
        from simulator.make import make, show
    except ModuleNotFoundError as error:
        if error.name != "mujoco":
            raise
        from cookbook.doctor import INSTALL

        raise UserError(f"the simulator needs mujoco, which is not installed: {INSTALL}") from None
    tyro.extras.subcommand_cli_from_dict({"make": make, "show": show}, prog="python -m simulator")


if __name__ == "__main__":
    with report_user_errors():
        main()
