"""Continued pre-training on plain text.

align pt recipes/demo/pt.yaml
accelerate launch recipes/pt.py recipes/demo/pt.yaml --learning_rate 1e-5
"""

import sys

from alignment.training.run import main

if __name__ == "__main__":
    main("pt", sys.argv[1:])
