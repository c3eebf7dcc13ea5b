"""Direct preference optimisation.

align dpo recipes/demo/dpo.yaml
accelerate launch recipes/dpo.py recipes/demo/dpo.yaml --learning_rate 1e-5
"""

import sys

from alignment.training.run import main

if __name__ == "__main__":
    main("dpo", sys.argv[1:])
