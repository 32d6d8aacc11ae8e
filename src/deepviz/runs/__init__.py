"""Items in, outcomes out: one runner for explanations, metrics, randomisation and checks."""
