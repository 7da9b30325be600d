"""What the memory costs, measured: the readout, and the race against an RGB point cloud."""
