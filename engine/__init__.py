"""The reading path: turns sound and words into vectors and answers queries. Never imports torch."""
