# SPDX-License-Identifier: Apache-2.0
"""The main job: a league on one machine, from events to recommendations.

    python simulate.py                                   the demo's league and defaults
    python simulate.py privacy=none strategy=fedadam     another group
    python simulate.py data=files data.events=PATH data.catalogue=PATH
    python simulate.py resume=true                       go on with the newest unfinished run

Exit codes: 0 done, 1 the run failed (one line says why), 2 settings or data are wrong.
"""

import logging
import os
import sys
from typing import NoReturn

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what is wrong instead of printing it and exiting

try:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from rich.console import Console

    from simulation.config import WrongOverride, check_once, explain, register, typed
    from simulation.job import WRONG_INPUT, run_job
    from simulation.settings_help import help_text
except ModuleNotFoundError as absent:
    sys.exit(f"hansa: {absent.name} is not installed: run `make install`, then `. .venv/bin/activate`")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def _hydra_main(settings: DictConfig) -> None:
    try:
        config = typed(settings)
    except WrongOverride as wrong:
        _refuse(wrong)
    sys.exit(run_job(config, Console()))


def _refuse(wrong: WrongOverride) -> NoReturn:
    sys.stderr.write(f"hansa: {wrong}\n")
    sys.exit(WRONG_INPUT)


def main() -> None:
    """Compose the settings and run the job."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    if {"--help", "-h"} & set(sys.argv[1:]):
        sys.stdout.write(help_text(sys.argv[1:]))
        return
    register()
    try:
        check_once(sys.argv[1:])
        _hydra_main()
    except WrongOverride as twice:
        _refuse(twice)
    except HydraException as error:
        _refuse(explain(error, sys.argv[1:]))


if __name__ == "__main__":
    main()
