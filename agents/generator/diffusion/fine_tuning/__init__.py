"""Learning from a campaign: reward-weighted denoising with replay of what the parent draws."""
