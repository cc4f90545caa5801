"""The one training loop of teacher and student, and what both need around it."""
