"""The demo: a bilingual front desk, its training data, and a rule that judges its answers."""
