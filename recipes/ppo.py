"""PPO against a reward model.

align ppo recipes/demo/ppo.yaml
accelerate launch recipes/ppo.py recipes/demo/ppo.yaml --learning_rate 1e-5
"""

import sys

from alignment.training.run import main

if __name__ == "__main__":
    main("ppo", sys.argv[1:])
