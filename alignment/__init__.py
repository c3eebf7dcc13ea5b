"""Preference alignment on one machine, stage by stage or as one pipeline."""

import os

__version__ = "0.1.0"

# Libraries read these variables on import; values that the user set are kept.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
