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

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

try:
    import hydra
    from omegaconf import DictConfig, OmegaConf
    from rich.console import Console

    from simulation.config import Config, register
    from simulation.job import run_job
except ModuleNotFoundError as absent:
    sys.exit(f"hansa: {absent.name} is not installed: run `make install`, then `. .venv/bin/activate`")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def _hydra_main(settings: DictConfig) -> None:
    config = OmegaConf.to_object(settings)
    assert isinstance(config, Config)
    sys.exit(run_job(config, Console()))


def main() -> None:
    """Compose the settings and run the job."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    register()
    _hydra_main()


if __name__ == "__main__":
    main()
