"""A reward model from preferences.

align rm recipes/demo/rm.yaml
accelerate launch recipes/rm.py recipes/demo/rm.yaml --learning_rate 1e-5
"""

import sys

from alignment.training.run import main

if __name__ == "__main__":
    main("rm", sys.argv[1:])
