"""The demo: a bilingual front desk whose answers a rule can judge, and the data that teach it."""
