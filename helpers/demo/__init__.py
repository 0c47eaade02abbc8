"""The embedded world: three checkpoints and held-out clips of CoinRun, and the scripts that made them."""
