"""Kahneman-Tversky optimisation.

align kto recipes/demo/kto.yaml
accelerate launch recipes/kto.py recipes/demo/kto.yaml --learning_rate 1e-5
"""

import sys

from alignment.training.run import main

if __name__ == "__main__":
    main("kto", sys.argv[1:])
