"""What came out: explanations and their files."""
