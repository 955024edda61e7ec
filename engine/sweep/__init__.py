"""Jobs of a sweep and what they came to: leaderboard, study, GPU slots. It knows runs by their files, no network."""
