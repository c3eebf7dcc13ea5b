"""Supervised fine-tuning.

align sft recipes/demo/sft.yaml
accelerate launch recipes/sft.py recipes/demo/sft.yaml --learning_rate 1e-5
"""

import sys

from alignment.training.run import main

if __name__ == "__main__":
    main("sft", sys.argv[1:])
