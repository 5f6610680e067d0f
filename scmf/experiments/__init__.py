"""What is composed of runs and scores: reproductions, regression checks, grids, the leaderboard."""
