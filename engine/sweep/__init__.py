"""Jobs of a sweep and what they came to: leaderboard, study, launchers. It knows runs by their files, no network."""
