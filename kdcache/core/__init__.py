"""The vocabulary that every other folder shares: errors, types, settings, order, results. No torch."""
