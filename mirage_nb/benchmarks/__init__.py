"""What the memory costs, measured: the readout, growth over laps, and the race against an RGB point cloud."""
