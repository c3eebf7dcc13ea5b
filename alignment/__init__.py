"""Preference alignment on one machine: pt, sft, rm, ppo and dpo as one pipeline."""

__version__ = "0.1.0"
