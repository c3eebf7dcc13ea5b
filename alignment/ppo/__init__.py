"""Proximal policy optimisation on TRL's RLOOTrainer: what TRL had until 1.12."""
